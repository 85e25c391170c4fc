"""What the tests of fills share: poisoned tensors between guard bands, and the reference's bits for any fill."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tritonparam import Constant, Fill, Law, Normal, Plan, TruncatedNormal, Uniform
from tritonparam.kernels import fill as kernel
from tritonparam.stream.reference.fill import values_at
from tritonparam.stream.reference.rounding import RANDOM_DTYPES, round_bits

SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
LAWS = [
    Normal(mean=0.1, std=0.02),
    Uniform(low=-0.07, high=0.07),
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
    TruncatedNormal(mean=0.0, std=1.0, low=-9.0, high=math.inf),
    Constant(-1.625),
]
FLOATS = [getattr(torch, name) for name in RANDOM_DTYPES]
BLOCK, TILE, CHUNK = kernel.BLOCK, kernel.TILE, kernel.CHUNK
KEY = 0x9E3779B97F4A7C15
POISON = 0x5A


class Guarded:
    """A poisoned tensor between guard bands of one whole program each.

    Args:
        shape: Of the tensor.
        shift: Elements by which its start misses a 256-byte boundary.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, shift: int = 0) -> None:
        band = CHUNK * dtype.itemsize
        size = math.prod(shape) * dtype.itemsize
        self.bytes = torch.full(
            (band + shift * dtype.itemsize + size + band,), POISON, dtype=torch.uint8, device=device
        )
        self.start = band + shift * dtype.itemsize
        self.stop = self.start + size
        self.tensor = self.bytes[self.start : self.stop].view(dtype).view(shape)

    def check_bands(self) -> None:
        """Nothing around the tensor was written."""
        assert (self.bytes[: self.start] == POISON).all()
        assert (self.bytes[self.stop :] == POISON).all()


def want_bits(law: Law, dtype: torch.dtype, index: np.ndarray) -> np.ndarray:
    """The bits of the elements with these global indices, from the reference."""
    if isinstance(law, Constant):
        value = torch.tensor(law.value, dtype=torch.float64).to(torch.float32).to(dtype)
        return np.full(index.shape, value.view(SIGNED[dtype.itemsize]).item())
    bits = round_bits(np.ascontiguousarray(values_at(law, KEY, index)), str(dtype).removeprefix("torch."))
    return bits.view(f"int{8 * dtype.itemsize}")


def check(fill: Fill) -> None:
    """`fill.out` holds what the reference gives; a failure prints index and bits."""
    out = fill.out
    index = np.zeros(tuple(out.shape), np.int64)
    stride = 1
    for d in reversed(range(out.ndim)):
        along = (np.arange(out.shape[d]) + fill.offsets[d]) * stride
        index += along.reshape((-1,) + (1,) * (out.ndim - 1 - d))
        stride *= fill.shape[d]
    want = want_bits(fill.law, out.dtype, index)
    got = out.contiguous().view(SIGNED[out.element_size()]).cpu().numpy().reshape(index.shape)
    wrong = np.argwhere(got != want)
    if len(wrong):
        at = tuple(wrong[0])
        digits = 2 * out.element_size()
        mask = (1 << 8 * out.element_size()) - 1
        pytest.fail(
            f"{fill.law} {out.dtype}: {len(wrong)} of {index.size} differ, first at global index {index[at]}: "
            f"got {int(got[at]) & mask:0{digits}x} want {int(want[at]) & mask:0{digits}x}"
        )


def run(fills: list[Fill]) -> None:
    Plan(fills, "triton").run()
