"""What the bench holds values against: windows of large tensors, and moments that are those of the law."""

import pytest
import torch

from bench.check import moments, windows
from tritonparam import Normal, TruncatedNormal, Uniform


def test_windows_cover_small_tensors_and_the_ends_of_large_ones():
    assert list(windows(0, 2**16)) == [(0, 2**16)]
    found = list(windows(3, 2**16 + 1))
    assert found[0][0] == 0
    assert found[1][1] == 2**16 + 1
    assert all(0 <= start < stop <= 2**16 + 1 for start, stop in found)
    assert found == list(windows(3, 2**16 + 1)) != list(windows(4, 2**16 + 1))


@pytest.mark.parametrize(
    "law",
    [
        Uniform(low=-1, high=3),
        Normal(mean=2, std=0.5),
        TruncatedNormal(mean=1, std=2, low=-1, high=2),
        TruncatedNormal(),
    ],
)
def test_moments_are_those_of_the_law(law):
    """Against 2**20 midpoints of the law's quantiles, by which the mean is known to 1e-4 of the deviation."""
    stats = pytest.importorskip("scipy.stats")
    where = (torch.arange(2**20, dtype=torch.float64).numpy() + 0.5) / 2**20
    if isinstance(law, Uniform):
        values = stats.uniform(law.low, law.high - law.low).ppf(where)
    elif isinstance(law, Normal):
        values = stats.norm(law.mean, law.std).ppf(where)
    else:
        a, b = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
        values = stats.truncnorm(a, b, law.mean, law.std).ppf(where)
    mean, deviation, low, high = moments(law)
    assert mean == pytest.approx(values.mean(), abs=1e-4 * deviation)
    assert deviation == pytest.approx(values.std(), rel=1e-4)
    assert low <= values.min()
    assert values.max() <= high
