"""A tensor whose storage was made smaller, as sharding frees it, is refused: a write there would go elsewhere."""

from __future__ import annotations

import pytest
import torch

from tritonparam import Copy, Fill, Normal, load, save


def shrunk(nbytes: int) -> torch.Tensor:
    tensor = torch.zeros(6)
    tensor.untyped_storage().resize_(nbytes)
    return tensor


@pytest.mark.parametrize("nbytes", [0, 8, 23])
@pytest.mark.parametrize(
    "use",
    [
        lambda tensor, path: Fill(tensor, Normal(), 1),
        lambda tensor, path: Copy(tensor, torch.ones(6)),
        lambda tensor, path: Copy(torch.ones(6), tensor),
        lambda tensor, path: save({"a": tensor}, path / "again"),
        lambda tensor, path: load({"a": tensor}, path / "saved"),
    ],
    ids=["fill", "copy to", "copy from", "save", "load"],
)
def test_it_is_an_error_that_says_so(use, nbytes, tmp_path):
    save({"a": torch.ones(6)}, tmp_path / "saved")
    with pytest.raises(ValueError, match=f"must have its memory, got .* a storage of {nbytes} bytes"):
        use(shrunk(nbytes), tmp_path)


def test_views_that_their_memory_holds_are_taken():
    whole = torch.zeros(6)
    Fill(whole[2:], Normal(), 1)
    Fill(whole.as_strided((2, 2), (3, 2)), Normal(), 1)
    Fill(torch.empty(0), Normal(), 1)
