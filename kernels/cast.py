"""Casts of a Copy: what an element becomes in another dtype, bit for bit as docs/copies.md has it.

The result depends on the element's bits and the two dtypes, and on nothing else: what GPUs do differently (a number
beyond an integer, 8-bit floats) is made of comparisons, selects and integer operations.
"""

import triton
import triton.language as tl

from .dtypes import _BOOL, _INT32, _TYPES, _UINT64, _pointer
from .rounding import _rounded

_TWO_63 = tl.constexpr(2.0**63)


@triton.jit
def _source_pointer(address, SOURCE: tl.constexpr):
    """`address` as a pointer to what is loaded for this dtype: what is stored, but for bfloat16 its bits."""
    if SOURCE == 2:
        return address.to(tl.pointer_type(tl.uint16))
    else:
        return _pointer(address, SOURCE)


@triton.jit
def _number(x, SOURCE: tl.constexpr):
    """The number that was loaded: exact, in float64, float32, int32, int64 or uint64."""
    if SOURCE == 2:
        return (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif SOURCE == 3:
        return x.to(tl.float32)
    elif SOURCE == 4:
        # The fields fit those of float16, whose bias is higher by 8.
        half = ((x & 0x80).to(tl.uint16) << 8) | ((x & 0x7F).to(tl.uint16) << 7)
        number = half.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        return tl.where((x & 0x7F) == 0x7F, float("nan"), number)
    elif SOURCE == 5:
        return (x.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
    elif SOURCE == _BOOL:
        return (x != 0).to(tl.int32)
    elif SOURCE > _BOOL and SOURCE <= _INT32:
        return x.to(tl.int32)
    elif SOURCE == 12:
        return x.to(tl.int64)
    else:
        return x


@triton.jit
def _is_not_zero(number, SOURCE: tl.constexpr):
    """By the bits: a subnormal is not zero, nor is a NaN."""
    if SOURCE == 1:
        return (number.to(tl.uint64, bitcast=True) << 1) != 0
    elif SOURCE < _BOOL:
        return (number.to(tl.uint32, bitcast=True) << 1) != 0
    else:
        return number != 0


@triton.jit
def _float(number, OUT: tl.constexpr):
    """Rounded to nearest even; between floats by way of float32."""
    if OUT == 1:
        return number.to(tl.float64)
    else:
        return _rounded(number.to(tl.float32), OUT, True)


@triton.jit
def _truncated(x, POWER: tl.constexpr):
    """Float x without its fraction, in int32 or int64; what is outside, or NaN, counts as -2**POWER."""
    LIMIT: tl.constexpr = 2.0**POWER
    inside = tl.where(tl.abs(x) < LIMIT, x, -LIMIT)
    if POWER == 31:
        return inside.to(tl.int32)
    else:
        return inside.to(tl.int64)


@triton.jit
def _integer(number, SOURCE: tl.constexpr, OUT: tl.constexpr):
    """An integer of at least the width of OUT, whose low bits are the result."""
    if SOURCE >= _BOOL:
        return number
    elif OUT <= _INT32:
        return _truncated(number, 31)
    elif OUT < _UINT64:
        return _truncated(number, 63)
    else:
        upper = number >= _TWO_63
        low = _truncated(tl.where(upper, number - _TWO_63, number), 63).to(tl.uint64, bitcast=True)
        return low ^ (upper.to(tl.uint64) << 63)


@triton.jit
def _cast(x, SOURCE: tl.constexpr, OUT: tl.constexpr):
    """What is stored for OUT where `x` was loaded for SOURCE; of one dtype the same bits."""
    if SOURCE == OUT:
        return x
    else:
        number = _number(x, SOURCE)
        if OUT < _BOOL:
            return _float(number, OUT)
        elif OUT == _BOOL:
            return _is_not_zero(number, SOURCE).to(tl.uint8)
        else:
            return _integer(number, SOURCE, OUT).to(_TYPES[OUT])
