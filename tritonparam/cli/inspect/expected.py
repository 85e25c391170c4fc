"""What a law leads one to expect of numbers in a file: moments, bounds and shares, after rounding to their dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from tritonparam.stream import Constant, Normal, TruncatedNormal, Uniform

BINS = 64
_CELLS = 1 << 14
_REACH = 9.0
RandomLaw = Uniform | Normal | TruncatedNormal


@dataclass(frozen=True)
class Expected:
    """A law as numbers of one dtype follow it: probabilities of the values that the dtype has, or of narrow cells.

    Attributes:
        law: The law.
        values: The values, ascending, float64.
        shares: The probability of each, float64.
        exact: Whether `values` are all that the dtype has; else they are the middles of narrow cells.
        edges: The edges of a histogram for it: BINS + 1 numbers, ascending, float64.
        below: The probability of a value < each edge, <= the last one, float64.
    """

    law: RandomLaw
    values: torch.Tensor
    shares: torch.Tensor
    exact: bool
    edges: torch.Tensor
    below: torch.Tensor

    @cached_property
    def mean(self) -> float:
        """The mean of the rounded values."""
        return float((self.shares * self.values).sum())

    @cached_property
    def variance(self) -> float:
        """The variance of the rounded values."""
        return float((self.shares * (self.values - self.mean) ** 2).sum())

    @cached_property
    def fourth(self) -> float:
        """The fourth central moment of the rounded values."""
        return float((self.shares * (self.values - self.mean) ** 4).sum())

    @cached_property
    def reach(self) -> float:
        """How far from the mean a value can come at all."""
        return float((self.values - self.mean).abs().max())

    @cached_property
    def collision(self) -> float:
        """The probability that two numbers are the same, or in the same cell."""
        return float((self.shares**2).sum())

    def tail(self, distance: float) -> float:
        """The probability of a value at least `distance` away from the mean."""
        distance *= 1 - 1e-6  # float32 rounds the bounds of a law too
        if self.exact:
            return float(self.shares[(self.values - self.mean).abs() >= distance].sum())
        ends = torch.tensor([-math.inf, self.mean - distance, self.mean + distance, math.inf], dtype=torch.float64)
        return float(_mass(self.law, ends[0::2], ends[1::2]).sum())


@lru_cache(maxsize=128)
def expect(law: RandomLaw, dtype: torch.dtype) -> Expected:
    """What to expect of numbers drawn from `law` in float32 and rounded to `dtype`.

    Examples:
        >>> f"{expect(Normal(mean=0.0, std=0.002), torch.float8_e4m3fn).variance ** 0.5:.6f}"
        '0.002078'
    """
    low, high = _window(law)
    edges = torch.from_numpy(np.linspace(low, high, BINS + 1))
    values = _lattice(law, dtype)
    exact = values is not None
    if values is None:
        bounds = torch.linspace(*_support(law), _CELLS + 1, dtype=torch.float64)
        values = (bounds[1:] + bounds[:-1]) / 2
        below = cumulative(law, edges)
    else:
        ends = torch.tensor([math.inf], dtype=torch.float64)
        bounds = torch.cat([-ends, (values[1:] + values[:-1]) / 2, ends])
        below = torch.empty(0)
    shares = _mass(law, bounds[:-1], bounds[1:])
    if not below.numel():
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), shares.cumsum(0)])
        below = sums[torch.searchsorted(values, edges)]
        below[-1] = sums[torch.searchsorted(values, edges[-1], right=True)]
    possible = shares > 1e-20
    return Expected(law, values[possible], shares[possible], exact, edges, below)


def is_testable(law: RandomLaw) -> bool:
    """Whether its numbers, which are drawn in float32, take enough values to be tested.

    Examples:
        >>> is_testable(Normal(mean=1.0, std=1e-6)), is_testable(Normal(mean=1.0, std=1e-38))
        (True, False)
    """
    low, high = _support(law)
    if isinstance(law, TruncatedNormal) and law.high - law.low < 1e-9 * law.std:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    return high - low > 16 * spacing


def is_point(law: RandomLaw) -> bool:
    """Whether the law has only one value."""
    return law.low == law.high if isinstance(law, Uniform) else law.std == 0


def density(law: RandomLaw, x: torch.Tensor) -> torch.Tensor:
    """The probability density of `law` at `x`, before rounding."""
    if isinstance(law, Uniform):
        return ((x >= law.low) & (x <= law.high)) / (law.high - law.low)
    z = (x - law.mean) / law.std
    values = torch.exp(-z * z / 2) / (law.std * math.sqrt(2 * math.pi))
    if isinstance(law, TruncatedNormal):
        values = values * ((x >= law.low) & (x <= law.high)) / _normal_mass(law, law.low, law.high)
    return values


def cumulative(law: RandomLaw, x: torch.Tensor) -> torch.Tensor:
    """The probability of a value <= `x`, before rounding."""
    return _mass(law, torch.full_like(x, -math.inf), x)


def describe(law: Constant | RandomLaw) -> str:
    """The law in a few characters.

    Examples:
        >>> describe(TruncatedNormal(mean=0.0, std=0.02, low=-0.04, high=0.04)), describe(Constant(1.0))
        ('truncated_normal(0, 0.02, -0.04, 0.04)', 'constant(1)')
    """
    if isinstance(law, Constant):
        return f"constant({law.value:g})" if isinstance(law.value, float) else f"constant({law.value})"
    numbers = [law.low, law.high] if isinstance(law, Uniform) else [law.mean, law.std]
    if isinstance(law, TruncatedNormal):
        numbers += [law.low, law.high]
    return f"{law.kind}({', '.join(format(number, '.4g') for number in numbers)})"


def _support(law: RandomLaw) -> tuple[float, float]:
    """An interval with all of the probability that matters."""
    if isinstance(law, Uniform):
        return law.low, law.high
    low, high = law.mean - _REACH * law.std, law.mean + _REACH * law.std
    if isinstance(law, Normal):
        return low, high
    if law.low > law.mean + 3 * law.std:
        return law.low, min(law.high, law.low + _REACH * law.std)
    if law.high < law.mean - 3 * law.std:
        return max(law.low, law.high - _REACH * law.std), law.high
    return max(law.low, low), min(law.high, high)


def _window(law: RandomLaw) -> tuple[float, float]:
    """The interval worth drawing: almost all of the probability."""
    low, high = _support(law)
    if isinstance(law, Uniform):
        return low, high
    return max(low, min(law.mean - 4.5 * law.std, high - law.std)), min(
        high, max(law.mean + 4.5 * law.std, low + law.std)
    )


def _mass(law: RandomLaw, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The probability of (low, high], element by element."""
    if isinstance(law, Uniform):
        return (high.clamp(law.low, law.high) - low.clamp(law.low, law.high)) / (law.high - law.low)
    if isinstance(law, Normal):
        return _normal_mass(law, low, high)
    inside = _normal_mass(law, low.clamp(law.low, law.high), high.clamp(law.low, law.high))
    return inside / _normal_mass(law, law.low, law.high)


