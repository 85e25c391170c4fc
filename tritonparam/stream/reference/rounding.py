"""From float32 values to the bits of the tensor's dtype: docs/stream.md, section "Rounding"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tritonparam.stream.reference.fma import Floats


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """A binary format of at most 16 bits.

    Attributes:
        exponent_bits, mantissa_bits: Widths of the fields; the bias is 2**(exponent_bits - 1) - 1.
        has_infinity: False for e4m3fn, whose highest exponent holds numbers and, all ones, NaN: what is too large
            becomes its largest number there.
    """

    exponent_bits: int
    mantissa_bits: int
    has_infinity: bool = True


SMALL_FLOATS = {
    "float16": SmallFloat(5, 10),
    "bfloat16": SmallFloat(8, 7),
    "float8_e4m3fn": SmallFloat(4, 3, has_infinity=False),
    "float8_e5m2": SmallFloat(5, 2),
}
RANDOM_DTYPES = ("float32", "float64", *SMALL_FLOATS)


def round_bits(x: Floats, dtype: str) -> NDArray[np.unsignedinteger]:
    """The bits of `x`, which is no NaN, in `dtype`, rounded once to nearest, ties to even.

    What is too large becomes infinity, or the largest number of e4m3fn, which has no infinity.

    Args:
        x: float32.
        dtype: One of RANDOM_DTYPES.

    Returns:
        Unsigned integers of the width of `dtype`, in the shape of `x`.

    Examples:
        >>> hex(round_bits(np.array([1.00390625], np.float32), "bfloat16")[0])  # halfway between 0x3f80 and 0x3f81
        '0x3f80'
    """
    if dtype == "float32":
        return x.view(np.uint32)
    if dtype == "float64":
        return x.astype(np.float64).view(np.uint64)
    small = SMALL_FLOATS[dtype]
    bias = 2 ** (small.exponent_bits - 1) - 1
    bits = x.view(np.uint32).astype(np.int64)
    sign, magnitude = bits >> 31, bits & 0x7FFFFFFF

    # The significand as an integer and the weight of its last bit; shift away what the format cannot hold.
    exponent = np.maximum(magnitude >> 23, 1)
    significand = (magnitude & 0x7FFFFF) | np.where(magnitude >> 23 > 0, 0x800000, 0)
    target = np.maximum(exponent - 127 + bias, 1)
    shift = np.minimum(23 - small.mantissa_bits + (target - (exponent - 127 + bias)), 40)
    kept = significand >> shift
    rest, half = significand & ((1 << shift) - 1), 1 << (shift - 1)
    kept += (rest > half) | ((rest == half) & (kept & 1 == 1))

    rounded = ((target - 1) << small.mantissa_bits) + kept  # a carry out of the significand raises the exponent
    top = (2**small.exponent_bits - 1) << small.mantissa_bits
    rounded = np.minimum(rounded, top if small.has_infinity else top + 2**small.mantissa_bits - 2)
    width = 1 + small.exponent_bits + small.mantissa_bits
    result: NDArray[np.unsignedinteger] = ((sign << (width - 1)) | rounded).astype(f"uint{width}")
    return result
