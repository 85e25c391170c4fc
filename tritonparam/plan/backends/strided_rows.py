"""Fills of boxes that are no run, as rows of the fill table: the path of each, and its dimensions (`kernels.boxes`)."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonparam.kernels.boxes import PATHS
from tritonparam.kernels.rows import reciprocal
from tritonparam.plan.backends.dimensions import Dim, dims_in_memory, dims_in_order
from tritonparam.plan.fill import Fill
from tritonparam.plan.memory import bytes_spanned
from tritonparam.stream import Constant, flat_index

if TYPE_CHECKING:
    import torch

PATH_SHIFT, NDIM_SHIFT = 17, 24
_BLOCK, _OCTET = 4, 8  # elements of a Philox block, which have one counter; of two
_HIGH_SHIFT = 34  # of an element's index, for the high word of its block's number
_WIDE = 16  # bytes of the widest store
# What the kernel's 32-bit arithmetic reaches: a row's elements, and how far the last lies from the first in memory.
MAX_ELEMENTS, MAX_SPAN = 2**30, 2**31


class Layout(NamedTuple):
    """What rows of one geometry share.

    Attributes:
        flags: Path and number of dimensions, at their places in a row's flags.
        stop: Elements that the row's programs share out: in parts, four for each block that the box has a part of.
        origin: Where the box begins in the global tensor, in the units of the path.
        words: The dimensions and what stands before them.
    """

    flags: int
    stop: int
    origin: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StridedRows:
    """The columns of strided rows, in the order of the fills.

    Attributes:
        flags, stop, origin: As in `Layout`.
        places: Where each row's words begin in `words`.
        words: Those of every distinct layout, once.
        paths: A bit for each path that rows take; 0 where all are runs after all.
    """

    flags: NDArray[np.int64]
    stop: NDArray[np.int64]
    origin: NDArray[np.int64]
    places: NDArray[np.int64]
    words: list[int]
    paths: int


def build_strided_rows(fills: Iterable[Fill]) -> StridedRows:
    """Lay out fills that have elements, within reach of a row, each a box that is no run.

    The rows are worked out once for each geometry: a model's layers repeat it.
    """
    known: dict[object, tuple[Layout, int]] = {}
    words: list[int] = []
    found = []
    for each in fills:
        out = each.out
        is_constant = type(each.law) is Constant
        where = None if is_constant else (each.shape, each.offsets)
        key = (where, out.shape, out.stride(), out.dtype, out.data_ptr() % _WIDE)
        entry = known.get(key)
        if entry is None:
            layout = _lay_out_constant(out) if is_constant else _lay_out_random(each)
            entry = known[key] = (layout, len(words))
            words += layout.words
        found.append((entry[0].flags, entry[0].stop, entry[0].origin, entry[1]))
    flags, stop, origin, places = np.array(found, np.int64).reshape(-1, 4).T
    paths = functools.reduce(operator.or_, (1 << (layout.flags >> PATH_SHIFT & 7) for layout, _ in known.values()), 0)
    return StridedRows(flags, stop, origin, places, words, paths if paths > 1 else 0)


def is_in_reach(fill: Fill) -> bool:
    """Whether a row can have it, as every run can."""
    out = fill.out
    return fill.run_start is not None or (out.numel() <= MAX_ELEMENTS and bytes_spanned(out) <= MAX_SPAN * out.itemsize)


def parts_in_reach(fill: Fill) -> Iterable[Fill]:
    """Fills that write what `fill` does, cut in halves where it reaches farthest until a row can have each."""
    if is_in_reach(fill):
        yield fill
        return
    out = fill.out.detach()
    d = max(range(out.ndim), key=lambda d: (out.shape[d] - 1) * out.stride(d))
    middle = out.shape[d] // 2
    middle -= middle % _OCTET if middle > _OCTET else 0
    for start, stop in ((0, middle), (middle, out.shape[d])):
        offsets = tuple(offset + start * (n == d) for n, offset in enumerate(fill.offsets))
        half = Fill(out.narrow(d, start, stop - start), fill.law, fill.key, fill.shape, offsets)
        yield from parts_in_reach(half)


def _lay_out_random(each: Fill) -> Layout:
    out = each.out
    dims, origin = dims_in_order(each.shape, out), flat_index(each.offsets, each.shape)
    return lay_out(dims, origin, out.itemsize, out.data_ptr() % _WIDE)


def _lay_out_constant(out: torch.Tensor) -> Layout:
    return lay_out(dims_in_memory(out), 0, out.itemsize, out.data_ptr() % _WIDE)


def lay_out(dims: list[Dim], origin: int, itemsize: int, phase: int) -> Layout:
    """The row of a box.

    Args:
        dims: Of the box, merged, the innermost of the global tensor first: strides there and in memory.
        origin: The index of its first element.
        itemsize: Bytes of an element.
        phase: The address of its first element, modulo 16.
    """
    count = math.prod(dim[0] for dim in dims)
    if dims == [(count, 1, 1)] and origin == 0:
        return Layout(PATHS["run"] << PATH_SHIFT, count, 0, ())
    (size, first, step), outer = dims[0], dims[1:]
    last = origin + sum((size - 1) * stride for size, stride, _ in dims)
    together = math.gcd(origin, size, *(stride for _, stride, _ in outer))
    if first != 1 or together % _BLOCK or origin >> _HIGH_SHIFT != last >> _HIGH_SHIFT:
        return _lay_out_parts(dims, origin)
    origin //= _BLOCK
    path, unit, before = "blocks", _BLOCK, [step]
    if step == 1:
        even = math.gcd(size, *(away for _, _, away in outer))
        if even % _OCTET == 0 and itemsize <= 2 and phase % (_OCTET * itemsize) == 0:
            path, unit, before = "pairs", _OCTET, []
        elif even % _BLOCK == 0 and phase % min(_BLOCK * itemsize, _WIDE) == 0:
            before = [0]
    width = unit if path == "pairs" else 1  # elements that the strides in memory count by
    units = [(size // unit, unit // _BLOCK, unit * step // width)]
    units += [(size, stride // _BLOCK, away // width) for size, stride, away in outer]
    units.sort(key=lambda dim: dim[2])
    return _layout(path, count, origin, before, units)


def _lay_out_parts(dims: list[Dim], origin: int) -> Layout:
    """A row whose elements are consecutive along the first dimension, the first two, or none."""
    inner, across = (1, 0), (1, 0)  # size and stride in memory of the dimensions of a run
    if dims[0][1] == 1:
        inner = (dims[0][0], dims[0][2])
        dims = dims[1:]
        if dims and dims[0][1] == inner[0]:
            across = (dims[0][0], dims[0][2])
            dims = dims[1:]
    length = inner[0] * across[0]
    # Every run begins at the same place in a block, or at any.
    begin = _BLOCK - 1 if any(stride % _BLOCK for _, stride, _ in dims) else origin % _BLOCK
    blocks = (begin + length + _BLOCK - 1) // _BLOCK
    outer = sorted(dims, key=lambda dim: dim[2])
    stop = _BLOCK * blocks * math.prod(dim[0] for dim in outer)
    before = [length, inner[0], reciprocal(inner[0]), inner[1], across[1]]
    return _layout("parts", stop, origin, before, [(blocks, 0, 0), *outer])


def _layout(path: str, stop: int, origin: int, before: list[int], dims: list[Dim]) -> Layout:
    if len(dims) == 1:
        dims.append((1, 0, 0))
    words = [word for size, stride, step in dims for word in (size, reciprocal(size), stride, step)]
    return Layout(PATHS[path] << PATH_SHIFT | len(dims) << NDIM_SHIFT, stop, origin, (*before, *words))
