"""Values follow their laws, in the tails and jointly.

Seeds are fixed. Each test states its statistic; each fails by chance with a probability of at most 1e-6 (`ALARM`), by
the exact or asymptotic distribution of the statistic under the law.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tritonparam import Law, Normal, TruncatedNormal, Uniform, derive_key
from tritonparam.stream.reference.fill import block_values
from tritonparam.stream.reference.philox import block_words

stats = pytest.importorskip("scipy.stats")

ALARM = 1e-6
COUNT = 2**22
Vector = NDArray[np.float64]


def values(law: Law, count: int = COUNT, seed: int = 0, name: str = "w", first_block: int = 0) -> Vector:
    """Consecutive elements, [count / 4, 4]: a row is a Philox block."""
    block = first_block + np.arange(count // 4)
    chunks = np.array_split(block, max(1, count // 2**17))
    key = derive_key(seed, name)
    return np.concatenate([block_values(law, key, chunk) for chunk in chunks]).astype(np.float64)


@pytest.fixture(scope="module")
def normals() -> Vector:
    return values(Normal())


def chi_square(observed: NDArray[np.int64], expected: Vector) -> float:
    """The p-value of Pearson's test: every expected count is at least 10."""
    assert expected.min() >= 10
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, observed.size - 1))


LAWS = [
    (Normal(), stats.norm.cdf),
    (Uniform(), lambda x: x),
    (TruncatedNormal(), stats.truncnorm(-2, 2).cdf),
    (TruncatedNormal(mean=0.0, std=1.0, low=0.5, high=math.inf), stats.truncnorm(0.5, math.inf).cdf),
    (TruncatedNormal(mean=0.0, std=1.0, low=-9.0, high=1.0), stats.truncnorm(-9, 1).cdf),
]


@pytest.mark.parametrize(("law", "cdf"), LAWS, ids=lambda each: getattr(each, "kind", ""))
def test_distribution_function(law: Law, cdf: object) -> None:
    """Kolmogorov and Smirnov, on 4 million values."""
    u = np.sort(cdf(values(law).ravel()))  # type: ignore[operator]
    n = len(u)
    gap = max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max())
    assert stats.kstwobign.sf(gap * math.sqrt(n)) > ALARM


def test_distribution_function_test_can_fail() -> None:
    """A standard deviation that is 1 % off does not pass the same test."""
    with pytest.raises(AssertionError):
        test_distribution_function(Normal(mean=0.0, std=1.01), stats.norm.cdf)


@pytest.mark.parametrize("law", [Normal(), TruncatedNormal(low=-6.0, high=6.0)], ids=lambda law: law.kind)
def test_tails(law: Law) -> None:
    """Pearson's test on the counts beyond 2, 3, ... 4.5 sigma on both sides: mean and std see nothing of these."""
    z = values(law, 2**23, name="tails").ravel()
    edges = np.array([2.0, 2.5, 3.0, 3.5, 4.0, 4.25, 4.5])
    expected = np.diff(stats.norm.cdf(-np.append(edges, np.inf)[::-1])) * len(z)
    for side in (z, -z):
        observed = np.histogram(side, np.append(edges, np.inf))[0][::-1]
        rest = len(z) - observed.sum()
        p = chi_square(np.append(observed, rest), np.append(expected, len(z) - expected.sum()))
        assert p > ALARM / 2


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 3), (0, 2), (1, 2), (0, 3), (1, 3)])
def test_elements_of_a_block_are_independent(normals: Vector, first: int, second: int) -> None:
    """Pearson's test on 32 x 32 cells of equal probability: of a Box-Muller pair, and across pairs."""
    cells = [np.minimum((stats.norm.cdf(normals[:, e]) * 32).astype(np.int64), 31) for e in (first, second)]
    observed = np.bincount(cells[0] * 32 + cells[1], minlength=1024)
    assert chi_square(observed, np.full(1024, len(normals) / 1024)) > ALARM


