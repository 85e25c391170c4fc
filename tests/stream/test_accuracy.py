"""Values are within 2**-21 of the exact transform of the same words, absolute below 1 and relative above: pointwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tritonparam import Normal, TruncatedNormal, Uniform
from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform
from tritonparam.stream.reference.philox import Words
from tritonparam.stream.reference.transforms import normal, truncated_normal, uniform

special = pytest.importorskip("scipy.special")

PROMISE = 2.0**-21
Vector = NDArray[np.float64]


def edge_words() -> Words:
    """Words near 0, the middle and the end, with every number of leading zeros or ones, and around powers of two."""
    rng = np.random.default_rng(1)
    near = np.arange(3000)
    shifted = rng.integers(0, 2**32, 40_000) >> rng.integers(0, 32, 40_000)
    powers = (2 ** np.arange(32))[:, None] + np.arange(-40, 40)
    low = np.concatenate([near, shifted, powers.ravel()]) % 2**32
    return np.concatenate([low, 2**32 - 1 - low, (low + 2**31) % 2**32]).astype(np.uint32)


def random_words(count: int, seed: int = 0) -> Words:
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


def exact_normal(words: Words) -> Vector:
    """Box and Muller in float64, from the 32-bit words themselves."""
    pairs = words.reshape(-1, 2).astype(np.float64)
    low = (pairs[:, 0] + 0.5) * 2.0**-32
    high = (2.0**32 - 0.5 - pairs[:, 0]) * 2.0**-32
    radius = np.sqrt(-2 * np.where(low < 0.5, np.log(low), np.log1p(-high)))
    angle_word = np.ascontiguousarray(words.reshape(-1, 2)[:, 1])
    angle = angle_word.view(np.int32) * (np.pi / 4 * 2.0**-31)
    radius = np.where(angle_word & 1, -radius, radius)
    near, far = radius * np.cos(angle), radius * np.sin(angle)
    swap = (angle_word & 2) != 0
    return np.stack([np.where(swap, far, near), np.where(swap, near, far)], axis=1).reshape(words.shape)


def check(words: Words, got: NDArray[np.float32], want: Vector) -> float:
    """The largest error in units of the promise; a failure prints the word and the bits."""
    error = np.abs(got.astype(np.float64) - want) / (PROMISE * np.maximum(1, np.abs(want)))
    at = np.unravel_index(np.argmax(error), error.shape)
    worst = float(error[at])
    assert worst <= 1, f"words {words[at[0]]} got {got[at].item().hex()} want {want[at].hex()}: {worst:.3f} of 2**-21"
    return worst


@pytest.mark.parametrize("seed", range(4))
def test_normal_at_random_words(seed: int) -> None:
    words = random_words(2_000_000, seed).reshape(-1, 4)
    check(words, normal(words, lower_normal(Normal())), exact_normal(words))


def test_normal_at_edge_words() -> None:
    """Every edge word as radius and as angle, with random and edge partners."""
    edges = edge_words()
    rng = np.random.default_rng(2)
    for partner in (
        random_words(len(edges), 3),
        rng.permutation(edges),
        np.full_like(edges, 0),
        np.full_like(edges, 2**31),
    ):
        words = np.stack([edges, partner, partner, edges], axis=1)
        check(words, normal(words, lower_normal(Normal())), exact_normal(words))


def test_normal_reaches_as_far_as_its_words() -> None:
    """sqrt(-2 ln 2**-33) = 6.763 sigma at word 0, in all four directions."""
    angles = np.array([0, 1, 2, 3], np.uint32)
    words = np.stack([np.zeros_like(angles), angles], axis=1).reshape(2, 4)
    got = normal(words, lower_normal(Normal())).reshape(4, 2)
    far = math.sqrt(66 * math.log(2))
    np.testing.assert_allclose(got, [[far, 0], [-far, 0], [0, far], [0, -far]], atol=1e-6)


def test_a_shorter_logarithm_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise is tight enough to tell: without the last coefficient of the polynomial it is broken."""
    from tritonparam.stream.reference import transforms

    monkeypatch.setattr(transforms, "LOG", transforms.LOG[:-1])
    words = random_words(20_000).reshape(-1, 4)
    with pytest.raises(AssertionError, match="want"):
        check(words, normal(words, lower_normal(Normal())), exact_normal(words))


