"""Writes into new memory check their source like any others."""

import pytest
import torch

from tritonparam.tensor import writes as _writes


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        (torch.zeros(3), ValueError, r"source must have the shape of out, \(2,\), got \(3,\)"),
        (torch.zeros(2, dtype=torch.complex64), TypeError, "source must be of a dtype that can be cast"),
        (torch.zeros(2).to_sparse(), ValueError, "source must be a strided tensor"),
        (torch.zeros(2, dtype=torch.complex64).conj(), ValueError, "source must not be a conjugate"),
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
def test_source_of_new_memory_is_checked_like_any(source, error, match, fresh):
    with pytest.raises(error, match=match):
        _writes.Writes().copy(torch.empty(2), source, fresh=fresh, stage=False)
