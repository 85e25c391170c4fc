"""The memory that the makers of one job write to, one after the other."""

from __future__ import annotations

import ctypes
from itertools import accumulate
from math import prod

import torch

from bench.cases import CHANNELS_LAST, DTYPES, Case

ALIGNMENT = 256  # bytes; what torch's CUDA allocator gives
_LIBC = ctypes.CDLL(None)


def give_back() -> None:
    """Give the memory that the host's allocator keeps for later back to the system."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


class Memory:
    """The tensors of a case, in one block of bytes, so that a plain fill can write the same memory in one call.

    Attributes:
        block: uint8, contiguous: all tensors and the gaps between them.
        tensors: In the order of the case's shapes.
    """

    def __init__(self, case: Case, device: str) -> None:
        dtype = DTYPES[case.dtype]
        sizes = [prod(shape) * dtype.itemsize for shape in case.shapes]
        ends = list(accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))
        starts = [0, *ends[:-1]]
        self.block = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        self.tensors = [
            self._shaped(self.block[start : start + size].view(dtype), shape, case.layout)
            for start, size, shape in zip(starts, sizes, case.shapes, strict=True)
        ]

    @staticmethod
    def _shaped(flat: torch.Tensor, shape: tuple[int, ...], layout: str) -> torch.Tensor:
        if layout != CHANNELS_LAST:
            return flat.view(shape)
        images, channels, height, width = shape
        return flat.view(images, height, width, channels).permute(0, 3, 1, 2)

    def poison(self) -> None:
        """Make every value a NaN, so that one that is not written shows."""
        self.block.fill_(0xFF)
