"""Sets of boxes that may be as many as a tensor has rows: what meets one of them is found without asking each."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import numpy as np

from tritonparam.plan.views import Box

_FEW = 16  # these are asked one by one, which is faster


class BoxSet:
    """Boxes of one tensor.

    Args:
        boxes: The first of them.

    Examples:
        >>> rows = BoxSet([Box((0, 0), (3, 2))])
        >>> rows.take(Box((1, 0), (1, 2)))
        [Box(offsets=(1, 0), sizes=(1, 2))]
        >>> list(rows), rows.meets(Box((1, 0), (1, 1)))
        ([Box(offsets=(0, 0), sizes=(1, 2)), Box(offsets=(2, 0), sizes=(1, 2))], False)
    """

    def __init__(self, boxes: Iterable[Box] = ()) -> None:
        self._boxes: dict[int, Box] = dict(enumerate(boxes))
        self._next = len(self._boxes)
        self._ends: np.ndarray | None = None  # first and one past the last index of each: [2, box, dimension]

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def __iter__(self) -> Iterator[Box]:
        return iter(self._boxes.values())

    def add(self, box: Box) -> None:
        """Have one more."""
        self._boxes[self._next] = box
        if self._ends is not None:
            if self._next == self._ends.shape[1]:
                self._ends = np.concatenate([self._ends, np.zeros_like(self._ends)], axis=1)
            self._ends[:, self._next] = _ends(box)
        self._next += 1

    def meets(self, box: Box) -> bool:
        """Whether some element of `box` is in one of them."""
        return any(self._boxes[n].meet(box) for n in self._near(box))

    def take(self, box: Box) -> list[Box]:
        """Leave out the elements of `box`; the boxes of those that were there."""
        taken = []
        for n in self._near(box):
            each = self._boxes[n]
            hit = each.meet(box)
            if hit is not None:
                taken.append(hit)
                del self._boxes[n]
                for rest in each.minus(hit):
                    self.add(rest)
        return taken

    def _near(self, box: Box) -> list[int]:
        """The numbers of all that may meet `box`."""
        if len(self._boxes) <= _FEW:
            return list(self._boxes)
        if self._ends is None or self._next > 4 * len(self._boxes):
            self._boxes = dict(enumerate(self._boxes.values()))
            self._next = len(self._boxes)
            self._ends = np.array([_ends(each) for each in self], dtype=np.int64).swapaxes(0, 1)
        first, last = _ends(box)
        starts, ends = self._ends[:, : self._next]
        meets = (np.maximum(starts, first) < np.minimum(ends, last)).all(axis=1)
        return [n for n in map(int, np.flatnonzero(meets)) if n in self._boxes]


def _ends(box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return box.offsets, tuple(map(operator.add, box.offsets, box.sizes))
