"""Tensors as the bytes that a file has of them, through one staging buffer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from tritonparam.plan import Box, Copy, Plan, pieces

STAGING = 1 << 25  # bytes


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A box of a tensor on its way to a file.

    Attributes:
        name: What it is called there.
        dtype: What it is cast to.
        box, shape: Which box of a whole of which shape it is.
        values: Gives the tensor of the box's shape, wherever it is; it is let go of again.
        drawn: Whether `values` makes it, so that it takes memory.
    """

    name: str
    dtype: torch.dtype
    box: Box
    shape: tuple[int, ...]
    values: Callable[[], torch.Tensor]
    drawn: bool = False

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.box.sizes) * self.dtype.itemsize


class ByteStream:
    """A staging buffer on the host, and one on every other device that values come from."""

    def __init__(self, size: int = STAGING) -> None:
        self._size = size
        self._host = torch.empty(size, dtype=torch.uint8)
        self._buffers: dict[torch.device, torch.Tensor] = {self._host.device: self._host}

    def parts(self, tensors: Iterable[Outgoing]) -> Iterator[memoryview]:
        """The bytes of all tensors, one after the other; each part lasts until the next is asked for.

        Args:
            tensors: Those of wider dtypes before those of narrower ones.
        """
        copies: list[tuple[int, torch.Tensor, torch.dtype]] = []
        filled = 0
        for each in tensors:
            if each.drawn and copies and filled + each.nbytes > self._size:
                yield self._staged(copies, filled)
                filled = 0
            values = each.values().detach()
            for offsets, sizes in pieces(each.box.sizes, self._size // each.dtype.itemsize):
                nbytes = math.prod(sizes) * each.dtype.itemsize
                if copies and filled + nbytes > self._size:
                    yield self._staged(copies, filled)
                    filled = 0
                copies.append((filled, Box(offsets, sizes).of(values), each.dtype))
                filled += nbytes
            del values
        if copies:
            yield self._staged(copies, filled)

    def _staged(self, copies: list[tuple[int, torch.Tensor, torch.dtype]], filled: int) -> memoryview:
        """Cast and copy all to the staging buffer, and forget them."""
        plan = []
        spans = []
        for start, values, dtype in copies:
            buffer = self._buffers.get(values.device)
            if buffer is None:
                buffer = self._buffers[values.device] = torch.empty(self._size, dtype=torch.uint8, device=values.device)
            end = start + values.numel() * dtype.itemsize
            plan.append(Copy(buffer[start:end].view(dtype).view(values.shape), values))
            spans.append((buffer, start, end))
        Plan(plan).run()
        for buffer, start, end in spans:
            if buffer is not self._host:
                self._host[start:end].copy_(buffer[start:end])
        copies.clear()
        return self._host.numpy().data[:filled]