def test_radius_and_angle_of_a_pair(normals: Vector) -> None:
    """Pearson's test on 64 x 64 cells: squared radius exponential, angle uniform, and the two independent."""
    x, y = normals[:, 0], normals[:, 1]
    radius = np.minimum((-np.expm1(-(x * x + y * y) / 2) * 64).astype(np.int64), 63)
    angle = np.minimum(((np.arctan2(y, x) / (2 * np.pi) + 0.5) * 64).astype(np.int64), 63)
    observed = np.bincount(radius * 64 + angle, minlength=4096)
    assert chi_square(observed, np.full(4096, len(x) / 4096)) > ALARM


def test_no_lag_correlates(normals: Vector) -> None:
    """Of values and squares: n r**2 is chi-square with one degree of freedom, for 300 lags each (Bonferroni)."""
    lags = [*range(1, 257), *(4 * 2**power for power in range(7, 17)), *(1000 * n for n in range(1, 35))]
    for series in (normals.ravel(), (normals.ravel() ** 2 - 1) / math.sqrt(2)):
        for lag in lags:
            n = len(series) - lag
            r = float(series[:-lag] @ series[lag:]) / n
            assert stats.chi2.sf(n * r * r, 1) > ALARM / (2 * len(lags)), f"lag {lag}: r {r:.2e}"


def test_tensors_of_other_names_seeds_and_occurrences_are_independent() -> None:
    """Correlation at equal indices of 60 tensors whose keys come from neighbouring inputs: 1770 pairs (Bonferroni)."""
    keys = [derive_key(seed, f"layers.{n}.weight", o) for seed in (0, 1) for n in range(10) for o in (0, 1, 2)]
    tensors = np.stack([block_values(Normal(), key, np.arange(2**12)).ravel() for key in keys]).astype(np.float64)
    n = tensors.shape[1]
    r = (tensors @ tensors.T / n)[np.triu_indices(len(keys), 1)]
    assert stats.chi2.sf(n * r * r, 1).min() > ALARM / len(r)


def test_every_bit_of_every_word_is_fair_and_no_two_agree() -> None:
    """Of 128 bits of a block: counts of ones, and of equal pairs (8128), are binomial; by the normal distribution."""
    words = block_words(derive_key(0, "bits"), np.arange(2**16))
    bits = np.unpackbits(words.view(np.uint8), axis=1).astype(np.float64) * 2 - 1
    n = len(bits)
    ones = np.abs(bits.sum(0)) / math.sqrt(n)
    pairs = np.abs((bits.T @ bits)[np.triu_indices(128, 1)]) / math.sqrt(n)
    assert 2 * stats.norm.sf(ones.max()) > ALARM / 2 / len(ones)
    assert 2 * stats.norm.sf(pairs.max()) > ALARM / 2 / len(pairs)


def test_every_bit_of_key_and_counter_changes_half_of_the_words() -> None:
    """Avalanche: of 128 output bits of 4096 blocks, flips are binomial, for each of 64 + 62 input bits (Bonferroni)."""
    key, block = derive_key(0, "avalanche"), np.arange(4096) * 977
    before = block_words(key, block)
    changed = [block_words(key ^ 1 << bit, block) for bit in range(64)]
    changed += [block_words(key, block ^ 1 << bit) for bit in range(62)]
    total = before.size * 32
    for after in changed:
        flips = int(np.unpackbits((before ^ after).view(np.uint8)).sum())
        assert 2 * stats.norm.sf(abs(flips - total / 2) / math.sqrt(total / 4)) > ALARM / len(changed)


def test_values_are_as_fine_as_their_dtype() -> None:
    """Of 2**16 float32 normals next to none repeat: a 16-bit source would give at most 2**16 and repeat a third."""
    z = values(Normal(), 2**16).ravel()
    assert len(np.unique(z)) > 0.995 * len(z)


def test_far_indices_are_as_good(normals: Vector) -> None:
    """Blocks beyond 2**32, where the counter's high word counts: other values, of the same distribution."""
    far = values(Normal(), 2**20, first_block=2**40)
    assert not np.array_equal(far, normals[: len(far)])
    assert stats.kstest(far.ravel(), "norm").pvalue > ALARM
