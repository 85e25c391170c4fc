"""Copies on a host: torch's own, all in one call, where they meet the definition of casts; else the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tritonparam.plan.copy import CopyColumns
from tritonparam.plan.memory import is_deferred
from tritonparam.plan.views import cut_boxes
from tritonparam.stream import SIGNED_BY_WIDTH
from tritonparam.stream.reference import cast_bits

if TYPE_CHECKING:
    from tritonparam.plan.copy import Copy

CHUNK = 2**16  # elements at a time where temporaries are needed: they stay in a core's cache
_TORCH_SATURATES = tuple(int(each) for each in torch.__version__.split(".")[:2]) >= (2, 12)


class HostCopies:
    """Copies, sorted by what can do them."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._outs: list[torch.Tensor] = []
        self._sources: list[torch.Tensor] = []
        self._by_chunks: list[Copy] = []
        if isinstance(copies, CopyColumns) and _may_be_torchs_own(copies):
            self._outs, self._sources = copies.outs, copies.sources
            return
        for copy in copies:
            out, source = copy.out, copy.source
            if not out.numel():
                continue
            dtype, before = out.dtype, source.dtype
            # deferred_init takes note of a copy_ and of no _foreach_copy_.
            if copy.backwards or (dtype != before and _may_leave_torch(before, dtype)) or is_deferred(out):
                self._by_chunks.append(copy)
                continue
            if dtype == before == torch.bool:
                out, source = _sides(copy)
            self._outs.append(out)
            self._sources.append(source)

    def run(self) -> None:
        """Copy everything."""
        if self._outs:
            torch._foreach_copy_(self._outs, self._sources)
        for copy in self._by_chunks:
            _copy_by_chunks(copy)


def _may_be_torchs_own(copies: CopyColumns) -> bool:
    """Whether torch's `copy_` does all of them right as they are."""
    if torch._C._len_torch_function_stack():  # inside a block that changes what tensors say: some may be deferred
        return False
    return not any(out == source == torch.bool or _may_leave_torch(source, out) for out, source in copies.dtypes)


def _sides(copy: Copy) -> tuple[torch.Tensor, torch.Tensor]:
    """Where `copy` writes and what it reads: bools as bytes, of which torch would make 0 and 1, if they only move."""
    if copy.out.dtype == copy.source.dtype == torch.bool:
        return copy.out.view(torch.uint8), copy.source.view(torch.uint8)
    return copy.out, copy.source


def _may_leave_torch(source: torch.dtype, out: torch.dtype) -> bool:
    """Whether torch's cast depends on the machine or the release for some values.

    Those are floats beyond the range of an integer, which C does not define, and, before torch 2.12, what is too large
    for e4m3fn.
    """
    if source == out or not (source.is_floating_point or out == torch.float8_e4m3fn):
        return False
    if out == torch.float8_e4m3fn:
        return not _TORCH_SATURATES
    return not out.is_floating_point and out != torch.bool


def _copy_by_chunks(copy: Copy) -> None:
    whole_out, whole_source = _sides(copy)
    for box in cut_boxes(whole_out.shape, CHUNK):
        source, out = box.mirrored(whole_source.shape, copy.backwards).of(whole_source), box.of(whole_out)
        if copy.backwards:  # as integers: torch flips neither 8-bit floats nor unsigned ones
            source = source.view(SIGNED_BY_WIDTH[source.element_size()]).flip(copy.backwards).view(source.dtype)
        if not _may_leave_torch(source.dtype, out.dtype) or _in_range(source, out.dtype):
            out.copy_(source)
        else:
            out.copy_(_defined(source, out.dtype))


def _in_range(source: torch.Tensor, out: torch.dtype) -> bool:
    """Whether torch's cast is defined for every element; a NaN is not in range."""
    wide = source.to(torch.float64 if source.dtype == torch.float64 else torch.float32)
    low, high = (float(end) for end in wide.aminmax())
    if out == torch.float8_e4m3fn:
        return low >= -448 and high <= 448
    limits = torch.iinfo(out)
    return limits.min - 1 < low and high < limits.max + 1


def _defined(source: torch.Tensor, out: torch.dtype) -> torch.Tensor:
    """The cast of `source` by the definition."""
    host = source.contiguous().cpu()
    bits = host.view(SIGNED_BY_WIDTH[host.element_size()]).numpy()
    names = (str(dtype).removeprefix("torch.") for dtype in (source.dtype, out))
    cast = cast_bits(bits.view(f"u{bits.itemsize}"), *names)
    return torch.from_numpy(cast.view(f"i{cast.itemsize}")).view(out)
