"""The exact float32 fused multiply-add that NumPy lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

_LOW_BITS = np.uint64(2**29 - 1)
_HALFWAY = np.uint64(2**28)
_SMALLEST_NORMAL = 2.0**-126


def fma(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Floats:
    """a * b + c with one rounding, to nearest even: IEEE 754 fusedMultiplyAdd in float32.

    The product of two float32 is exact in float64. The sum is rounded there first, and rounding that once more to
    float32 is right unless the float64 lies halfway between two float32 (or among the subnormals). There, the error of
    the sum (TwoSum, Knuth, TAOCP 2, 4.2.2) says on which side of it the exact sum lies, and one step of the last bit to
    that side, rounding to odd (Boldo and Melquiond, 2008), settles it.

    Args:
        a, b, c: float32 arrays or scalars that broadcast together.

    Examples:
        >>> a = np.float32(1 + 2**-12)
        >>> fma(a, a, np.float32(-1)) - np.float32(2**-11)
        np.float32(5.9604645e-08)
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = np.atleast_1d(product + c)
    doubtful = (total.view(np.uint64) & _LOW_BITS) == _HALFWAY
    doubtful |= np.abs(total) < _SMALLEST_NORMAL
    if doubtful.any():
        at = np.nonzero(doubtful)
        p = np.broadcast_to(product, total.shape)[at]
        addend = np.broadcast_to(np.asarray(c, np.float64), total.shape)[at]
        total[at] = _round_to_odd(p, addend, total[at])
    with np.errstate(over="ignore"):  # what is too large is infinity, as IEEE 754 has it
        return total.astype(np.float32).reshape(np.shape(product + c))


def _round_to_odd(p: NDArray[np.float64], c: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """p + c rounded to odd, given that `total` is p + c rounded to nearest."""
    c_part = total - p
    error = (p - (total - c_part)) + (c - c_part)
    bits = total.view(np.int64)
    away = (error > 0) == (total > 0)
    even_and_inexact = ((bits & 1) == 0) & (error != 0)
    return np.where(even_and_inexact, bits + np.where(away, 1, -1), bits).view(np.float64)
