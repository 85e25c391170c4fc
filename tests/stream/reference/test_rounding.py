"""Rounding of float32 values to every dtype: once, to nearest even. torch and ml_dtypes are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tritonparam.stream.reference.rounding import RANDOM_DTYPES, SMALL_FLOATS, round_bits

WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def samples() -> np.ndarray:
    """All upper halves of a float32 with lower halves around their ties, and random numbers of every size."""
    upper = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1000, 0x0FFF, 0x1001], np.uint32)
    random = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    x = np.concatenate([(upper[:, None] | lower).ravel(), random]).view(np.float32)
    return x[np.isfinite(x)]


@pytest.mark.parametrize("dtype", RANDOM_DTYPES)
def test_bits_are_those_of_torch(dtype: str) -> None:
    x = samples()
    tensor = torch.from_numpy(x)
    if dtype == "float8_e4m3fn":  # saturates: torch does so too from 2.12 on
        tensor = tensor.clamp(-448, 448)
    tensor = tensor.to(getattr(torch, dtype))
    want = tensor.view(WIDTH[tensor.element_size()]).numpy()
    got = round_bits(x, dtype).view(want.dtype)
    wrong = np.nonzero(got != want)[0]
    assert not len(wrong), f"x {x[wrong[0]].item().hex()} got {got[wrong[0]]:x} want {want[wrong[0]]:x}"


@pytest.mark.parametrize("dtype", [name for name in SMALL_FLOATS if name != "float16"])
def test_bits_are_those_of_ml_dtypes(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = samples()
    if dtype == "float8_e4m3fn":  # which makes NaN of what is too large
        x = x[np.abs(x) <= 464]
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(getattr(ml_dtypes, dtype))
    got = round_bits(x, dtype)
    np.testing.assert_array_equal(got, want.view(got.dtype))


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_shape_is_kept(dtype: str) -> None:
    assert round_bits(np.zeros((2, 3), np.float32), dtype).shape == (2, 3)
