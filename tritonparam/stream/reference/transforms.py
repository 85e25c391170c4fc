"""From words to float32 values: docs/stream.md, sections 5 to 7, operation by operation.

Everything here is integer arithmetic, float32 +, -, * and fma, comparison and bit casts: exact IEEE 754 operations that
give the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tritonparam.stream.coefficients import (
    BELOW_TWO,
    CENTRAL,
    COS,
    LOG,
    MINUS_LN4_ULP,
    RSQRT,
    RSQRT_SEED,
    SIN,
    TAIL,
    TAIL_FROM,
)
from tritonparam.stream.lowering import NormalParameters, TruncatedNormalParameters, UniformParameters
from tritonparam.stream.reference.fma import Floats, fma
from tritonparam.stream.reference.philox import Words

Ints = NDArray[np.int32]


def _polynomial(x: Floats, coefficients: Sequence[np.float32]) -> Floats:
    """Horner's scheme, every step one fma."""
    *rest, last = coefficients
    value = np.full_like(x, last)
    for coefficient in reversed(rest):
        value = fma(value, x, coefficient)
    return value


def _int_bits(x: Floats) -> Ints:
    return x.view(np.int32)


def _float_bits(n: Ints) -> Floats:
    return n.view(np.float32)


def _signed(words: Words) -> Floats:
    """The words, read as signed integers, as float32."""
    return np.ascontiguousarray(words).view(np.int32).astype(np.float32)


def _fraction(m: Ints) -> Floats:
    """n of u = 2**-k * (1 + n/2), -1 < n <= 0, from m = 2**23 * (1 - k + n) - 1."""
    return _float_bits((m & np.int32(0x007FFFFF)) | np.int32(0x3F800000)) - BELOW_TWO


def _minus_two_log(m: Ints, n: Floats) -> Floats:
    """-2 ln u, with k from m."""
    return fma(n, _polynomial(n, LOG), (m & np.int32(-0x00800000)).astype(np.float32) * MINUS_LN4_ULP)


def _sqrt_parts(x: Floats, rsqrt: Sequence[np.float32]) -> tuple[Floats, Floats, Floats]:
    """(g, y, c) with g * c = sqrt(x) and y * c = 1 / sqrt(x), times what RSQRT is multiplied with in `rsqrt`."""
    y = _float_bits(RSQRT_SEED + (-_int_bits(x) >> np.int32(1)))
    g = x * y
    return g, y, _polynomial(fma(g, y, np.float32(-1)), rsqrt)


def uniform(words: Words, parameters: UniformParameters) -> Floats:
    """Element i from word i: low + word * scale, kept below high. Shape and order of `words`."""
    return np.minimum(fma(words.astype(np.float32), parameters.scale, parameters.low), parameters.cap)


def normal(words: Words, parameters: NormalParameters) -> Floats:
    """Box and Muller's transform of the word pairs (0, 1) and (2, 3).

    Args:
        words: uint32 of shape [n, 4].

    Returns:
        float32 of shape [n, 4].
    """
    pairs = words.reshape(-1, 2)
    radius_word, angle_word = pairs[:, 0], pairs[:, 1]

    f = _signed(radius_word) + np.float32(0.5)
    m = np.minimum(_int_bits(f) - np.int32(0x4F000001), np.int32(0x007FFFFF))  # wraps to above where f < 0
    n = fma(np.minimum(f, np.float32(0)), np.float32(2.0**-31), _fraction(m))
    g, _, c = _sqrt_parts(_minus_two_log(m, n), parameters.radius)
    r = (g.view(np.uint32) + (angle_word << np.uint32(31))).view(np.float32) * c

    x = _signed(angle_word) * np.float32(2.0**-31)
    y = x * x
    near, far = fma(r, _polynomial(y, COS), parameters.mean), fma(r * x, _polynomial(y, SIN), parameters.mean)
    swap = (angle_word & np.uint32(2)) != 0
    return np.stack((np.where(swap, far, near), np.where(swap, near, far)), axis=1).reshape(words.shape)


def truncated_normal(words: Words, parameters: TruncatedNormalParameters) -> Floats:
    """The inverse of the normal distribution function on the interval, at word i. Shape and order of `words`."""
    below = words.astype(np.int64) < parameters.split
    f = np.where(below, words, ~words).astype(np.float32) + np.float32(0.5)
    q = fma(f, parameters.scale, np.where(below, parameters.below, parameters.above))  # the mass of the nearer tail

    m = _int_bits((q * np.float32(4)) * (np.float32(1) - q)) - np.int32(0x3F000001)
    w = _minus_two_log(m, _fraction(m))
    z = fma(np.float32(-2), q, np.float32(1)) * _polynomial(w, CENTRAL)
    if parameters.has_tail:
        g, y, c = _sqrt_parts(np.maximum(w, TAIL_FROM), RSQRT)
        z = np.where(w > TAIL_FROM, (g * c) * _polynomial(y * c, TAIL), z)
    z = np.where(below, -z, z)
    return np.minimum(np.maximum(fma(z, parameters.std, parameters.mean), parameters.low), parameters.high)
