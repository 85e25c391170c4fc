"""From a law to the float32 parameters that its makers compute with: docs/stream.md, section "Parameters".

Each parameter is an exact number rounded once, so no machine's libm has a say in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np

from tritonparam._underflow import gradual_underflow
from tritonparam.stream.coefficients import RSQRT
from tritonparam.stream.law import Normal, TruncatedNormal, Uniform, float32_bounds

_DIGITS = 160
_SQRT_TWO_PI = (
    "2.506628274631000502415765284811045253006986740609938316629923576"
    "34229365460784197494659583837805726611600997265203879644866323618126736"
)


@dataclass(frozen=True, slots=True)
class UniformParameters:
    """Value = min(word * scale + low, cap), one fma."""

    low: np.float32
    scale: np.float32
    cap: np.float32


@dataclass(frozen=True, slots=True)
class NormalParameters:
    """What `normal` computes with.

    Attributes:
        mean: The mean.
        radius: RSQRT times the standard deviation, each product rounded once.
    """

    mean: np.float32
    radius: tuple[np.float32, ...]


@dataclass(frozen=True, slots=True)
class TruncatedNormalParameters:
    """What `truncated_normal` computes with.

    Attributes:
        mean, std: Of the normal before it is cut.
        low, high: The bounds, rounded inwards, and finite: no value overflows.
        split: Words below it fall below the mean; 0 <= split <= 2**32.
        scale: Mass of the interval * 2**-32.
        below: Mass of the normal below `low`.
        above: Mass of the normal above `high`.
        has_tail: Whether any word needs the tail polynomial; where it is False, computing it anyway changes nothing.
    """

    mean: np.float32
    std: np.float32
    low: np.float32
    high: np.float32
    split: int
    scale: np.float32
    below: np.float32
    above: np.float32
    has_tail: bool


@gradual_underflow()
def lower_uniform(law: Uniform) -> UniformParameters:
    """The float32 parameters of a uniform law."""
    low, high = _unsigned_zero(law.low), _unsigned_zero(law.high)
    cap = max(np.nextafter(high, np.float32(-np.inf)), low)
    return UniformParameters(low, (high - low) * np.float32(2.0**-32), cap)


@gradual_underflow()
def lower_normal(law: Normal) -> NormalParameters:
    """The float32 parameters of a normal law."""
    std = np.float32(law.std)
    return NormalParameters(_unsigned_zero(law.mean), tuple(std * coefficient for coefficient in RSQRT))


@lru_cache(maxsize=1024)
@gradual_underflow()
def lower_truncated_normal(law: TruncatedNormal) -> TruncatedNormalParameters:
    """The float32 parameters of a truncated normal law.

    Raises:
        ValueError: No float32 lies between the bounds.
    """
    low, high = float32_bounds(law)
    with localcontext(Context(prec=_DIGITS)):
        alpha, beta = (_standard(bound, law) for bound in (law.low, law.high))
        below, above = _tail(-alpha), _tail(beta)
        half = Decimal("0.5")
        if alpha > 0:
            mass = _tail(alpha) - above
        elif beta < 0:
            mass = _tail(-beta) - below
        else:
            mass = 1 - below - above
        split = int(min(max((half - below) / mass, Decimal(0)), Decimal(1)) * 2**32)
        smallest = min(below, above)
        widest = -2 * (4 * (smallest + mass / 2**34) * (1 - smallest)).ln()
    return TruncatedNormalParameters(
        mean=_unsigned_zero(law.mean),
        std=np.float32(law.std),
        low=low,
        high=high,
        split=split,
        scale=_to_float32(mass / 2**32),
        below=_to_float32(below),
        above=_to_float32(above),
        has_tail=widest > Decimal("10.99"),
    )


def _standard(bound: float, law: TruncatedNormal) -> Decimal:
    """(bound - mean) / std, exact to _DIGITS; a bound beyond 40 standard deviations counts as 40."""
    if math.isinf(bound):
        return Decimal(40 if bound > 0 else -40)
    exact = (Fraction(bound) - Fraction(law.mean)) / Fraction(law.std)
    return min(max(Decimal(exact.numerator) / Decimal(exact.denominator), Decimal(-40)), Decimal(40))


def _tail(x: Decimal) -> Decimal:
    """The mass of the standard normal above x, for |x| <= 40, to far beyond float32.

    1/2 minus exp(-x**2/2) / sqrt(2 pi) * sum of x**(2n+1) / (1*3*5*...*(2n+1)) (Abramowitz and Stegun 26.2.11).
    """
    if abs(x) == 40:
        return Decimal(0 if x > 0 else 1)
    term = total = x
    n = 1
    while abs(term) > Decimal(10) ** -(_DIGITS - 20):
        term = term * x * x / (2 * n + 1)
        total += term
        n += 1
    return Decimal("0.5") - (-x * x / 2).exp() / Decimal(_SQRT_TWO_PI) * total


def _to_float32(value: Decimal) -> np.float32:
    """`value` rounded once, to nearest even."""
    guess = np.float32(float(value))
    exact = Fraction(value)
    around = (np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf)))
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1))


def _unsigned_zero(value: float) -> np.float32:
    """The float32 nearest to `value`; a zero has no sign, so that no minimum or maximum has to choose between two."""
    return np.float32(value) + np.float32(0)
