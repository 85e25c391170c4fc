"""Spans: what all ranks of a mesh hold along one dimension of a tensor, in columns; as `cut_runs` says it for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Spans(NamedTuple):
    """Runs of indices along one dimension, of every coordinate of the dimensions of a mesh that cut it.

    Attributes:
        start, size: int64 of shape [*parts, runs]: where each run begins, and how many indices it has; maybe none.
    """

    start: Integers
    size: Integers

    def met(self, low: int, high: int) -> tuple[Integers, Integers]:
        """How many indices from `low` to `high` (which is not one of them) each coordinate has, and in how many runs.

        Returns:
            Two int64 of shape [*parts].

        Examples:
            >>> elements, runs = spans_of(8, [(2, 2)]).met(3, 8)
            >>> elements.tolist(), runs.tolist()  # of [0, 1, 4, 5] and [2, 3, 6, 7]
            ([2, 3], [1, 2])
        """
        first = np.maximum(self.start, low)
        last = np.minimum(self.start + self.size, high)
        sizes = np.maximum(last - first, 0)
        runs = np.zeros(sizes.shape[:-1], np.int64)
        end = np.full(sizes.shape[:-1], -1, np.int64)
        for number in range(sizes.shape[-1]):
            is_here = sizes[..., number] > 0
            runs += is_here & (first[..., number] != end)  # else it goes on where the one before it ends
            end = np.where(is_here, last[..., number], end)
        return sizes.sum(-1), runs


def spans_of(size: int, cuts: Sequence[tuple[int, int]]) -> Spans:
    """How a dimension of `size` indices is cut, in turn.

    Args:
        size: Of the dimension.
        cuts: Of each dimension of the mesh that cuts it, in the order in which they do: into how many parts, and the
            `split` of its `Cut`.

    Returns:
        Spans of shape [*parts, runs].

    Examples:
        >>> spans_of(7, [(2, 1), (3, 1)]).size[..., 0].tolist()
        [[2, 2, 0], [1, 1, 1]]
    """
    found = Spans(np.zeros(1, np.int64), np.full(1, size, np.int64))
    for parts, split in cuts:
        pieces = _chunks(_chunks(found, split), parts)  # [*parts so far, split, parts, runs]
        shape = (*found.size.shape[:-1], parts, split * found.size.shape[-1])
        found = Spans(*(np.moveaxis(each, -3, -2).reshape(shape) for each in pieces))
    return found


def _chunks(spans: Spans, parts: int) -> Spans:
    """The pieces that torch.chunk makes of the indices of each coordinate, along a new axis before the runs."""
    start, size = spans.start[..., None, :], spans.size[..., None, :]
    total = size.sum(-1, keepdims=True)
    step = -(-total // parts)
    first = np.minimum(np.arange(parts)[:, None] * step, total)
    last = np.minimum(first + step, total)
    at = np.cumsum(size, axis=-1) - size
    low, high = np.maximum(first, at), np.minimum(last, at + size)
    return Spans(start + low - at, np.maximum(high - low, 0))
