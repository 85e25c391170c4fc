"""What an element becomes in another dtype: the definition of the casts of a Copy, bit for bit those of `copy_`.

Between floats a value goes through float32, where neither of the two is wider: from float64 to bfloat16 it is rounded
twice, as torch does. docs/copies.md has the rules in words.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tritonparam.stream.reference.rounding import SMALL_FLOATS, SmallFloat, round_bits

Bits = NDArray[np.unsignedinteger]
Numbers = NDArray[np.number]

FLOATS = ("float64", "float32", *SMALL_FLOATS)
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
CAST_DTYPES = (*FLOATS, *INTEGERS)


def cast_bits(bits: Bits, source: str, out: str) -> Bits:
    """The bits, in dtype `out`, of elements whose bits in dtype `source` are `bits`.

    A NaN becomes a NaN in a float; its sign and payload are not defined (here it is the quiet one without sign). Of one
    dtype nothing changes, NaNs included.

    Args:
        bits: Unsigned integers of the width of `source`.
        source, out: In CAST_DTYPES.

    Returns:
        Unsigned integers of the width of `out`, in the shape of `bits`.

    Examples:
        >>> [hex(each) for each in cast_bits(np.array([0x3F808000, 0x43C80000], np.uint32), "float32", "bfloat16")]
        ['0x3f80', '0x43c8']
        >>> cast_bits(np.array([0x43968000], np.uint32), "float32", "uint8")  # 301.0, modulo 256
        array([45], dtype=uint8)
    """
    if source == out:
        return bits
    if not bits.ndim:
        return cast_bits(bits.reshape(1), source, out).reshape(())
    with np.errstate(over="ignore", invalid="ignore"):
        values = _values(bits, source)
        if out == "bool":
            return np.not_equal(values, 0).view(np.uint8)
        if out in FLOATS:
            return _float_bits(values, out)
        whole = _truncated(values, out) if values.dtype.kind == "f" else values
        low: Bits = whole.astype(f"uint{8 * np.dtype(out).itemsize}")
        return low


def _values(bits: Bits, dtype: str) -> Numbers:
    """The numbers: exact, in float64, float32, int64 or uint64."""
    if dtype == "bool":
        return np.not_equal(bits, 0).astype(np.int64)
    if dtype in INTEGERS:
        integers: Numbers = bits.view(dtype).astype(np.uint64 if dtype == "uint64" else np.int64)
        return integers
    if dtype in ("float32", "float64"):
        floats: Numbers = bits.view(dtype)
        return floats
    return _decoded(bits.astype(np.int64), SMALL_FLOATS[dtype])


def _decoded(bits: NDArray[np.int64], small: SmallFloat) -> NDArray[np.float32]:
    top = 2**small.exponent_bits - 1
    sign = 1 - 2.0 * (bits >> (small.exponent_bits + small.mantissa_bits))
    exponent, mantissa = bits >> small.mantissa_bits & top, bits & (2**small.mantissa_bits - 1)
    significand = mantissa + np.where(exponent > 0, 2**small.mantissa_bits, 0)
    scale = np.maximum(exponent, 1) - (top // 2) - small.mantissa_bits
    values = sign * np.ldexp(significand.astype(np.float64), scale)
    if small.has_infinity:
        values[exponent == top] = sign[exponent == top] * np.inf
        values[(exponent == top) & (mantissa != 0)] = np.nan
    else:
        values[(exponent == top) & (mantissa == 2**small.mantissa_bits - 1)] = np.nan
    decoded: NDArray[np.float32] = values.astype(np.float32)
    return decoded


def _truncated(values: Numbers, out: str) -> Numbers:
    """Floats without their fraction, as integers of 64 bits, of which the lowest ones are the result.

    Below 32 bits and in int32 what is outside int32, or NaN, counts as -2**31; elsewhere what is outside int64 as
    -2**63. uint64 counts on from 2**63 in the same way.
    """
    wide = np.trunc(values.astype(np.float64))
    if out == "uint64":
        upper = wide >= 2.0**63
        return _in_range(np.where(upper, wide - 2.0**63, wide), 63).view(np.uint64) ^ (
            upper.astype(np.uint64) << np.uint64(63)
        )
    return _in_range(wide, 63 if out in ("int64", "uint32") else 31)


def _in_range(wide: NDArray[np.float64], power: int) -> NDArray[np.int64]:
    inside = (wide >= -(2.0**power)) & (wide < 2.0**power)
    return np.where(inside, wide, -(2.0**power)).astype(np.int64)


def _float_bits(values: Numbers, out: str) -> Bits:
    if out == "float64":
        return values.astype(np.float64).view(np.uint64)
    x = values.astype(np.float32)
    if out == "float32":
        return x.view(np.uint32)
    small = SMALL_FLOATS[out]
    bits = round_bits(x, out)  # of a NaN anything, until the last line
    top = (2**small.exponent_bits - 1) << small.mantissa_bits
    bits[np.isnan(x)] = top | (2 ** (small.mantissa_bits - 1) if small.has_infinity else 2**small.mantissa_bits - 1)
    return bits
