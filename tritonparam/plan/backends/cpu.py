"""The backend of a host: the compiled loops of `stream.loops`, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tritonparam._arguments import shown
from tritonparam._underflow import gradual_underflow
from tritonparam.plan.backends.host_copy import HostCopies
from tritonparam.plan.backends.numpy import write_fill
from tritonparam.plan.backends.threads import share
from tritonparam.plan.huge_pages import ask_for_huge_pages
from tritonparam.plan.memory import is_deferred
from tritonparam.stream import Constant, Law, constant_bits, flat_index
from tritonparam.stream.loops import CONSTANT, BoxRow, BoxTable, Dim, Maker, maker_of

if TYPE_CHECKING:
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill

_PIECE = 2**19  # elements that a thread writes at a time: 2 MiB of float32, a huge page
_SMALL_PIECE = 2**14  # worth another thread


class CpuPlan:
    """Operations, laid out: fills as boxes for the loops, copies as torch's own where that is right."""

    def __init__(self, fills: Sequence[Fill], copies: list[Copy]) -> None:
        # What deferred_init records has no memory yet; it takes note of torch's own operations.
        self._deferred = [each for each in fills if is_deferred(each.out)]
        fills = [each for each in fills if each.out.numel() and not is_deferred(each.out)]
        self._counted = [each.out for each in fills if not each.out.is_inference()]
        for each in fills:
            ask_for_huge_pages(each.out)  # if nobody has written there yet
        self._storages = [each.out.untyped_storage() for each in fills]  # must outlive the table
        self._table = BoxTable(_rows(fills))
        self._copies = HostCopies(copies)

    def run(self) -> None:
        """Do everything, and return when it is done."""
        for fill in self._deferred:
            write_fill(fill)
        self._fill(torch.get_num_threads())
        # Autograd knows by them that a value that it kept was overwritten.
        torch.autograd.graph.increment_version(self._counted)
        self._copies.run()

    def _fill(self, threads: int) -> None:
        total = self._table.elements
        size = min(_PIECE, max(_SMALL_PIECE, -(-total // threads)))

        def write(piece: int) -> None:
            with gradual_underflow():
                self._table.write(piece * size, min((piece + 1) * size, total))

        share(-(-total // size), write, threads)


def _rows(fills: Sequence[Fill]) -> list[BoxRow]:
    known: dict[tuple[str, torch.dtype], tuple[Maker, int]] = {}
    rows = []
    for each in fills:
        law, out = each.law, each.out
        # By its text: -0.0 == 0.0 and 1 == True, but their bits differ.
        maker, bits = known.get((repr(law), out.dtype)) or known.setdefault(
            (repr(law), out.dtype), _maker(law, out.dtype)
        )
        if maker is CONSTANT:
            rows.append(BoxRow(out.data_ptr(), out.itemsize, 0, bits, maker, _in_memory(out)))
            continue
        run = each.run_start
        dims = _in_order(each) if run is None else ((out.numel(), 1, 1),)
        first = flat_index(each.offsets, each.shape) if run is None else run
        rows.append(BoxRow(out.data_ptr(), out.itemsize, first, each.key, maker, dims))
    return rows


def _maker(law: Law, dtype: torch.dtype) -> tuple[Maker, int]:
    """What makes the values of a law, and for a constant its bits, repeated to 64 of them."""
    if not isinstance(law, Constant):
        return maker_of(law, str(dtype).removeprefix("torch.")), 0
    width = 8 * dtype.itemsize
    bits = constant_bits(law, dtype) & ((1 << width) - 1)
    return CONSTANT, sum(bits << at for at in range(0, 64, width))


def _in_order(fill: Fill) -> tuple[Dim, ...]:
    """The dimensions of a box in the order of its elements, neighbours made one where both steps allow it."""
    dims: list[Dim] = []
    step = 1
    for extent, size, stride in zip(
        reversed(fill.shape), reversed(fill.out.shape), reversed(fill.out.stride()), strict=True
    ):
        if size > 1:
            dims.append((size, step, stride))
        step *= extent
    return _merged(dims if dims and dims[0][1] == 1 else [(1, 1, 1), *dims])


def _in_memory(out: torch.Tensor) -> tuple[Dim, ...]:
    """The dimensions of `out` in the order of memory, as if its elements were numbered so."""
    by_stride = sorted(zip(out.stride(), out.shape, strict=True))
    return _merged([(size, stride, stride) for stride, size in by_stride if size > 1] or [(1, 1, 1)])


def _merged(dims: list[Dim]) -> tuple[Dim, ...]:
    """The same elements in the same order, neighbours made one where both steps allow it."""
    merged = dims[:1]
    for size, step, stride in dims[1:]:
        inner, inner_step, inner_stride = merged[-1]
        if (step, stride) == (inner * inner_step, inner * inner_stride):
            merged[-1] = (inner * size, inner_step, inner_stride)
        else:
            merged.append((size, step, stride))
    return tuple(merged)


def check_device(device: torch.device) -> None:
    """Let the CPU pass.

    Raises:
        ValueError: It is another device.
    """
    if device.type != "cpu":
        raise ValueError(f"backend 'cpu' writes to the cpu only, got device {shown(str(device))}")


def prepare(fills: Sequence[Fill], copies: list[Copy]) -> CpuPlan:
    """Lay out operations for `run`."""
    return CpuPlan(fills, copies)
