"""Statistics of numbers that arrive in pieces, and tests of them whose false-alarm rate is a bound, not an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from tritonparam.cli.inspect.expected import BINS, Expected, RandomLaw, describe, expect, is_point, is_testable
from tritonparam.stream import Constant, Law, constant_tensor

TESTS = 4
Bits = np.ndarray[Any, np.dtype[Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.intp]]
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

    def add(self, numbers: Floats) -> Floats:
        """See `numbers`, at least one; returns the finite ones."""
        mean, squares = _mean_and_squares(numbers)
        if not math.isfinite(squares):  # much cheaper than looking at every number
            finite = np.isfinite(numbers)
            nans = int(np.isnan(numbers).sum())
            self.nans += nans
            self.infinities += int((~finite).sum()) - nans
            numbers = numbers[finite]
            if not numbers.size:
                return numbers
            mean, squares = _mean_and_squares(numbers)
        self.merge(Moments(numbers.size, mean, squares, float(numbers.min()), float(numbers.max())))
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


def _mean_and_squares(numbers: Floats) -> tuple[float, float]:
    """The mean, and the sum of the squares of what is left without it."""
    mean = float(numbers.sum()) / numbers.size
    rest = numbers - mean
    return mean, float(np.einsum("i,i->", rest, rest))  # np.dot starts threads


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
        # NumPy's loops are of one thread: several tensors are looked at side by side.
        constant, expected = self.constant, self.expected
        integer = _INTEGERS[self.dtype.itemsize]
        bits = numbers.view(integer).numpy()
        if constant is not None:
            self.wrong += int((bits != constant_tensor(constant, self.dtype).view(integer).item()).sum())
        with np.errstate(invalid="ignore", over="ignore"):  # of damaged exponents
            finite = self.moments.add(_as_floats(bits, self.dtype))
            if expected is not None:
                self.histogram += torch.from_numpy(_histogram(bits, self.dtype, finite, expected))

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


def _codes(bits: Bits) -> Bits:
    """Bits of at most 16 as indices."""
    return bits.view(np.uint16 if bits.itemsize == 2 else np.uint8)


@lru_cache
def _float_of_code(dtype: torch.dtype) -> Floats:
    """All numbers of a dtype of at most 16 bits, by their bits."""
    codes = torch.arange(1 << 8 * dtype.itemsize, dtype=torch.int32)
    floats: Floats = codes.to(_INTEGERS[dtype.itemsize]).view(dtype).double().numpy()
    return floats


def _as_floats(bits: Bits, dtype: torch.dtype) -> Floats:
    """The numbers of `dtype` that have these bits."""
    if dtype.itemsize <= 2:
        return _float_of_code(dtype)[_codes(bits)]
    floats: Floats = torch.from_numpy(bits).view(dtype).numpy().astype(np.float64)
    return floats


def _entries(numbers: Floats, edges: Floats) -> Counts:
    """Which entry of a histogram each number counts in: 0 below all edges, BINS + 1 above; the last edge is within."""
    found = np.searchsorted(edges, numbers, side="right")
    found[numbers == edges[-1]] = BINS
    return found


@lru_cache(maxsize=128)
def _entry_of_code(law: RandomLaw, dtype: torch.dtype) -> Counts:
    """Which entry of the law's histogram each number of `dtype` counts in, by its bits; one too many for no number."""
    floats = _float_of_code(dtype)
    return np.where(np.isfinite(floats), _entries(floats, expect(law, dtype).edges.numpy()), BINS + 2)


def _histogram(bits: Bits, dtype: torch.dtype, finite: Floats, expected: Expected) -> Counts:
    """How many of some numbers are below the first edge of `expected`, between edges, and above the last one.

    Args:
        bits: Those of the numbers.
        dtype: Of the numbers.
        finite: The numbers, without those that are not finite, which are not counted.
        expected: What they should follow.
    """
    if dtype.itemsize <= 2:
        return np.bincount(_entry_of_code(expected.law, dtype)[_codes(bits)], minlength=BINS + 3)[: BINS + 2]
    edges = expected.edges.numpy()
    if expected.exact:  # edges themselves are among the numbers
        return np.bincount(_entries(finite, edges), minlength=BINS + 2)
    # Values lie so dense that it does not matter in which of two bins one at their edge is.
    low, high = edges[0], edges[-1]
    places = (finite - low) * (BINS / (high - low))
    counts = np.bincount(np.clip(places, 0, BINS - 1, out=places).astype(np.int64), minlength=BINS)
    under, over = np.count_nonzero(finite < low), np.count_nonzero(finite > high)
    counts[0] -= under
    counts[-1] -= over
    return np.array([under, *counts, over])


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
