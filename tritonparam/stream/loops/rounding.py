"""From float32 values to the bits of the tensor's dtype, rounded once to nearest even, in the order of memory.

The values are no NaNs. Bits are made by integers and float32 addition, so no machine's conversion has a say in them.
"""

import numpy as np

from tritonparam.stream.loops.arithmetic import (
    bytes_at,
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
)

_MAGNITUDE = uint32(0x7FFFFFFF)


@part
def _bfloat16(x):
    """The upper half of the bits, to nearest even."""
    bits = uint_bits(x)
    tie = uint32(uint32(bits >> uint32(16)) & uint32(1))
    return uint32(uint32(bits + uint32(uint32(0x7FFF) + tie)) >> uint32(16))


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


def float64_bits(source, _, out, n):
    """Store n float32, widened. All loops here take the same.

    Args:
        source: Address of the values.
        out: Address of the n elements.
        n: How many.
    """
    values, widened = floats_at(source, 0), doubles_at(out, 0)
    for i in range(n):
        widened[i] = np.float64(values[i])


def bfloat16_bits(source, _, out, n):
    """Store n float32 as bfloat16."""
    values, bits = floats_at(source, 0), halves_at(out, 0)
    for i in range(n):
        bits[i] = np.uint16(_bfloat16(values[i]))


def float16_bits(source, _, out, n):
    """Store n float32 as float16."""
    values, bits = floats_at(source, 0), halves_at(out, 0)
    for i in range(n):
        bits[i] = np.uint16(_float16(values[i]))


def _to_bytes(round_bits):
    def float8_bits(source, _, out, n):
        """Store n float32 as 8-bit floats."""
        values, bits = floats_at(source, 0), bytes_at(out, 0)
        for i in range(n):
            bits[i] = np.uint8(round_bits(values[i]))

    return float8_bits


float8_e4m3fn_bits, float8_e5m2_bits = _to_bytes(_float8_e4m3fn), _to_bytes(_float8_e5m2)
