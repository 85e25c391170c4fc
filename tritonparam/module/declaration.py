"""Declarations: what each tensor of a module is to hold, before any of it exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn.modules.batchnorm import _NormBase

from tritonparam._arguments import got
from tritonparam.module.blueprint import forget, origin_of
from tritonparam.module.full_names import DrawSources, Keyed, drawn_on_the_way, keep, kept, whole_of
from tritonparam.module.recording import check_unseen_writes, recording_paused
from tritonparam.module.replay import Replay, is_defined, naming
from tritonparam.module.source import Source
from tritonparam.module.tape import Draw, History, Node, Piece
from tritonparam.module.traversal import Scripts
from tritonparam.module.walk import Found, walk, with_missing
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


@dataclass(frozen=True, eq=False, slots=True)
class Declaration:
    """One tensor of a module: what it is called and what it holds, or will hold once it is made.

    Attributes:
        name: Its name in the module that was given, the first if it has several. Its values depend on its full name:
            the one in the whole that the module was built in as a part.
        aliases: Its further names, of tied parameters or buffers.
        kind: "parameter", "buffer", or "attribute" for a deferred tensor that the module holds in another way.
        persistent: Whether it is part of the state dict, by any of its names.
        saved_names: Those names.
        dtype: The dtype it was made with.
        keeps_dtype: Whether the argument `dtype` of `materialize` and `load` leaves it alone: it is not floating-point,
            or a buffer for which the constructor named a dtype.
        shape: Its shape.
        laws: Disjoint boxes that cover it, in order, with their laws; None where its values come from replaying what
            was done to it, or are there already.
        tensors: The tensor objects of the module that show it.
        stand_ins: Those that stand in their place and have no values yet, such as DTensors.
        stood_for: The names of each of those.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    persistent: bool
    dtype: torch.dtype
    shape: tuple[int, ...]
    laws: tuple[BoxLaw, ...] | None
    tensors: tuple[torch.Tensor, ...] = field(repr=False)
    stand_ins: tuple[torch.Tensor, ...] = field(repr=False)
    stood_for: tuple[tuple[str, ...], ...] = field(repr=False)
    history: History | None = field(repr=False)
    view: View = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    sources: Mapping[Draw | Node, Source] = field(repr=False)
    saved_names: tuple[str, ...] = field(repr=False)
    full_names: tuple[str, ...] = field(repr=False)
    keeps_dtype: bool = field(repr=False)

    def dtype_in(self, dtype: torch.dtype | None) -> torch.dtype:
        """The dtype that it has in a module made with the argument `dtype`."""
        return self.dtype if dtype is None or self.keeps_dtype else dtype

    def fills(self, out: torch.Tensor, seed: int, box: Box | None = None) -> list[Fill]:
        """The operations that write the values into `out`, at most one for each of `laws`.

        Args:
            out: A tensor of this shape, or of that of the box, of any floating-point dtype where the laws are random.
            seed: 0 <= seed < 2**64.
            box: Which box of the tensor `out` is; None for all of it.

        Raises:
            ValueError: There are no laws, `out` has another shape, or box does not lie in the tensor, or cuts values
                that are part of what was drawn in another shape.
        """
        if self.laws is None:
            raise ValueError(f"{self.name} has no laws: its values come from replay")
        wanted = Box.whole(self.shape) if box is None else box_in("box", box, self.shape)
        if tuple(out.shape) != wanted.sizes:
            raise ValueError(f"out must have the shape {wanted.sizes} of {self.name}, got {tuple(out.shape)}")
        fills = []
        for piece, source in zip(self.pieces, self.piece_sources(), strict=True):
            hit = wanted if piece.box == wanted else piece.box.meet(wanted)
            if hit is None:
                continue
            part, law = out if hit is wanted else hit.within(wanted).of(out), piece.drawn.law
            if source is None:
                fills.append(Fill(part, law))
            else:
                own = source if hit == piece.box else source.reshaped(piece.box.sizes).cut(hit.within(piece.box))
                fills.append(own.fill(part, law, seed))
        return fills

    def whole_draw(self) -> tuple[Law, Source | None] | None:
        """The law of all values, and where they come from if they are all of a keyed tensor; None where it is not so.

        Of constants there is no source.
        """
        if len(self.pieces) != 1 or self.pieces[0].box.sizes != self.shape:
            return None
        drawn = self.pieces[0].drawn
        if drawn.draw is None:
            return drawn.law, None
        if drawn.reshaped or not drawn.elements.are_all_of(self.shape):
            return None
        source = drawn.source(self.sources)
        return (drawn.law, source) if source is not None and source.are_all_of(self.shape) else None

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
            if self.history.head is None or not self.view.numel:
                return torch.empty(self.shape, dtype=self.dtype, device=device)
            with naming([(self.name, self.history.head)]):
                (storage,) = Replay(seed, self.sources).run([self.history.head])
            return self.view.on(storage).to(device)


