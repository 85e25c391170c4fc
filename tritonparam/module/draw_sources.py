"""Where every draw of a module comes from: which key it has, so that values depend on names and on nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import Draw, Drawn, Node, Piece, Version, slice_of
from tritonparam.plan import Box


class DrawSources:
    """Gives every draw its source, from the first of the tensors that has it.

    A draw that a tensor holds is that tensor's own, under occurrence 0 of its name, at the place it has there. Only
    what cannot be so has a further occurrence: a draw in the place of another one, part of which is still held
    elsewhere; and, from 1 on and in the order of the tape, whatever random numbers a replayed tensor is computed from.

    Attributes:
        found: What was decided so far.
    """

    def __init__(self) -> None:
        self.found: dict[Draw | Node, Source] = {}
        self._taken: dict[str, list[Box]] = {}
        self._further: dict[str, int] = {}

    def key_held(self, name: str, shape: tuple[int, ...], pieces: Iterable[Piece]) -> None:
        """Key the draws that the tensor called `name` holds in `pieces`."""
        held = [(piece.drawn.draw, piece) for piece in pieces if piece.drawn.draw is not None]
        # Where one was drawn over a part of another, the larger is the tensor's own.
        for draw, piece in sorted(held, key=lambda pair: -math.prod(pair[0].shape)):
            if draw in self.found:
                continue
            home = _home(piece.box, piece.drawn, draw, shape)
            taken = self._taken.setdefault(name, [])
            box = Box.whole(shape) if home is None else home
            is_free = not any(box.meet(other) for other in taken)
            occurrence = 0 if is_free else self._next(name)
            if is_free:
                taken.append(box)
            if home is None:
                self.found[draw] = _as_drawn(name, occurrence, draw)
            else:
                along = {d: k for k, d in enumerate(piece.drawn.elements.dims) if d is not None}
                elements = Elements(home.offsets, tuple(along.get(d) for d in range(len(shape))))
                self.found[draw] = Source(name, occurrence, shape, elements)

    def key_replayed(self, name: str, head: Version) -> None:
        """Key what else is drawn on the way to `head`, the state of the storage of the tensor called `name`."""
        for step in slice_of([head])[1]:
            if isinstance(step, Node):
                if step.random and step.pinned is None and step not in self.found:
                    self.found[step] = Source(name, self._next(name))
            elif isinstance(step.content, Drawn):
                draw = step.content.draw
                if draw is not None and draw.pinned is None and draw not in self.found:
                    self.found[draw] = _as_drawn(name, self._next(name), draw)

    def _next(self, name: str) -> int:
        self._further[name] = self._further.get(name, 0) + 1
        return self._further[name]


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
