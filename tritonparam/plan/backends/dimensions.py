"""Dimensions of boxes as triples, in as few as their steps allow: what every table of boxes is laid out from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

Dim = tuple[int, int, int]  # size, and the steps from one index to the next on two sides, in elements


def merged(dims: Iterable[Dim]) -> list[Dim]:
    """The same elements in the same order: dimensions longer than one, neighbours made one where both sides step on.

    Args:
        dims: The innermost first.

    Returns:
        At least one dimension.

    Examples:
        >>> merged([(4, 1, 1), (1, 4, 9), (3, 4, 4), (2, 12, 100)])
        [(12, 1, 1), (2, 12, 100)]
    """
    found: list[Dim] = []
    for size, one, other in dims:
        if size == 1:
            continue
        if found:
            inner, a, b = found[-1]
            if (one, other) == (inner * a, inner * b):
                found[-1] = (inner * size, a, b)
                continue
        found.append((size, one, other))
    return found or [(1, 1, 1)]


def dims_in_order(shape: Sequence[int], box: torch.Tensor) -> list[Dim]:
    """The dimensions of a box of a global tensor of `shape`, the innermost first: steps in that tensor, in memory."""
    dims, step = [], 1
    for extent, size, stride in zip(reversed(shape), reversed(box.shape), reversed(box.stride()), strict=True):
        dims.append((size, step, stride))
        step *= extent
    return merged(dims)


def dims_in_memory(out: torch.Tensor) -> list[Dim]:
    """The same of a constant, as if its tensor were row-major in the order of its memory: it looks at no index."""
    dims, step = [], 1
    for stride, size in sorted(zip(out.stride(), out.shape, strict=True)):
        dims.append((size, step, stride))
        step *= size
    return merged(dims)


def from_runs(dims: list[Dim]) -> list[Dim]:
    """The same dimensions, the first one of consecutive elements of the global tensor: of one where no two follow."""
    return dims if dims[0][1] == 1 else [(1, 1, 1), *dims]
