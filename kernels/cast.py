"""Casts of a Copy: what an element becomes in another dtype, bit for bit as docs/copies.md has it.

The result depends on the element's bits and the two dtypes, and on nothing else: what GPUs do differently (a number
beyond an integer, 8-bit floats) is made of comparisons, selects and integer operations.
"""

import triton
import triton.language as tl

from .rounding import _float8_bits

# Floats, the widest first; then integers: what is below int32, or it, counts in int32, the next ones in 64 bits.
DTYPES = {
    "float64": 0,
    "float32": 1,
    "bfloat16": 2,
    "float16": 3,
    "float8_e4m3fn": 4,
    "float8_e5m2": 5,
    "bool": 6,
    "int8": 7,
    "uint8": 8,
    "int16": 9,
    "uint16": 10,
    "int32": 11,
    "uint32": 12,
    "int64": 13,
    "uint64": 14,
}

_BOOL = tl.constexpr(DTYPES["bool"])
_INT32 = tl.constexpr(DTYPES["int32"])
_UINT64 = tl.constexpr(DTYPES["uint64"])
_TWO_63 = tl.constexpr(2.0**63)


# What is stored for each dtype, in the order of DTYPES; the same is loaded, but for bfloat16, as its bits.
_TYPES = tl.constexpr(
    (
        *(tl.float64, tl.float32, tl.bfloat16, tl.float16, tl.uint8, tl.uint8, tl.uint8),
        *(tl.int8, tl.uint8, tl.int16, tl.uint16, tl.int32, tl.uint32, tl.int64, tl.uint64),
    )
)


@triton.jit
def _pointer(address, DTYPE: tl.constexpr, STORED: tl.constexpr):
    """`address` as a pointer to what is loaded, or STORED, for this dtype."""
    if DTYPE == 2 and not STORED:
        return address.to(tl.pointer_type(tl.uint16))
    else:
        return address.to(tl.pointer_type(_TYPES[DTYPE]))


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
    if SOURCE == 0:
        return (number.to(tl.uint64, bitcast=True) << 1) != 0
    elif SOURCE < _BOOL:
        return (number.to(tl.uint32, bitcast=True) << 1) != 0
    else:
        return number != 0


@triton.jit
def _float8(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, OVERFLOW: tl.constexpr):
    magnitude = x.to(tl.uint32, bitcast=True) & 0x7FFFFFFF
    return tl.where(magnitude > 0x7F800000, 0x7F, _float8_bits(x, MANTISSA, BIAS, OVERFLOW)).to(tl.uint8)


@triton.jit
def _float(number, OUT: tl.constexpr):
    """Rounded to nearest even; between floats by way of float32."""
    if OUT == 0:
        return number.to(tl.float64)
    elif OUT == 1:
        return number.to(tl.float32)
    elif OUT == 2:
        return number.to(tl.float32).to(tl.bfloat16)
    elif OUT == 3:
        return number.to(tl.float32).to(tl.float16)
    elif OUT == 4:
        return _float8(number.to(tl.float32), 3, 7, 0x7E)
    else:
        return _float8(number.to(tl.float32), 2, 15, 0x7C)


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
