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
def _store_unit(x_ptr, at, mask, x):
    """Store the rows of x, each side by side from element `at` on, at a multiple of its bytes."""
    V: tl.constexpr = x.shape[1]
    BYTES: tl.constexpr = V * x_ptr.dtype.element_ty.primitive_bitwidth // 8
    unit_ptr = tl.multiple_of(x_ptr + at, 16 if BYTES > 16 else BYTES)
    tl.store(unit_ptr[:, None] + tl.arange(0, V)[None, :], x, mask=mask[:, None])


@triton.jit
def _store_units(dtype, address, at, mask, x, pattern, CONSTANT: tl.constexpr, DTYPES: tl.constexpr):
    """Store the rows of x, or the constant in as many elements, each side by side from element offset `at` on."""
    if CONSTANT:
        for DTYPE in tl.static_range(_INT8, _INT64 + 1, 2):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    constant = _constant(pattern, x.shape[0] * x.shape[1], DTYPE).reshape(x.shape[0], x.shape[1])
                    _store_unit(_pointer(address, DTYPE), at, mask, constant)
    else:
        for DTYPE in tl.static_range(_BOOL):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    _store_unit(_pointer(address, DTYPE), at, mask, _rounded(x, DTYPE, False))


@triton.jit
def _store_four(x_ptr, at, mask, x):
    tl.store(x_ptr + at[0].to(tl.int64), x[0], mask=mask[0])
    tl.store(x_ptr + at[1].to(tl.int64), x[1], mask=mask[1])
    tl.store(x_ptr + at[2].to(tl.int64), x[2], mask=mask[2])
    tl.store(x_ptr + at[3].to(tl.int64), x[3], mask=mask[3])


@triton.jit
def _store_scattered(dtype, address, at, mask, z, pattern, CONSTANT: tl.constexpr, DTYPES: tl.constexpr):
    """Store the four of z, or the constant four times, at the four element offsets `at`, one by one."""
    if CONSTANT:
        for DTYPE in tl.static_range(_INT8, _INT64 + 1, 2):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    x = _constant(pattern, mask[0].shape[0], DTYPE)
                    _store_four(_pointer(address, DTYPE), at, mask, (x, x, x, x))
    else:
        for DTYPE in tl.static_range(_BOOL):
            if (DTYPES >> DTYPE) & 1:
                if dtype == DTYPE:
                    z0, z1 = _rounded(z[0], DTYPE, False), _rounded(z[1], DTYPE, False)
                    z2, z3 = _rounded(z[2], DTYPE, False), _rounded(z[3], DTYPE, False)
                    _store_four(_pointer(address, DTYPE), at, mask, (z0, z1, z2, z3))