def declarations(module: torch.nn.Module) -> list[Declaration]:
    """What every parameter and buffer of `module` holds, or will hold; nothing is allocated or changed.

    Parameters come first, then buffers, then attributes, each in the order of the module. Tensors that show the same
    elements of one storage are one declaration with several names. Parameters and buffers that were not deferred are
    listed too: `replay` copies them.

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
    check_module(module)
    found = declared(module)
    check_written(found)
    return found


def check_module(module: object) -> None:
    """Refuse what is no module.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, {got(module)}")


def declared(module: torch.nn.Module, prefix: str | None = None) -> list[Declaration]:
    """`declarations`, with what was never written among them: its values have to come from elsewhere."""
    return surveyed(module, prefix).own


@dataclass(frozen=True)
class Survey:
    """A module, and the whole that it is a part of.

    Attributes:
        own: What the module declares.
        beyond: What other parts of the whole declare about storages that the module's tensors show too.
        whole: The whole; the module itself where there is none.
        keyed: What was decided about the whole.
        scripts: What the module has of TorchScript.
    """

    own: list[Declaration]
    beyond: list[Declaration]
    whole: torch.nn.Module
    keyed: Keyed
    scripts: Scripts

    def settle(self) -> None:
        """Keep what was decided while some of the whole is deferred, so that no value depends on what came first."""
        keep(self.whole, self.keyed if forget(self.whole) else None)


def surveyed(module: torch.nn.Module, prefix: str | None = None, *, uninitialized: bool = False) -> Survey:
    """What `module` declares, under the full names that it has; nothing is allocated or changed.

    Args:
        module: Any module.
        prefix: What its names come after, with a dot; None for `full_prefix`.
        uninitialized: As for `walk`.
    """
    with recording_paused():
        whole, path = whole_of(module)
        if prefix is not None and prefix != path:
            whole, path = module, prefix
        scripts = Scripts()
        before = path if whole is module else ""
        found = walk(module, uninitialized=uninitialized, scripts=scripts, before=path)
        check_unseen_writes((each.names[0], each.history) for each in found if each.history is not None)
        known, everything = kept(whole, before), found
        storages = {each.history.key for each in found if each.history is not None}
        is_known = known is not None and not storages & known.spread and _is_keyed(found, known)
        if whole is not module and storages and not is_known:
            try:
                everything = walk(whole, uninitialized=True, before=before)
            except ValueError:  # of parts that are none of the caller's business
                whole, before = module, path
        is_cut = whole is module and not path and prefix is None
        origin = origin_of(module) if is_cut and not is_known else None
        if origin is not None and (cut_from := origin.module()) is not None and (decided := kept(cut_from, "")):
            known = Keyed(before, known.sources | decided.sources if known else decided.sources)
        keyed = (
            known
            if known is not None and is_known
            else _keyed(with_missing(everything, whole, before, origin), known or Keyed(before), prefix is None)
        )
        own = {tensor for each in found for tensor in each.tensors}
        beyond = [
            each
            for each in everything
            if each.history is not None and each.history.key in storages and not own.issuperset(each.tensors)
        ]
        kinds = _Kinds(module, found, whole, beyond)
        return Survey(
            [_declaration(each, keyed, kinds) for each in found],
            [_declaration(each, keyed, kinds) for each in beyond],
            whole,
            keyed,
            scripts,
        )


def _is_keyed(found: Iterable[Found], keyed: Keyed) -> bool:
    """Whether it was decided before where everything comes from that is drawn in `found`."""
    heads = [each.history.head for each in found if each.history is not None]
    return all(draw in keyed.sources for head in heads if head is not None for draw in drawn_on_the_way(head))


