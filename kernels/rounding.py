"""From float32 values to the bits of an 8-bit float, rounded once to nearest even: by integers, for all architectures.

Wider dtypes need nothing here: the device's own conversion rounds to nearest even.
"""

import triton
import triton.language as tl


@triton.jit
def _float8_bits(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, OVERFLOW: tl.constexpr):
    """uint8 bits of `x`. OVERFLOW stands for everything too large (e4m3fn: its largest number, e5m2: infinity)."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
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
    return (code | (bits >> 24 & 0x80).to(tl.int32, bitcast=True)).to(tl.uint8)
