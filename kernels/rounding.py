"""From float32 values to what is stored for a float dtype, rounded once to nearest even.

The bits of an 8-bit float are made by integers, for all architectures; of wider dtypes by the device's own conversion.
Triton's interpreter truncates a bfloat16, so there its bits are made by integers too.
"""

import triton
import triton.language as tl

from .dtypes import _TYPES


@triton.jit
def _float8_bits(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, OVERFLOW: tl.constexpr, HAS_NAN: tl.constexpr):
    """uint8 bits of `x`. OVERFLOW stands for everything too large (e4m3fn: its largest number, e5m2: infinity)."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    is_nan = magnitude > 0x7F800000
    DROP: tl.constexpr = 23 - MANTISSA

    # Normal: round away the low bits; a carry raises the exponent.
    normal = (magnitude + ((1 << (DROP - 1)) - 1) + ((magnitude >> DROP) & 1)) >> DROP
    normal = normal.to(tl.int32, bitcast=True) - ((127 - BIAS) << MANTISSA)
    # Subnormal: adding this power of two leaves, in the last bits of the sum, the multiple of the smallest subnormal.
    MAGIC: tl.constexpr = 1.5 * 2.0 ** (24 - BIAS - MANTISSA)
    shifted = (magnitude.to(tl.float32, bitcast=True) + MAGIC).to(tl.int32, bitcast=True)
    SMALLEST_NORMAL: tl.constexpr = (128 - BIAS) << 23
    subnormal = shifted & 0xFF
    code = tl.where(magnitude < SMALLEST_NORMAL, subnormal, tl.minimum(normal, OVERFLOW))
    code = (code | (bits >> 24 & 0x80).to(tl.int32, bitcast=True)).to(tl.uint8)
    if HAS_NAN:
        return tl.where(is_nan, 0x7F, code).to(tl.uint8)
    else:
        return code


_INTERPRETED = tl.constexpr(not isinstance(_float8_bits, triton.JITFunction))


@triton.jit
def _bfloat16(x):
    """float32 `x` as a bfloat16, by integers; a NaN stays one."""
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return tl.where(is_nan, 0x7FC0, rounded).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _rounded(x, DTYPE: tl.constexpr, HAS_NAN: tl.constexpr):
    """float32 `x` as what is stored for a float dtype. HAS_NAN: whether `x` may be a NaN."""
    if DTYPE == 4:
        return _float8_bits(x, 3, 7, 0x7E, HAS_NAN)
    elif DTYPE == 5:
        return _float8_bits(x, 2, 15, 0x7C, HAS_NAN)
    elif DTYPE == 2 and _INTERPRETED:
        return _bfloat16(x)
    else:
        return x.to(_TYPES[DTYPE])
