"""The tape: what was done to the storages of deferred tensors, kept so that it can be recognized or done for real.

A deferred tensor is a tensor on the meta device. Its storage, which holds no data, carries a `History`, whose head is
the last of a chain of `Version`s: each says which elements were written and with what, and leads to the version before
it. Versions are never changed, so an operation keeps what it read by keeping a version. Tensors that are views of one
storage share its history; a view, a detach or a tie needs no entry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tritonparam.plan import Box, Placement, View, apart, place
from tritonparam.stream import Constant, Law

_ATTRIBUTE = "_tritonparam_history"
_MASK_LIMIT = 2**28
_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class Identity:
    """Which elements of which keyed tensor a draw is.

    Attributes:
        name, occurrence: Of the key.
        shape: The shape of the keyed tensor.
        offsets: Where in it the first element of the draw is.
        dims: For each dimension of the draw, the dimension of the keyed tensor it runs along; None where it is one
            long.
        seed: The seed of the key, where it does not depend on that of `materialize`: a constructor looked at the
            values.
    """

    name: str
    occurrence: int
    shape: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()
    dims: tuple[int | None, ...] = ()
    seed: int | None = None


@dataclass(eq=False, slots=True)
class Draw:
    """One act of drawing random values; copies of the values share it."""

    shape: tuple[int, ...]
    pinned: Identity | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """Values with a law.

    Attributes:
        law: The law.
        draw: Whose values they are; None for a constant.
        start: Where in the draw they start.
        dims: For each dimension of the draw, the dimension of the holder it runs along; None where it is one long.
        reshaped: The holder has all of the draw, in row-major order, under another shape.
    """

    law: Law
    draw: Draw | None = None
    start: tuple[int, ...] = ()
    dims: tuple[int | None, ...] = ()
    reshaped: bool = False

    @classmethod
    def fresh(cls, law: Law, shape: tuple[int, ...]) -> Drawn:
        """New values of `law` for a tensor of `shape`."""
        if isinstance(law, Constant):
            return cls(law)
        return cls(law, Draw(shape), (0,) * len(shape), tuple(range(len(shape))))

    def inside(self, spot: Placement, box: Box) -> Drawn:
        """What the holder's `box` holds, where these values lie at `spot` of it."""
        dims = tuple(None if k is None else spot.dims[k] for k in self.dims)
        start = tuple(
            s if d is None else s + box.offsets[d] - spot.box.offsets[d] for s, d in zip(self.start, dims, strict=True)
        )
        return Drawn(self.law, self.draw, start, dims)

    def part(self, spot: Placement, box: Box) -> Drawn:
        """What `box` of a view holds that lies at `spot` of these values."""
        back = {outer: inner for inner, outer in enumerate(spot.dims) if outer is not None}
        dims = tuple(None if k is None else back.get(k) for k in self.dims)
        start = tuple(
            s + (0 if k is None else spot.box.offsets[k]) + (0 if d is None else box.offsets[d])
            for s, k, d in zip(self.start, self.dims, dims, strict=True)
        )
        return Drawn(self.law, self.draw, start, dims)


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor and the values it holds."""

    box: Box
    drawn: Drawn


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor argument of a recorded operation: elements of a storage as they were at that moment."""

    key: int
    version: Version | None
    nbytes: int
    view: View


