"""Full names: what modules, and the draws in their tensors, are called in the whole that they were built in.

Values depend on full names. So a submodule on its own gets the values that it gets with its whole.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from tritonparam._locks import across_forks
from tritonparam.module.blueprint import draw_up, joined
from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import Draw, Drawn, Node, Piece, Version, drawn_before
from tritonparam.plan import Box, BoxSet

_lock = across_forks()
_homes: Any = WeakIdKeyDictionary()
_outermost: list[weakref.ref[torch.nn.Module]] = []


@dataclass(frozen=True)
class _Home:
    """Which outermost module held one when it was built, and under which path."""

    whole: weakref.ref[torch.nn.Module]
    path: str


def remember(modules: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """Note for each of the modules that a block has built which outermost module holds it, and under which path.

    Outermost are those that no other of them holds, in the order of construction; the first holder counts. Modules of
    earlier blocks that are held by one of these now belong to it. No module is kept alive. Each has its blueprint.

    Args:
        modules: In the order of construction. What they hold need not be among them.

    Returns:
        The outermost ones.
    """
    built = list({id(each): each for each in modules}.values())
    held = _held(built)
    with _lock:
        seen: set[int] = set()
        for whole in built:
            if id(whole) in held:
                continue
            reference = weakref.ref(whole)
            own = [(path, each) for path, each in whole.named_modules() if id(each) not in seen]
            for path, each in own:
                seen.add(id(each))
                _homes[each] = _Home(reference, path)
            draw_up(whole, own)
            _outermost.append(reference)
        _outermost[:] = [
            reference for reference in _outermost if (alive := reference()) is not None and not _homes[alive].path
        ]
    return [each for each in built if id(each) not in held]


def _held(modules: Iterable[torch.nn.Module]) -> set[int]:
    """The ids of all modules that are held by one of `modules`."""
    held: set[int] = set()
    pending = list(modules)
    while pending:
        for child in pending.pop()._modules.values():
            if child is not None and id(child) not in held:
                held.add(id(child))
                pending.append(child)
    return held


def whole_of(module: torch.nn.Module) -> tuple[torch.nn.Module, str]:
    """The outermost module built in a block that holds `module` now, and under which path.

    Where there is none any more, it is `module` itself, under the path that it had. Of a module that was not built in
    a block, and is not held by one that was, it is the module itself, under the path "".
    """
    with _lock:
        home: _Home | None = _homes.get(module)
        outermost = [alive for reference in _outermost if (alive := reference()) is not None]
    whole, path = module, ""
    first = None if home is None else home.whole()
    if home is not None and first is not None and _is_at(first, home.path, module):
        whole, path = first, home.path
    visited = {id(module)}
    while (holder := _holder(whole, outermost)) is not None and id(holder[0]) not in visited:
        visited.add(id(holder[0]))
        whole, path = holder[0], joined(holder[1], path)
    return (module, home.path) if whole is module and home is not None else (whole, path)


def full_prefix(module: torch.nn.Module) -> str:
    """What the full names of the tensors of `module` begin with, without the dot; "" for one that is no part.

    Examples:
        >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        >>> _ = remember([layers])
        >>> full_prefix(layers[1])
        '1'
    """
    return whole_of(module)[1]


def _is_at(whole: torch.nn.Module, path: str, module: torch.nn.Module) -> bool:
    try:
        return whole.get_submodule(path) is module
    except AttributeError:
        return False


def _holder(module: torch.nn.Module, candidates: Iterable[torch.nn.Module]) -> tuple[torch.nn.Module, str] | None:
    """The first of `candidates` that holds `module`, and where."""
    for whole in candidates:
        if whole is not module and id(module) in _held([whole]):
            return whole, next(path for path, each in whole.named_modules() if each is module)
    return None


@dataclass
class Keyed:
    """What was decided about a whole, parts of which became real: the rest keeps it.

    Attributes:
        prefix: What its names began with.
        sources: The source of every draw in it.
        names: The full names of each storage, by the key of its history.
        spread: The storages that several of its tensors show, by the key of their history.
    """

    prefix: str
    sources: dict[Draw | Node, Source] = field(default_factory=dict)
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    spread: frozenset[int] = frozenset()


_kept: Any = WeakIdKeyDictionary()


def kept(whole: torch.nn.Module, prefix: str) -> Keyed | None:
    """What was kept of `whole` under `prefix`."""
    with _lock:
        found: Keyed | None = _kept.get(whole)
    return found if found is not None and found.prefix == prefix else None


def keep(whole: torch.nn.Module, keyed: Keyed | None) -> None:
    """Keep what was decided about `whole`, as long as it is alive; None to forget it."""
    with _lock:
        if keyed is None:
            _kept.pop(whole, None)
        else:
            _kept[whole] = keyed


class DrawSources:
    """Gives every draw its source, from the first of the tensors that has it.

    A draw that a tensor holds is that tensor's own, under occurrence 0 of its name, at the place it has there. Only
    what cannot be so has a further occurrence: a draw in the place of another one, part of which is still held
    elsewhere; and, from 1 on and in the order of the tape, whatever random numbers a replayed tensor is computed from.

    Args:
        known: What was decided before; it stays so.
        follow: Whether what was settled elsewhere, in modules that share draws with these, is so here.

    Attributes:
        found: What was decided so far.
    """

    def __init__(self, known: Mapping[Draw | Node, Source] | None = None, follow: bool = False) -> None:
        self.found: dict[Draw | Node, Source] = dict(known or {})
        self._follow = follow
        self._taken: dict[str, Box | BoxSet] = {}  # one box, or several
        self._further: dict[str, int] = {}
        for source in self.found.values():
            self._further[source.name] = max(source.occurrence, self._further.get(source.name, 0))

    def key_held(self, name: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> None:
        """Key the draws that the tensor called `name` holds in `pieces`."""
        if len(pieces) == 1 and name not in self._taken and self._is_own(pieces[0], name, shape):
            return
        held = [(piece.drawn.draw, piece) for piece in pieces if piece.drawn.draw is not None]
        taken = self._taken.get(name)
        if not isinstance(taken, BoxSet):
            taken = self._taken[name] = BoxSet() if taken is None else BoxSet([taken])
        # Where one was drawn over a part of another, the larger is the tensor's own.
        for draw, piece in sorted(held, key=lambda pair: -math.prod(pair[0].shape)):
            home = _home(piece.box, piece.drawn, draw, shape)
            box = Box.whole(shape) if home is None else home
            known = self._known(draw)
            if known is not None:
                if (known.name, known.occurrence) == (name, 0):
                    taken.add(box)
                continue
            is_free = not taken.meets(box)
            occurrence = 0 if is_free else self._next(name)
            if is_free:
                taken.add(box)
            if home is None:
                self.found[draw] = _as_drawn(name, occurrence, draw)
            else:
                along = {d: k for k, d in enumerate(piece.drawn.elements.dims) if d is not None}
                elements = Elements(home.offsets, tuple(along.get(d) for d in range(len(shape))))
                self.found[draw] = Source(name, occurrence, shape, elements)

    def _is_own(self, piece: Piece, name: str, shape: tuple[int, ...]) -> bool:
        """Key the only piece of the first tensor of its name, if it is a constant or a draw of the same shape."""
        drawn, draw = piece.drawn, piece.drawn.draw
        if draw is None:
            return True
        is_whole = draw.shape == shape == piece.box.sizes and not drawn.reshaped and drawn.elements.are_all_of(shape)
        if not is_whole or self._known(draw) is not None:
            return False
        self._taken[name] = piece.box
        self.found[draw] = Source(name, 0, shape, drawn.elements)
        return True

    def key_replayed(self, name: str, head: Version) -> None:
        """Key what else is drawn on the way to `head`, the state of the storage of the tensor called `name`."""
        for draw in drawn_on_the_way(head):
            if self._known(draw) is None:
                occurrence = self._next(name)
                self.found[draw] = (
                    Source(name, occurrence) if isinstance(draw, Node) else _as_drawn(name, occurrence, draw)
                )

    def _known(self, draw: Draw | Node) -> Source | None:
        if draw not in self.found and self._follow and draw.settled is not None:
            self.found[draw] = draw.settled
        return self.found.get(draw)

    def _next(self, name: str) -> int:
        self._further[name] = self._further.get(name, 0) + 1
        return self._further[name]


def drawn_on_the_way(head: Version) -> list[Draw | Node]:
    """What is drawn on the way to `head` and depends on the seed, in the order of the tape."""
    return [drawn for drawn, _ in drawn_before(head)]


def _as_drawn(name: str, occurrence: int, draw: Draw) -> Source:
    """The source of a draw that is a tensor of its own."""
    return Source(name, occurrence, draw.shape, Elements.all_of(draw.shape))


def _home(box: Box, drawn: Drawn, draw: Draw, shape: tuple[int, ...]) -> Box | None:
    """Where all of `draw` lies in a tensor of `shape` that holds some of it in `box`; None where it does not."""
    if drawn.reshaped:
        return None
    offsets, sizes = list(box.offsets), [1] * len(shape)
    for size, start, d in zip(draw.shape, drawn.elements.offsets, drawn.elements.dims, strict=True):
        if d is None and size != 1:
            return None
        if d is not None:
            offsets[d], sizes[d] = box.offsets[d] - start, size
    if any(low < 0 or low + n > size for low, n, size in zip(offsets, sizes, shape, strict=True)):
        return None
    return Box(tuple(offsets), tuple(sizes))