def _normal_mass(law: Normal | TruncatedNormal, low: torch.Tensor | float, high: torch.Tensor | float) -> torch.Tensor:
    """The probability of (low, high] under the normal without truncation, from the smaller of the two tails."""
    ends = (torch.as_tensor(low, dtype=torch.float64), torch.as_tensor(high, dtype=torch.float64))
    a, b = ((end - law.mean) / law.std for end in ends)
    ndtr = torch.special.ndtr
    return torch.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))


def _lattice(law: RandomLaw, dtype: torch.dtype) -> torch.Tensor | None:
    """The values that rounding can lead to, ascending, where they are few; None where they are too dense to matter."""
    if dtype.itemsize <= 2:
        codes = torch.arange(-(1 << 15), 1 << 15) if dtype.itemsize == 2 else torch.arange(-128, 128)
        values = codes.to(torch.int16 if dtype.itemsize == 2 else torch.int8).view(dtype).double()
        finite: torch.Tensor = values[values.isfinite() & ~((values == 0) & values.signbit())].sort().values
        return finite
    # Wider dtypes hold float32 values, whose spacing shows only where the spread is tiny beside the mean.
    low, high = (abs(end) for end in _support(law))
    if _support(law)[0] * _support(law)[1] <= 0:
        return None
    first, last = sorted(int(torch.tensor(end, dtype=torch.float32).view(torch.int32)) for end in (low, high))
    if last - first > _CELLS:
        return None
    values = torch.arange(first - 1, last + 2, dtype=torch.int32).view(torch.float32).double()
    return values if _support(law)[0] > 0 else -values.flip(0)