@dataclass(eq=False, slots=True)
class Node:
    """A recorded operation that is done again when its results are needed."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[Read, ...]
    default_dtype: torch.dtype
    random: bool
    reads_unwritten: bool
    pinned: Identity | None = None
    writes: dict[int, Version] = field(default_factory=dict)
    results: list[tuple[int, Version]] = field(default_factory=list)
    index: int = field(default_factory=lambda: next(_counter))

    def needs(self) -> set[Version]:
        """The versions that the operation starts from."""
        return {read.version for read in self.reads if read.version is not None}


Content = Drawn | Node | torch.Tensor


@dataclass(eq=False, slots=True)
class Version:
    """One write to a storage.

    Attributes:
        previous: What the other elements hold; None where nothing was written to them.
        view: The elements written.
        content: Values with a law, a tensor of known values, or the operation that computes them.
        nbytes: The size of the storage.
    """

    previous: Version | None
    view: View
    content: Content
    nbytes: int
    index: int = field(default_factory=lambda: next(_counter))

    def needs(self) -> set[Version]:
        """The versions that writing this one starts from."""
        if isinstance(self.content, Node):
            return self.content.needs()
        return set() if self.previous is None else {self.previous}


@dataclass(eq=False, slots=True)
class History:
    """What a deferred storage holds; `device` is the one its tensors were made for."""

    device: torch.device
    head: Version | None = None
    key: int = field(default_factory=lambda: next(_counter))

    @staticmethod
    def of(tensor: object) -> History | None:
        """The history of a deferred tensor; None for any other object."""
        if not isinstance(tensor, torch.Tensor) or not tensor.is_meta or tensor.layout != torch.strided:
            return None
        history: History | None = getattr(tensor.untyped_storage(), _ATTRIBUTE, None)
        return history

    @staticmethod
    def begin(tensor: torch.Tensor, device: torch.device) -> History:
        """Give the storage of a new meta tensor its history."""
        history = History(device)
        setattr(tensor.untyped_storage(), _ATTRIBUTE, history)
        return history

    def write(self, tensor: torch.Tensor, content: Content) -> Version:
        """Note that the elements of `tensor` now hold `content`."""
        view, nbytes = View.of(tensor), tensor.untyped_storage().nbytes()
        self.head = Version(None if view.fills(nbytes) else self.head, view, content, nbytes)
        return self.head

    def write_pieces(self, tensor: torch.Tensor, pieces: list[Piece]) -> None:
        """Note that the elements of `tensor` now hold `pieces`, which cover it."""
        view, nbytes = View.of(tensor), tensor.untyped_storage().nbytes()
        if view.fills(nbytes):
            self.head = None
        for piece in pieces:
            self.head = Version(self.head, view.narrow(piece.box), piece.drawn, nbytes)


def recognize(version: Version | None, view: View) -> list[Piece] | None:
    """The disjoint boxes with laws that `view` consists of; None where some of it has no law or was never written."""
    remaining = [Box.whole(view.shape)] if view.numel else []
    pieces: list[Piece] = []
    while version is not None and remaining:
        if not apart(version.view, view):
            found = _uncovered(version, view, remaining)
            if found is None:
                return None
            taken, remaining = found
            pieces += taken
        version = version.previous
    return None if remaining else sorted(pieces, key=lambda piece: piece.box.offsets)


def _uncovered(version: Version, view: View, remaining: list[Box]) -> tuple[list[Piece], list[Box]] | None:
    """What `version` wrote to the `remaining` boxes of `view`, and what remains then; None where it cannot be told."""
    content, inner = version.content, place(version.view, view)
    outer = place(view, version.view) if inner is None else None
    whole = Box.whole(view.shape)
    reshaped = inner is None and outer is None
    if reshaped and not (_same_elements(version.view, view)):
        return None
    area = inner.box if inner is not None else whole
    pieces, rest = [], []
    for box in remaining:
        hit = box.meet(area)
        if hit is None:
            rest.append(box)
            continue
        if not isinstance(content, Drawn) or (content.draw is not None and content.draw.pinned is not None):
            return None
        rest += box.minus(hit)
        if content.draw is None:
            drawn = content
        elif inner is not None and not content.reshaped:
            drawn = content.inside(inner, hit)
        elif outer is not None and not content.reshaped:
            drawn = content.part(outer, hit)
        elif hit == whole and _same_elements(version.view, view) and _all_of(content, version.view):
            drawn = Drawn(content.law, content.draw, (0,) * len(content.draw.shape), (), reshaped=True)
        else:
            return None
        pieces.append(Piece(hit, drawn))
    return pieces, rest


def _same_elements(a: View, b: View) -> bool:
    return (a.offset, a.numel, a.dtype) == (b.offset, b.numel, b.dtype) and a.row_major() and b.row_major()


def _all_of(drawn: Drawn, view: View) -> bool:
    """Whether `view` holds all of its draw, in the draw's own order."""
    if drawn.draw is None or drawn.reshaped:
        return True
    dims = [d for d in drawn.dims if d is not None]
    return view.numel == math.prod(drawn.draw.shape) and dims == sorted(dims)


def is_written(version: Version | None, view: View) -> bool:
    """Whether every element of `view` was written. Larger views of irregular writes get the benefit of the doubt."""
    remaining = [Box.whole(view.shape)] if view.numel else []
    walk = version
    while walk is not None and remaining:
        spot = place(walk.view, view)
        area = spot.box if spot is not None else None
        if area is None and (place(view, walk.view) or _same_elements(walk.view, view)):
            return True
        if area is None and not apart(walk.view, view):
            return _is_written_by_mask(version, view)
        if area is not None:
            hits = [(box, box.meet(area)) for box in remaining]
            remaining = [part for box, hit in hits for part in ([box] if hit is None else box.minus(hit))]
        walk = walk.previous
    return not remaining


def _is_written_by_mask(version: Version | None, view: View) -> bool:
    nbytes = version.nbytes if version is not None else 0
    if nbytes > _MASK_LIMIT:
        return True
    size = view.dtype.itemsize
    mask = torch.zeros(nbytes // size, dtype=torch.bool)
    while version is not None:
        written = version.view
        if written.dtype.itemsize != size:
            return True
        mask.as_strided(written.shape, written.stride, written.offset).fill_(True)
        version = version.previous
    return bool(mask.as_strided(view.shape, view.stride, view.offset).all())


def slice_of(targets: list[Version]) -> tuple[set[Version], list[Version | Node]]:
    """What has to be done for `targets` to exist: the versions on the way, and the steps in their order."""
    pending, seen, steps = list(targets), set[Version](), set[Version | Node]()
    while pending:
        version = pending.pop()
        if version not in seen:
            seen.add(version)
            step = version.content if isinstance(version.content, Node) else version
            if step not in steps:
                steps.add(step)
                pending += step.needs()
    return seen, sorted(steps, key=lambda step: step.index)
