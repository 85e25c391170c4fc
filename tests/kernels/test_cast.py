"""The kernels' casts give what the definition gives, from every dtype to every other, NaN for NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.stream.reference.test_cast import samples
from tritonparam import Copy
from tritonparam.stream.reference.cast import CAST_DTYPES

pytest.importorskip("triton")

from tests.kernels.copies import Place, check, run

pytestmark = [
    pytest.mark.kernels,
    # The interpreter's arithmetic is NumPy's, which warns of infinities where a GPU does not.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


def tensor_of(bits: np.ndarray, dtype: str, device: torch.device) -> torch.Tensor:
    signed = torch.from_numpy(np.ascontiguousarray(bits).view(f"i{bits.itemsize}"))
    return signed.view(getattr(torch, dtype)).to(device)


@pytest.mark.parametrize("source", CAST_DTYPES)
def test_every_cast(source: str, device: torch.device) -> None:
    """To all dtypes: whole numbers, ties, the ends of every range, subnormals, infinities and NaNs."""
    bits = samples(source)
    if len(bits) > 8192:
        bits = np.concatenate([bits[:5800], bits[5800 :: len(bits) // 8192]])
    values = tensor_of(bits, source, device)
    places = [Place(values.shape, getattr(torch, out), device) for out in CAST_DTYPES]
    copies = [Copy(place.tensor, values) for place in places]
    run(*copies)
    for place, copy in zip(places, copies, strict=True):
        check(copy)
        place.check_rest()


@pytest.mark.parametrize("out", CAST_DTYPES)
def test_any_byte_but_zero_is_true(out: str, device: torch.device) -> None:
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.bool).to(device)
    copy = Copy(Place((256,), getattr(torch, out), device).tensor, values)
    run(copy)
    check(copy)
