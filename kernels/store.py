"""How a lane's values reach memory: joined in memory order, cast, and stored 128 bits at a time where they may be."""

import triton
import triton.language as tl

from .dtypes import _BOOL, _INT8, _INT64, _TYPES, _pointer
from .rounding import _rounded


@triton.jit
def _store_masked(x_ptr, i, start, stop, x):
    tl.store(x_ptr + i, x, mask=(i >= start) & (i < stop))


@triton.jit
def _store_tile(address, base, start, stop, aligned, z0, z1, z2, z3, z4, z5, z6, z7, DTYPE: tl.constexpr):
    """Store a tile whose first element is `base`; of its elements those in [start, stop) are the row's.

    `address` is that of global element 0. A lane's two Philox blocks, z0..z3 and z4..z7, are neighbours in memory for
    8- and 16-bit dtypes (so that eight 16-bit values make one 128-bit store), else half a tile apart (so do four 32-bit
    values). Joining never leaves the lane's registers.
    """
    x_ptr = _pointer(address, DTYPE)
    LANES: tl.constexpr = z0.shape[0]
    NARROW: tl.constexpr = DTYPE >= 2
    if aligned & (base >= start) & (base + 8 * LANES <= stop):  # this is the mask of the wide stores
        tile_ptr = tl.multiple_of(x_ptr + base, 16)
        if NARROW:
            even = tl.join(tl.join(z0, z4), tl.join(z2, z6))
            odd = tl.join(tl.join(z1, z5), tl.join(z3, z7))
            x = tl.join(even, odd).reshape(8 * LANES)
            tl.store(tile_ptr + tl.arange(0, 8 * LANES), _rounded(x, DTYPE, False))
        else:
            e = tl.arange(0, 4 * LANES)
            x = tl.join(tl.join(z0, z2), tl.join(z1, z3)).reshape(4 * LANES)
            tl.store(tile_ptr + e, _rounded(x, DTYPE, False))
            x = tl.join(tl.join(z4, z6), tl.join(z5, z7)).reshape(4 * LANES)
            tl.store(tile_ptr + 4 * LANES + e, _rounded(x, DTYPE, False))
    else:
        STRIDE: tl.constexpr = 8 if NARROW else 4
        SECOND: tl.constexpr = 4 if NARROW else 4 * LANES
        i = base + tl.arange(0, LANES) * STRIDE
        _store_masked(x_ptr, i, start, stop, _rounded(z0, DTYPE, False))
        _store_masked(x_ptr, i + 1, start, stop, _rounded(z1, DTYPE, False))
        _store_masked(x_ptr, i + 2, start, stop, _rounded(z2, DTYPE, False))
        _store_masked(x_ptr, i + 3, start, stop, _rounded(z3, DTYPE, False))
        _store_masked(x_ptr, i + SECOND, start, stop, _rounded(z4, DTYPE, False))
        _store_masked(x_ptr, i + (SECOND + 1), start, stop, _rounded(z5, DTYPE, False))
        _store_masked(x_ptr, i + (SECOND + 2), start, stop, _rounded(z6, DTYPE, False))
        _store_masked(x_ptr, i + (SECOND + 3), start, stop, _rounded(z7, DTYPE, False))


@triton.jit
def _store_random(dtype, address, base, start, stop, aligned, z0, z1, z2, z3, z4, z5, z6, z7, DTYPES: tl.constexpr):
    """Store a tile as the one of DTYPES (a bit for each) that `dtype` says."""
    for DTYPE in tl.static_range(_BOOL):
        if (DTYPES >> DTYPE) & 1:
            if dtype == DTYPE:
                _store_tile(address, base, start, stop, aligned, z0, z1, z2, z3, z4, z5, z6, z7, DTYPE)


@triton.jit
def _store_run(x_ptr, base, start, stop, aligned, x):
    """Store x at the elements from `base` on that are in [start, stop), 128 bits a lane where that is possible."""
    e = tl.arange(0, x.shape[0])
    if aligned & (base >= start) & (base + x.shape[0] <= stop):
        tl.store(tl.multiple_of(x_ptr + base, 16) + e, x)
    else:
        _store_masked(x_ptr, base + e, start, stop, x)


@triton.jit
def _constant(pattern, SIZE: tl.constexpr, DTYPE: tl.constexpr):
    """The lowest bits of `pattern`, as many as the dtype has, SIZE times."""
    return tl.full((SIZE,), 0, _TYPES[DTYPE]) + pattern.to(_TYPES[DTYPE])


@triton.jit
def _store_constant(dtype, address, base, start, stop, aligned, pattern, SIZE: tl.constexpr, DTYPES: tl.constexpr):
    """Store `pattern` at the elements base, ..., base + SIZE - 1 in [start, stop)."""
    for DTYPE in tl.static_range(_INT8, _INT64 + 1, 2):
        if (DTYPES >> DTYPE) & 1:
            if dtype == DTYPE:
                x = _constant(pattern, SIZE, DTYPE)
                _store_run(_pointer(address, DTYPE), base, start, stop, aligned, x)


@triton.jit
def _store_scattered(dtype, address, at, mask, z, pattern, CONSTANT: tl.constexpr, DTYPES: tl.constexpr):
    """Store z, or the constant, at element offsets `at`, one by one."""
    if CONSTANT:
        for DTYPE in tl.static_range(_INT8, _INT64 + 1, 2):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    tl.store(_pointer(address, DTYPE) + at, _constant(pattern, at.shape[0], DTYPE), mask=mask)
    else:
        for DTYPE in tl.static_range(_BOOL):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    tl.store(_pointer(address, DTYPE) + at, _rounded(z, DTYPE, False), mask=mask)
