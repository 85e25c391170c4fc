"""Identities: which key every draw of a module has, so that values depend on names and on nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tritonparam.module.tape import Draw, Drawn, Identity, Node, Piece, Version, slice_of
from tritonparam.plan import Box

Keyed = dict[Draw | Node, Identity]


class Identities:
    """Gives every draw its identity, from the first of the tensors that has it.

    A draw that a tensor holds is that tensor's own, under occurrence 0 of its name, at the place it has there. Only
    what cannot be so has a further occurrence: a draw in the place of another one, part of which is still held
    elsewhere; and, from 1 on and in the order of the tape, whatever random numbers a replayed tensor is computed from.

    Attributes:
        keyed: What was decided so far.
    """

    def __init__(self) -> None:
        self.keyed: Keyed = {}
        self._places: dict[str, list[Box]] = {}
        self._further: dict[str, int] = {}

    def hold(self, name: str, shape: tuple[int, ...], pieces: Iterable[Piece]) -> None:
        """Key the draws that the tensor called `name` holds in `pieces`."""
        held = [(piece.drawn.draw, piece) for piece in pieces if piece.drawn.draw is not None]
        # Where one was drawn over a part of another, the larger is the tensor's own.
        for draw, piece in sorted(held, key=lambda pair: -math.prod(pair[0].shape)):
            if draw in self.keyed:
                continue
            place = _place(piece.box, piece.drawn, draw, shape)
            taken = self._places.setdefault(name, [])
            box = Box.whole(shape) if place is None else place
            is_free = not any(box.meet(other) for other in taken)
            occurrence = 0 if is_free else self._next(name)
            if is_free:
                taken.append(box)
            if place is None:
                self.keyed[draw] = _as_drawn(name, occurrence, draw)
            else:
                self.keyed[draw] = Identity(name, occurrence, shape, place.offsets, piece.drawn.dims)

    def replay(self, name: str, head: Version) -> None:
        """Key what else is drawn on the way to `head`, the state of the storage of the tensor called `name`."""
        for step in slice_of([head])[1]:
            if isinstance(step, Node):
                if step.random and step.pinned is None and step not in self.keyed:
                    self.keyed[step] = Identity(name, self._next(name))
            elif isinstance(step.content, Drawn):
                draw = step.content.draw
                if draw is not None and draw.pinned is None and draw not in self.keyed:
                    self.keyed[draw] = _as_drawn(name, self._next(name), draw)

    def _next(self, name: str) -> int:
        self._further[name] = self._further.get(name, 0) + 1
        return self._further[name]


def _as_drawn(name: str, occurrence: int, draw: Draw) -> Identity:
    """The identity of a draw that is a tensor of its own."""
    return Identity(name, occurrence, draw.shape, (0,) * len(draw.shape), tuple(range(len(draw.shape))))


def _place(box: Box, drawn: Drawn, draw: Draw, shape: tuple[int, ...]) -> Box | None:
    """Where all of `draw` lies in a tensor of `shape` that holds some of it in `box`; None where it does not."""
    if drawn.reshaped:
        return None
    offsets, sizes = list(box.offsets), [1] * len(shape)
    for size, start, d in zip(draw.shape, drawn.start, drawn.dims, strict=True):
        if d is None and size != 1:
            return None
        if d is not None:
            offsets[d], sizes[d] = box.offsets[d] - start, size
    if any(low < 0 or low + n > size for low, n, size in zip(offsets, sizes, shape, strict=True)):
        return None
    return Box(tuple(offsets), tuple(sizes))
