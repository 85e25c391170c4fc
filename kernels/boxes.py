"""Rows of a fill that are no run: boxes of a global tensor, in memory of any strides, a Philox block to a lane.

A lane finds the place of its unit from the unit's number in the row, dimension by dimension. The arithmetic is of 32
bits: a row has less than 2**31 units, and an element lies less than 2**31 elements after the first. The paths:

pairs: a unit is two whole blocks, side by side in memory at a multiple of their bytes, which are stored as one.
blocks: a unit is a whole block, whose elements lie side by side likewise, or one stride apart.
parts: a unit is a block of which the box may have a part; each element finds its own place along two dimensions.

The dimensions (size, its reciprocal, stride in the global tensor, in memory) are two at least, in any order. Strides in
the global tensor count blocks, in parts elements; strides in memory count units in pairs, else elements. Before them
stands in blocks the stride within a unit, 0 where it is stored as one; in parts the length of the runs of consecutive
global elements and, of the two dimensions of a run, the size of the inner one, its reciprocal, and the strides in
memory of both. The first dimension of parts is that of the blocks of a run.
"""

import triton
import triton.language as tl

from .laws import _parameters, _values
from .rows import _divide
from .store import _store_scattered, _store_units

DIMENSION = 4
PATHS = {"run": 0, "pairs": 1, "blocks": 2, "parts": 3}

_DIMENSION = tl.constexpr(DIMENSION)


@triton.jit
def _step(dim, rest, index, at):
    """What is left of `rest` for the next dimensions; `index` and `at` moved on along this one."""
    quotient = _divide(rest, tl.load(dim + 1))
    coordinate = rest - quotient * tl.load(dim).to(tl.uint32)
    index += coordinate.to(index.dtype) * tl.load(dim + 2).to(index.dtype)
    at += coordinate * tl.load(dim + 3).to(tl.uint32)
    return quotient, index, at


@triton.jit
def _last_step(dim, rest, index, at):
    """`index` and `at` moved on by `rest` along the last dimension, which divides nothing."""
    index += rest.to(index.dtype) * tl.load(dim + 2).to(index.dtype)
    at += rest * tl.load(dim + 3).to(tl.uint32)
    return index, at


