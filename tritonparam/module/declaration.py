"""Declarations: what each tensor of a module is to hold, before any of it exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from tritonparam.module.deferred import recording_paused
from tritonparam.module.draw_sources import DrawSources
from tritonparam.module.replay import Replay
from tritonparam.module.source import Source
from tritonparam.module.tape import Draw, History, Node, Piece, Version, is_written, recognize, slice_of
from tritonparam.module.walk import Found, raise_unwritten, walk
from tritonparam.plan import Box, Fill, View, box_in
from tritonparam.stream import Law


@dataclass(frozen=True, slots=True)
class BoxLaw:
    """A box of a tensor (its offsets and sizes, dimension by dimension) and the law of its elements.

    Examples:
        >>> from tritonparam import Constant
        >>> BoxLaw((0, 0), (1, 8), Constant(0.0))
        BoxLaw(offsets=(0, 0), sizes=(1, 8), law=Constant(value=0.0))
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    law: Law


@dataclass(frozen=True, eq=False)
class Declaration:
    """One tensor of a module: what it is called and what it holds, or will hold once it is made.

    Attributes:
        name: Its fully qualified name, the first if it has several. Its values depend on it.
        aliases: Its further names, of tied parameters or buffers.
        kind: "parameter" or "buffer".
        persistent: Whether it is part of the state dict, by any of its names.
        saved_names: Those names.
        dtype: The dtype it was made with.
        shape: Its shape.
        laws: Disjoint boxes that cover it, in order, with their laws; None where its values come from replaying what
            was done to it, or are there already.
        tensors: The tensor objects of the module that show it.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    persistent: bool
    dtype: torch.dtype
    shape: tuple[int, ...]
    laws: tuple[BoxLaw, ...] | None
    tensors: tuple[torch.Tensor, ...] = field(repr=False)
    history: History | None = field(repr=False)
    view: View = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    sources: Mapping[Draw | Node, Source] = field(repr=False)
    saved_names: tuple[str, ...] = field(repr=False)

    def fills(self, out: torch.Tensor, seed: int, box: Box | None = None) -> list[Fill]:
        """The operations that write the values into `out`, at most one for each of `laws`.

        Args:
            out: A tensor of this shape, or of that of the box, of any floating-point dtype where the laws are random.
            seed: 0 <= seed < 2**64.
            box: Which box of the tensor `out` is; None for all of it.

        Raises:
            ValueError: There are no laws, `out` has another shape, or box does not lie in the tensor, or cuts values
                that were drawn in another shape.
        """
        if self.laws is None:
            raise ValueError(f"{self.name} has no laws: its values come from replay")
        wanted = Box.whole(self.shape) if box is None else box_in("box", box, self.shape)
        if tuple(out.shape) != wanted.sizes:
            raise ValueError(f"out must have the shape {wanted.sizes} of {self.name}, got {tuple(out.shape)}")
        fills = []
        for piece, source in zip(self.pieces, self.piece_sources(), strict=True):
            hit = piece.box.meet(wanted)
            if hit is None:
                continue
            part, law = hit.within(wanted).of(out), piece.drawn.law
            if source is None:
                fills.append(Fill(part, law))
            else:
                fills.append((source if hit == piece.box else source.cut(hit.within(piece.box))).fill(part, law, seed))
        return fills

    def piece_sources(self) -> list[Source | None]:
        """Where the values of each of `laws` come from; None for constants."""
        return [piece.drawn.source(self.sources) for piece in self.pieces]

    def replay(self, seed: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """The values, by doing again on the host whatever leads to them, as a new tensor of `dtype` on `device`.

        Args:
            seed: 0 <= seed < 2**64. Values that are there already do not depend on it.
            device: Where the tensor is to be. It changes no value.
        """
        with recording_paused(), torch.inference_mode(False), torch.no_grad():
            if self.history is None:
                return self.tensors[0].detach().to(device, copy=True)
            if self.history.head is None:
                return torch.empty(self.shape, dtype=self.dtype, device=device)
            (storage,) = Replay(seed, self.sources).run([self.history.head])
            return self.view.on(storage).to(device)


def declarations(module: torch.nn.Module) -> list[Declaration]:
    """What every parameter and buffer of `module` holds, or will hold; nothing is allocated or changed.

    Parameters come first, then buffers, both in the order of the module. Tensors that show the same elements of one
    storage are one declaration with several names. Those that were not deferred are listed too: `replay` copies them.

    Args:
        module: A module built inside `deferred_init`, all of it or in part.

    Raises:
        TypeError: `module` is not a torch.nn.Module.
        ValueError: Tensors were never written, or are on the meta device without being deferred; the error names them.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     model = torch.nn.LayerNorm(3)
        >>> [(each.name, each.laws[0].law) for each in declarations(model)]
        [('weight', Constant(value=1.0)), ('bias', Constant(value=0.0))]
    """
    found = declared(module)
    check_written(found)
    return found


def declared(module: torch.nn.Module, *, uninitialized: bool = False) -> list[Declaration]:
    """`declarations`, with what was never written among them: its values have to come from elsewhere."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {module!r} of type {type(module).__name__}")
    with recording_paused():
        found = walk(module, uninitialized=uninitialized)
        pieces = [_pieces(each) for each in found]
        sources = DrawSources()
        for each, known in zip(found, pieces, strict=True):
            sources.key_held(each.names[0], each.view.shape, known or ())
        for each, known in zip(found, pieces, strict=True):
            if known is None and each.history is not None and each.history.head is not None:
                sources.key_replayed(each.names[0], each.history.head)
        return [_declaration(each, known, sources) for each, known in zip(found, pieces, strict=True)]


def _declaration(found: Found, pieces: list[Piece] | None, sources: DrawSources) -> Declaration:
    laws = None
    if pieces is not None:
        laws = tuple(BoxLaw(piece.box.offsets, piece.box.sizes, piece.drawn.law) for piece in pieces)
    return Declaration(
        name=found.names[0],
        aliases=tuple(found.names[1:]),
        kind=found.kind,
        persistent=bool(found.saved_names),
        dtype=found.view.dtype,
        shape=found.view.shape,
        laws=laws,
        tensors=tuple(found.tensors.values()),
        history=found.history,
        view=found.view,
        pieces=tuple(pieces or ()),
        sources=sources.found,
        saved_names=tuple(found.saved_names),
    )


def _pieces(found: Found) -> list[Piece] | None:
    """The boxes with laws that a tensor consists of; None where it has to be replayed or is real."""
    if found.history is None:
        return None
    return recognize(found.history.head, found.view)


def check_written(declared: Iterable[Declaration]) -> None:
    """Refuse tensors some of whose elements were never written.

    Raises:
        ValueError: There are some; it names them.
    """
    unwritten = []
    for each in declared:
        if each.history is None or each.laws is not None:
            continue
        head = each.history.head
        if not is_written(head, each.view) or (head is not None and _reads_unwritten(head)):
            unwritten.append(each.name)
    raise_unwritten(unwritten)


def _reads_unwritten(head: Version) -> bool:
    return any(isinstance(step, Node) and step.reads_unwritten for step in slice_of([head])[1])
