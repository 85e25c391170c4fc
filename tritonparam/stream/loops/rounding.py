"""From float32 values to the bits of the tensor's dtype, rounded once to nearest even, in the order of memory.

The values are no NaNs. Bits are made by integers and float32 addition, so no machine's conversion has a say in them.
A loop joins the even elements and the odd ones again.
"""

import numpy as np

from tritonparam.stream.loops.arithmetic import (
    doubles_at,
    float32,
    float_bits,
    floats_at,
    halves_at,
    int32,
    int_bits,
    part,
    smaller,
    uint32,
    uint_bits,
    words_at,
)
from tritonparam.stream.loops.layout import EVEN, ODD

_MAGNITUDE = uint32(0x7FFFFFFF)
_LOW, _HIGH = uint32(0xFFFF), uint32(0xFFFF0000)


@part
def _bfloat16_in_place(x):
    """The bits of a bfloat16 in the upper half of 32, with whatever below."""
    bits = uint_bits(x)
    return uint32(bits + uint32(uint32(0x7FFF) + uint32(uint32(bits >> uint32(16)) & uint32(1))))


def _small_float(exponent_bits, mantissa_bits, largest):
    """What makes the bits of a float of at most 16 bits; `largest` are those of all that is too large."""
    bias = 2 ** (exponent_bits - 1) - 1
    drop = uint32(23 - mantissa_bits)
    half = uint32((1 << (22 - mantissa_bits)) - 1)
    rebias, most = int32((127 - bias) << mantissa_bits), int32(largest)
    smallest_normal = uint32((128 - bias) << 23)
    magic = float32(1.5 * 2.0 ** (24 - bias - mantissa_bits))
    code_mask = int32(2 ** (mantissa_bits + 1) - 1)
    to_sign, sign = uint32(31 - exponent_bits - mantissa_bits), uint32(1 << (exponent_bits + mantissa_bits))

    @part
    def round_bits(x):
        bits = uint_bits(x)
        magnitude = uint32(bits & _MAGNITUDE)
        # Normal: round away the low bits; a carry raises the exponent.
        kept = uint32(magnitude + half + uint32(uint32(magnitude >> drop) & uint32(1)))
        normal = smaller(int32(int32(uint32(kept >> drop)) - rebias), most)
        # Subnormal: in the last bits of this sum stands the multiple of the smallest subnormal.
        subnormal = int32(int_bits(float_bits(magnitude) + magic) & code_mask)
        code = uint32(subnormal if magnitude < smallest_normal else normal)
        return uint32(code | uint32(uint32(bits >> to_sign) & sign))

    return round_bits


_float16 = _small_float(5, 10, 0x7C00)
_float8_e4m3fn = _small_float(4, 3, 0x7E)
_float8_e5m2 = _small_float(5, 2, 0x7C)


def float32_bits(scratch, out, n):
    """Store n pairs of values. All loops here take the same.

    Args:
        scratch: Address of a scratch with the values; see `layout.py`.
        out: Address of the 2n elements.
        n: How many pairs.
    """
    even, odd, bits = words_at(scratch, EVEN), words_at(scratch, ODD), words_at(out, 0)
    for i in range(n):
        bits[2 * i], bits[2 * i + 1] = even[i], odd[i]


def float64_bits(scratch, out, n):
    """Store n pairs of values, widened."""
    even, odd, values = floats_at(scratch, EVEN), floats_at(scratch, ODD), doubles_at(out, 0)
    for i in range(n):
        values[2 * i], values[2 * i + 1] = np.float64(even[i]), np.float64(odd[i])


def bfloat16_bits(scratch, out, n):
    """Store n pairs of values as bfloat16."""
    even, odd, bits = floats_at(scratch, EVEN), floats_at(scratch, ODD), words_at(out, 0)
    for i in range(n):
        low, high = _bfloat16_in_place(even[i]), _bfloat16_in_place(odd[i])
        bits[i] = uint32(uint32(low >> uint32(16)) | uint32(high & _HIGH))


def float16_bits(scratch, out, n):
    """Store n pairs of values as float16."""
    even, odd, bits = floats_at(scratch, EVEN), floats_at(scratch, ODD), words_at(out, 0)
    for i in range(n):
        bits[i] = uint32(_float16(even[i]) | uint32(_float16(odd[i]) << uint32(16)))


def _bytes(round_bits):
    def float8_bits(scratch, out, n):
        """Store n pairs of values as 8-bit floats."""
        even, odd, bits = floats_at(scratch, EVEN), floats_at(scratch, ODD), halves_at(out, 0)
        for i in range(n):
            bits[i] = np.uint16(uint32(round_bits(even[i]) | uint32(round_bits(odd[i]) << uint32(8))))

    return float8_bits


float8_e4m3fn_bits, float8_e5m2_bits = _bytes(_float8_e4m3fn), _bytes(_float8_e5m2)
