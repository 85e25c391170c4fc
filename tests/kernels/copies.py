"""Copies into poisoned memory, held against the definition bit for bit, and the codes of the kernel's paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tritonparam import Copy, Plan
from tritonparam.stream.reference.cast import FLOATS, cast_bits

pytest.importorskip("triton")

from tritonparam.kernels import copy as kernel
from tritonparam.kernels.dtypes import DTYPES as CODES

TILE, CHUNK, LANES, UNITS = kernel.TILE, kernel.CHUNK, kernel.LANES, kernel.UNITS
BAND = CHUNK * 16
POISON = 0x5A


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(sizes[d + 1 :]) for d in range(len(sizes)))


class Place:
    """A poisoned tensor of any strides, between guard bands of one whole program each.

    Args:
        sizes, strides: Of the tensor, in elements.
        shift: Elements by which its start misses a 256-byte boundary.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        strides: tuple[int, ...] | None = None,
        shift: int = 0,
    ) -> None:
        self.sizes, self.strides = sizes, contiguous(sizes) if strides is None else strides
        self.span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, self.strides, strict=True))
        self.start = BAND + shift * dtype.itemsize
        self.memory = torch.full((self.start + self.span * dtype.itemsize + BAND,), POISON, dtype=torch.uint8)
        self.memory = self.memory.to(device)
        self.tensor = self._box(self.memory, dtype)

    def _box(self, memory: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        own = memory[self.start : self.start + self.span * dtype.itemsize].view(dtype)
        return own.as_strided(self.sizes, self.strides)

    def check_rest(self) -> None:
        """Nothing beside the elements was written: neither between them nor around them."""
        memory = self.memory.clone()
        self._box(memory, self.tensor.dtype).zero_()
        want = torch.full_like(memory, POISON)
        self._box(want, self.tensor.dtype).zero_()
        wrong = (memory != want).nonzero()
        assert not len(wrong), f"byte {int(wrong[0]) - self.start} from the tensor's start was written"


def bits_of(tensor: torch.Tensor, backwards: tuple[int, ...] = ()) -> np.ndarray:
    """The bits of the elements: [*shape, bytes of an element] of uint8."""
    host = tensor.flip(backwards).contiguous().cpu()
    return (
        host.as_strided((host.numel(),), (1,)).view(torch.uint8).numpy().reshape(*tensor.shape, tensor.element_size())
    )


def words(raw: np.ndarray) -> np.ndarray:
    """[..., n] bytes as [...] words, of n up to 8."""
    return np.ascontiguousarray(raw).view(f"u{raw.shape[-1]}")[..., 0]


def is_nan(bits: np.ndarray, dtype: str) -> np.ndarray:
    if dtype not in FLOATS:
        return np.zeros(bits.shape, bool)
    return np.isnan(cast_bits(bits.ravel(), dtype, "float64").view(np.float64)).reshape(bits.shape)


def check(copy: Copy) -> None:
    """`copy.out` holds what the definition gives, a NaN for a NaN; a failure prints index and bits."""
    if not copy.out.numel():
        return
    source, out = name(copy.source.dtype), name(copy.out.dtype)
    raw, got = bits_of(copy.source, copy.backwards), bits_of(copy.out)
    if source == out:
        want, same = raw, (raw == got).all(axis=-1)
    else:
        cast = cast_bits(words(raw).ravel(), source, out).reshape(raw.shape[:-1])
        want = cast[..., None].view(np.uint8)
        same = (words(got) == cast) | (is_nan(cast, out) & is_nan(words(got), out))
    wrong = np.argwhere(~same)
    if len(wrong):
        at = tuple(int(each) for each in wrong[0])
        input_bits, got_bits, want_bits = (each[at][::-1].tobytes().hex() for each in (raw, got, want))
        pytest.fail(
            f"{source} -> {out}: {len(wrong)} of {same.size} differ, first at index {at}: "
            f"input {input_bits} got {got_bits} want {want_bits}"
        )


def random_tensor(count: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Any bits: subnormals, infinities and NaNs of every payload among them; of a bool, bytes that are not one."""
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(dtype).to(device) if count else torch.empty(0, dtype=dtype, device=device)


def run(*copies: Copy) -> None:
    Plan(copies, "triton").run()


# Path, whether wide, and the dtypes that the kernel has in hand.
Code = tuple[str, bool, str, str]


def codes_of(*codes: Code) -> tuple[int, ...]:
    return tuple(sorted(kernel.code_of(path, wide, CODES[source], CODES[out]) for path, wide, source, out in codes))


def move(path: str, unit: int) -> Code:
    dtype = f"int{8 * unit}" if unit < 16 else "int32"
    return path, unit == 16, dtype, dtype


BF16, F32, F64, I32 = torch.bfloat16, torch.float32, torch.float64, torch.int32
F32_BF16, BF16_F32, F64_I32 = ("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "int32")
