"""The reference's fma is IEEE 754's: a * b + c rounded once, to nearest even, for all float32 numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritonparam.stream.reference.fma import fma

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = Fraction(2**24 - 1) * 2**104


def rounded(exact: Fraction) -> float:
    """The float32 nearest to a number, ties to even, by integer arithmetic."""
    if not exact:
        return 0.0
    magnitude = abs(exact)
    exponent = max(magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 24, -149)
    if magnitude >= Fraction(2) ** (exponent + 24):
        exponent += 1
    significand = round(magnitude / Fraction(2) ** exponent)  # Python rounds ties to even
    value = significand * Fraction(2) ** exponent
    return float("inf") if value > LARGEST else float(value)


@settings(max_examples=2000)
@given(FLOATS, FLOATS, FLOATS)
@example(np.float32(1 + 2**-12).item(), np.float32(1 + 2**-12).item(), 2.0**-60)
@example(np.float32(1 + 2**-23).item(), 1.0, 2.0**-24)
@example(1.0, 2.0**-149, 2.0**-149)
@example(2.0**-75, 2.0**-75, 2.0**-149)
def test_one_rounding_to_nearest_even(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    with np.errstate(over="ignore"):
        got = fma(np.float32(a), np.float32(b), np.float32(c)).item()
    want = rounded(exact) * (-1 if exact < 0 else 1)
    assert got == want, f"a {a.hex()} b {b.hex()} c {c.hex()} got {got.hex()} want {want.hex()}"


@settings(max_examples=500)
@given(st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1), st.integers(-30, 30), st.sampled_from([-1, 1]))
def test_sums_near_a_tie(a: int, b: int, shift: int, sign: int) -> None:
    """c lies just above, on or below half a unit of the product's last bit: where rounding twice goes wrong."""
    x, y = np.float32(a), np.float32(b)
    c = np.float32(sign * 2.0**shift)
    got = fma(x, y, c).item()
    exact = Fraction(a) * b + Fraction(float(c))
    assert got == rounded(exact) * (-1 if exact < 0 else 1)


def test_rounding_twice_would_be_noticed() -> None:
    """The plain float64 sum, rounded to float32, fails the same comparison."""
    a, c = np.float32(1 + 2**-12), np.float32(2.0**-60)
    exact = Fraction(float(a)) ** 2 + Fraction(float(c))
    naive = np.float32(np.float64(a) * np.float64(a) + np.float64(c)).item()
    assert naive != rounded(exact)


def test_arrays_broadcast_and_keep_their_shape() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(fma(a, np.float32(2), np.float32(1)), 2 * a + 1)
    assert fma(a, np.float32(2), np.float32(1)).dtype == np.float32
    assert fma(np.zeros((0, 4), np.float32), np.float32(1), np.float32(1)).shape == (0, 4)
