"""Statistics of numbers that arrive in pieces, and tests of them whose false-alarm rate is a bound, not an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from tritonparam.cli.inspect.expected import BINS, Expected, describe, expect, is_point, is_testable
from tritonparam.stream import Constant, Law, constant_tensor

TESTS = 4
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, least and greatest of the finite numbers seen, and how many were not."""

    count: int = 0
    mean: float = math.nan
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    nans: int = 0
    infinities: int = 0

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """See `numbers`, float64, at least one; returns the finite ones."""
        variance, mean = (float(value) for value in torch.var_mean(numbers, correction=0))
        if not math.isfinite(variance):  # much cheaper than looking at every number
            finite = numbers.isfinite()
            nans = int(numbers.isnan().sum())
            self.nans += nans
            self.infinities += int((~finite).sum()) - nans
            numbers = numbers[finite]
            if not numbers.numel():
                return numbers
            variance, mean = (float(value) for value in torch.var_mean(numbers, correction=0))
        low, high = (float(value) for value in torch.aminmax(numbers))
        self.merge(Moments(numbers.numel(), mean, variance * numbers.numel(), low, high))
        return numbers

    def merge(self, other: Moments) -> None:
        """See what `other` has seen."""
        self.nans += other.nans
        self.infinities += other.infinities
        if not other.count:
            return
        total = self.count + other.count
        if self.count:
            gap = other.mean - self.mean
            self.squares += other.squares + gap * gap * self.count * other.count / total
            self.mean += gap * other.count / total
        else:
            self.mean, self.squares = other.mean, other.squares
        self.count = total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def std(self) -> float:
        """The standard deviation (of the numbers themselves: divided by their count)."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan


@dataclass
class Group:
    """The numbers of one tensor that follow one law; law None: not known.

    Attributes:
        law: The law.
        dtype: The dtype of the numbers.
        moments: What they came to.
        histogram: How many fell below the first edge of `expected`, between edges, and above the last one.
        wrong: How many differ from the constant that they should be.
    """

    law: Law | None
    dtype: torch.dtype
    moments: Moments = field(default_factory=Moments)
    histogram: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS + 2, dtype=torch.int64))
    wrong: int = 0

    @cached_property
    def expected(self) -> Expected | None:
        """What the law leads one to expect; None for a constant, an unknown law and one that cannot be tested."""
        if self.law is None or isinstance(self.law, Constant) or is_point(self.law) or not is_testable(self.law):
            return None
        return expect(self.law, self.dtype)

    @cached_property
    def constant(self) -> Constant | None:
        """The constant that the numbers should be; None where they should vary."""
        if self.law is None or isinstance(self.law, Constant):
            return self.law
        if is_point(self.law):
            return Constant(self.law.low if self.law.kind == "uniform" else self.law.mean)  # type: ignore[union-attr]
        return None

    def add(self, numbers: torch.Tensor) -> None:
        """See `numbers`, one-dimensional, of the group's dtype."""
        constant, expected = self.constant, self.expected
        if constant is not None:
            integer = _INTEGERS[self.dtype.itemsize]
            self.wrong += int((numbers.view(integer) != constant_tensor(constant, self.dtype).view(integer)).sum())
        finite = self.moments.add(numbers.double())
        if expected is not None:
            low, high = float(expected.edges[0]), float(expected.edges[-1])
            counts, _ = np.histogram(finite.numpy(), BINS, (low, high))
            under = int((finite < low).sum())
            self.histogram += torch.tensor([under, *counts, finite.numel() - under - counts.sum()])

    def problems(self, threshold: float) -> list[str]:
        """What of the group disagrees with its law: a test fails where its p-value is below `threshold`."""
        if self.constant is not None:
            return [f"{self.wrong} of {self.moments.count} differ from {describe(self.constant)}"] if self.wrong else []
        if self.expected is None:
            return []
        found = [
            f"{number} {name}"
            for number, name in ((self.moments.nans, "NaN"), (self.moments.infinities, "Inf"))
            if number
        ]
        if not self.moments.count:
            return found
        for text, p_value in _tests(self.moments, self.histogram, self.expected):
            if p_value < threshold:
                found.append(f"{text} (p < {max(p_value, 1e-300):.0e})")
        return found


def _tests(moments: Moments, histogram: torch.Tensor, expected: Expected) -> list[tuple[str, float]]:
    """The TESTS tests: a text for a failure and an upper bound of the p-value, valid for every number of elements."""
    mean, variance, count = expected.mean, expected.variance, moments.count
    gone = moments.mean - mean
    second = moments.squares / count + gone * gone
    shares = histogram[:-1].cumsum(0) / count
    gap = float((shares - expected.below).abs().max())
    span = max(abs(moments.low - mean), abs(moments.high - mean))
    return [
        (
            f"mean {moments.mean:.4g}, expected {mean:.4g}",
            _bernstein(abs(moments.mean - mean), variance, expected.reach, count),
        ),
        (f"std {moments.std:.4g}, expected {math.sqrt(variance):.4g}", _second_moment(second, expected, count)),
        (f"range [{moments.low:.4g}, {moments.high:.4g}]", min(1.0, count * expected.tail(span))),
        (f"shape off by {gap:.3g}", 2 * math.exp(-2 * count * gap * gap)),
    ]


def _second_moment(second: float, expected: Expected, count: int) -> float:
    """A bound for the p-value of the mean square `second` about the expected mean."""
    variance, fourth = expected.variance, expected.fourth
    if variance == 0:
        return 0.0 if second else 1.0
    if abs(fourth / variance**2 - 3) < 0.05:
        # Chernoff's bound for chi-squared with `count` degrees of freedom: tighter than Bernstein's for normal numbers.
        ratio = second / variance
        return 2 * math.exp(-count / 2 * (ratio - 1 - math.log(ratio))) if ratio else 0.0
    return _bernstein(abs(second - variance), fourth - variance**2, max(expected.reach**2, variance), count)


def _bernstein(gap: float, variance: float, reach: float, count: int) -> float:
    """Bernstein's bound for a mean of `count` numbers, none further than `reach` from expected, to be off by `gap`."""
    if gap == 0:
        return 1.0
    # Half a unit of float64 rounding for each number is not evidence of anything.
    gap = max(0.0, gap - 1e-15 * reach)
    scale = variance + reach * gap / 3
    return 2 * math.exp(-count * gap * gap / 2 / scale) if scale else 0.0