@triton.jit
def _fill_blocks(
    row_ptr,
    dims,
    ndim,
    address,
    k0,
    k1,
    dtype,
    first,
    stop,
    lead,
    KIND: tl.constexpr,
    DTYPES: tl.constexpr,
    PATH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Units first, ..., stop - 1 of whole blocks, whose numbers have one high word."""
    V: tl.constexpr = 8 if PATH == 1 else 4
    LANES: tl.constexpr = TILE // V
    origin = tl.load(row_ptr + 11)
    high = (origin >> 32).to(tl.uint32)
    pattern = tl.load(row_ptr + 6)
    if KIND != 0:
        p = _parameters(row_ptr, KIND)
    if PATH == 2:
        step = tl.load(dims).to(tl.uint32)
        dims += 1
    for base in range(first, stop, LANES):
        unit = base + tl.arange(0, LANES)
        mask = unit < stop
        at = tl.zeros((LANES,), tl.uint32)
        rest, low, at = _step(dims, unit.to(tl.uint32), at + origin.to(tl.uint32), at)
        for d in range(1, ndim - 1):
            rest, low, at = _step(dims + d * _DIMENSION, rest, low, at)
        low, at = _last_step(dims + (ndim - 1) * _DIMENSION, rest, low, at)
        z = (at, at, at, at)
        if KIND != 0:
            z = _values(k0, k1, low, high, p, lead, KIND)
        if PATH == 1:
            y = (at, at, at, at)
            if KIND != 0:
                y = _values(k0, k1, low + 1, high, p, lead, KIND)
            even = tl.join(tl.join(z[0], y[0]), tl.join(z[2], y[2]))
            odd = tl.join(tl.join(z[1], y[1]), tl.join(z[3], y[3]))
            x = tl.join(even, odd).reshape(LANES, V)
            _store_units(dtype, address, at.to(tl.int64) * V, mask, x, pattern, KIND == 0, DTYPES)
        elif step == 0:
            x = tl.join(tl.join(z[0], z[2]), tl.join(z[1], z[3])).reshape(LANES, V)
            _store_units(dtype, address, at.to(tl.int64), mask, x, pattern, KIND == 0, DTYPES)
        else:
            places = (at, at + step, at + 2 * step, at + 3 * step)
            _store_scattered(dtype, address, places, (mask, mask, mask, mask), z, pattern, KIND == 0, DTYPES)


@triton.jit
def _element(at, t, dims, length, mask):
    """The place in memory of the element at `t` of a run, and whether it is the box's."""
    outer = _divide(t, tl.load(dims + 2))
    inner = t - outer * tl.load(dims + 1).to(tl.uint32)
    at += inner * tl.load(dims + 3).to(tl.uint32) + outer * tl.load(dims + 4).to(tl.uint32)
    return at, mask & (t < length)


@triton.jit
def _fill_parts(
    row_ptr,
    dims,
    ndim,
    address,
    k0,
    k1,
    dtype,
    first,
    stop,
    lead,
    KIND: tl.constexpr,
    DTYPES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Units first, ..., stop - 1 of blocks that are the box's in whole or in part."""
    LANES: tl.constexpr = TILE // 8
    origin = tl.load(row_ptr + 11)
    pattern = tl.load(row_ptr + 6)
    if KIND != 0:
        p = _parameters(row_ptr, KIND)
    length = tl.load(dims).to(tl.uint32)
    outer = dims + 5
    for base in range(first, stop, LANES):
        unit = base + tl.arange(0, LANES)
        mask = unit < stop
        rest = _divide(unit.to(tl.uint32), tl.load(outer + 1))
        block = unit.to(tl.uint32) - rest * tl.load(outer).to(tl.uint32)
        index = tl.zeros((LANES,), tl.int64) + origin
        at = tl.zeros((LANES,), tl.uint32)
        for d in range(1, ndim - 1):
            rest, index, at = _step(outer + d * _DIMENSION, rest, index, at)
        index, at = _last_step(outer + (ndim - 1) * _DIMENSION, rest, index, at)
        # Of the unit's first element in its run, which may begin after it: then this wraps, and is not below `length`.
        t = 4 * block - (index & 3).to(tl.uint32)
        index = (index >> 2) + block.to(tl.int64)
        at0, mask0 = _element(at, t, dims, length, mask)
        at1, mask1 = _element(at, t + 1, dims, length, mask)
        at2, mask2 = _element(at, t + 2, dims, length, mask)
        at3, mask3 = _element(at, t + 3, dims, length, mask)
        z = (at, at, at, at)
        if KIND != 0:
            z = _values(k0, k1, index.to(tl.uint32), (index >> 32).to(tl.uint32), p, lead, KIND)
        places, masks = (at0, at1, at2, at3), (mask0, mask1, mask2, mask3)
        _store_scattered(dtype, address, places, masks, z, pattern, KIND == 0, DTYPES)


@triton.jit
def _fill_box(
    row_ptr,
    dims,
    ndim,
    address,
    k0,
    k1,
    dtype,
    chunk,
    stop,
    lead,
    KIND: tl.constexpr,
    DTYPES: tl.constexpr,
    PATH: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One chunk of a row of this PATH."""
    UNIT: tl.constexpr = 8 if PATH == 1 else 4
    first = (chunk * (CHUNK // UNIT)).to(tl.int32)
    stop = tl.minimum(stop // UNIT, (chunk + 1) * (CHUNK // UNIT)).to(tl.int32)
    if PATH == 3:
        _fill_parts(row_ptr, dims, ndim, address, k0, k1, dtype, first, stop, lead, KIND, DTYPES, TILE)
    else:
        _fill_blocks(row_ptr, dims, ndim, address, k0, k1, dtype, first, stop, lead, KIND, DTYPES, PATH, TILE)
