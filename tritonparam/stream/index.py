"""Row-major indices: the number i of an element, from which its value follows."""

from __future__ import annotations

from collections.abc import Sequence


def flat_index(offsets: Sequence[int], shape: Sequence[int]) -> int:
    """The row-major index of the element at `offsets` of a tensor of `shape`.

    Examples:
        >>> flat_index((1, 2), (3, 5))
        7
    """
    index = 0
    for extent, offset in zip(shape, offsets, strict=True):
        index = index * extent + offset
    return index


def contiguous_start(shape: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]) -> int | None:
    """The global index of the box's first element if the box is one run of consecutive elements, else None.

    It is one run if, from the left, its sizes are 1 up to some dimension, and it spans the whole of every dimension
    after that one.
    """
    partial = [d for d in range(len(shape)) if sizes[d] != shape[d]]
    if partial and any(size != 1 for size in sizes[: partial[-1]]):
        return None
    return flat_index(offsets, shape)