INTERVALS = [
    (-2.0, 2.0),
    (-3.0, 3.0),
    (-1.0, 0.5),
    (-0.01, 0.02),
    (0.0, math.inf),
    (-math.inf, math.inf),
    (2.0, 5.0),
    (3.0, 3.001),
    (-8.0, -6.0),
    (9.5, 12.0),
]


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_normal(low: float, high: float) -> None:
    """The quantile of the nearer tail, in float64; and no value outside the bounds."""
    parameters = lower_truncated_normal(TruncatedNormal(mean=0.0, std=1.0, low=low, high=high))
    around_split = np.clip(parameters.split + np.arange(-2000, 2000), 0, 2**32 - 1).astype(np.uint32)
    words = np.concatenate([random_words(400_000), edge_words(), around_split]).reshape(-1, 4)
    got = truncated_normal(words, parameters)
    below, above = special.ndtr(low), special.ndtr(-high)
    mass = special.ndtr(-low) - above if low > 0 else special.ndtr(high) - below
    lower_tail = below + (words + 0.5) * 2.0**-32 * mass
    upper_tail = above + (2.0**32 - 0.5 - words) * 2.0**-32 * mass
    want = np.where(lower_tail < upper_tail, special.ndtri(lower_tail), -special.ndtri(upper_tail))
    check(words, got, want.clip(low, high))
    assert low <= got.min()
    assert got.max() <= high


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.07, 0.07), (1.0, 1.0000001), (-1.5e38, 1.0), (5.0, 5.0)])
def test_uniform_is_the_nearest_float_below_high(low: float, high: float) -> None:
    parameters = lower_uniform(Uniform(low=low, high=high))
    words = np.concatenate([random_words(400_000), edge_words()])
    got = uniform(words, parameters)
    width = float(np.float32(high) - np.float32(low))
    want = float(np.float32(low)) + words * 2.0**-32 * width
    # The word to 24 bits, the width to 24 bits, the sum to 24 bits.
    assert np.all(np.abs(got - want) <= 2.0**-24 * (2 * width + np.abs(want)) + 2.0**-24 * max(abs(low), abs(high)))
    assert got.min() >= np.float32(low)
    assert got.max() < np.float32(high) or low == high


def test_uniform_of_zero_to_one_is_the_word() -> None:
    """Multiples of 2**-32 as float32 can hold them."""
    words = np.array([0, 1, 2**24 + 1, 2**31, 2**32 - 129, 2**32 - 1], np.uint32)
    want = [0.0, 2.0**-32, 2.0**-8, 0.5, 1 - 2.0**-24, 1 - 2.0**-24]
    assert uniform(words, lower_uniform(Uniform())).tolist() == want


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (1.0, 3.0), (-40.0, 6.0), (7.0, 9.0)])
def test_masses_are_those_of_mpmath(low: float, high: float) -> None:
    """The parameters of a truncated normal are exact numbers rounded once."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        below, above = mpmath.ncdf(low), mpmath.ncdf(-high)
        mass = mpmath.quad(mpmath.npdf, [low, 0, high] if low < 0 < high else [low, high])
        split = min(max((mpmath.mpf(1) / 2 - below) / mass, 0), 1) * 2**32
        got = lower_truncated_normal(TruncatedNormal(mean=0.0, std=1.0, low=low, high=high))
        for value, exact in ((got.below, below), (got.above, above), (got.scale, mass / 2**32)):
            assert abs(mpmath.mpf(float(value)) - exact) <= exact * 2.0**-24 + 2.0**-150
        assert got.split == int(mpmath.floor(split))