def _keyed(found: list[Found], known: Keyed, follow: bool) -> Keyed:
    """Where everything comes from that is drawn in `found`.

    With `follow`, draws that other modules have too, which are real by now, are as they are there.
    """
    sources = DrawSources(known.sources, follow)
    for each in found:
        sources.key_held(each.full_names[0], each.view.shape, each.pieces or ())
    for each in found:
        if each.pieces is None and each.history is not None and each.history.head is not None:
            sources.key_replayed(each.full_names[0], each.history.head)
    for each in found:  # what else a storage has may be shown elsewhere
        if each.history is not None and each.history.head is not None and not each.view.fills(each.history.head.nbytes):
            sources.key_replayed(each.full_names[0], each.history.head)
    names: dict[int, tuple[str, ...]] = {}
    shown: Counter[int] = Counter()
    for each in found:
        if each.history is not None:
            key = each.history.key
            names[key] = (*names.get(key, ()), *each.full_names)
            shown[key] += len(each.tensors)
    spread = frozenset(key for key, count in shown.items() if count > 1)
    return Keyed(known.prefix, sources.found, known.names | names, known.spread | spread)


class _Kinds:
    """Which deferred storages keep their dtype: those whose dtype the constructor named, and only buffers show.

    The running statistics of torch's norms go with their weights, with which they are used.
    """

    def __init__(
        self, module: torch.nn.Module, found: Iterable[Found], whole: torch.nn.Module, beyond: Iterable[Found]
    ) -> None:
        self._cast: set[int] = set()
        for owner, group in ((module, found), (whole, beyond)):
            for each in group:
                history = each.history
                if history is not None and (
                    each.kind == "parameter" or not history.names_dtype or _is_statistic(owner, each.names[0])
                ):
                    self._cast.add(history.key)

    def keeps(self, each: Found) -> bool:
        """Whether the dtype of a tensor stays."""
        if not each.view.dtype.is_floating_point:
            return True
        return each.history is not None and each.history.key not in self._cast


def _is_statistic(module: torch.nn.Module, name: str) -> bool:
    path, _, local = name.rpartition(".")
    if local not in ("running_mean", "running_var"):
        return False
    try:
        return isinstance(module.get_submodule(path), _NormBase)
    except AttributeError:  # an attribute's path
        return False


def _declaration(found: Found, keyed: Keyed, kinds: _Kinds) -> Declaration:
    pieces = found.pieces
    laws = None
    if pieces is not None:
        laws = tuple(BoxLaw(piece.box.offsets, piece.box.sizes, piece.drawn.law) for piece in pieces)
    names = tuple(found.full_names)
    if found.history is not None:
        names = tuple(dict.fromkeys((*names, *keyed.names.get(found.history.key, ()))))
    return Declaration(
        found.names[0],
        tuple(found.names[1:]),
        found.kind,
        bool(found.saved_names),
        found.view.dtype,
        found.view.shape,
        laws,
        tensors=tuple(found.tensors.values()),
        stand_ins=tuple(found.stand_ins.values()),
        stood_for=tuple(map(tuple, found.stood_for.values())),
        history=found.history,
        view=found.view,
        pieces=pieces or (),
        sources=keyed.sources,
        saved_names=tuple(found.saved_names),
        full_names=names,
        keeps_dtype=kinds.keeps(found),
    )


def check_written(declared: Iterable[Declaration]) -> None:
    """Refuse parameters and buffers some of whose elements were never written; in attributes these are scratch.

    Raises:
        ValueError: There are some; it names them.
    """
    names = ", ".join(each.name for each in unwritten(declared) if each.kind != "attribute")
    if names:
        raise ValueError(
            "uninitialized tensors, which materialize(strict=False) makes 0 where nothing was written, some of whose "
            f"elements were never written: {names}"
        )


def unwritten(declared: Iterable[Declaration]) -> list[Declaration]:
    """Those whose values depend on elements that were never written."""
    found = []
    for each in declared:
        if each.history is not None and each.laws is None:
            with naming([(each.name, each.history.head)]):
                if not is_defined(each.history.head, each.view, each.sources):
                    found.append(each)
    return found
