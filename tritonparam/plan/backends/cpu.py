"""The backend of a host: the compiled loops of `stream.loops`, in as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tritonparam._arguments import shown
from tritonparam._underflow import gradual_underflow
from tritonparam.plan.backends.dimensions import dims_in_memory, dims_in_order, from_runs
from tritonparam.plan.backends.host_copy import HostCopies
from tritonparam.plan.backends.missing import tell_of_compiler
from tritonparam.plan.backends.numpy import sums as sums_by_definition
from tritonparam.plan.backends.numpy import write_fill
from tritonparam.plan.backends.threads import share
from tritonparam.plan.fill_columns import Columns, columns_of, outs_of
from tritonparam.plan.huge_pages import ask_for_huge_pages
from tritonparam.plan.memory import check_memory, is_deferred
from tritonparam.stream import Constant, Law, constant_bits, flat_index
from tritonparam.stream.loops import BoxTable, CompilerError, Maker, SumTable, constant_maker, maker_of
from tritonparam.stream.reference import packed_column_factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritonparam.plan.box_sum import Sum
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill

_PIECE = 2**20  # elements that a thread writes at a time: a millisecond of normals
_SMALL_PIECE = 2**14  # worth another thread


class CpuPlan:
    """Operations, laid out: fills as boxes for the loops, copies as torch's own where that is right."""

    def __init__(self, fills: Sequence[Fill], copies: Sequence[Copy]) -> None:
        outs = outs_of(fills)
        # What deferred_init records has no memory yet; it takes note of torch's own operations.
        self._deferred = [fills[number] for number, out in enumerate(outs) if is_deferred(out)]
        if self._deferred or not all(out.numel() for out in outs):
            fills = [each for each in fills if each.out.numel() and not is_deferred(each.out)]
        columns = columns_of(fills)
        for out in columns.outs:
            check_memory("out", out)  # what was resized since is not
            ask_for_huge_pages(out)  # if nobody has written there yet
        self._counted = [out for out in columns.outs if not out.is_inference()]
        self._storages = [out.untyped_storage() for out in columns.outs]  # must outlive the table
        self._sizes = [(storage.data_ptr(), storage.nbytes()) for storage in self._storages]
        self._by_definition: Sequence[Fill] = ()
        self._table: BoxTable | None = None
        if columns.outs:
            try:
                self._table = _table(fills, columns)
            except CompilerError as error:
                tell_of_compiler(str(error))
                self._by_definition = fills
        self._copies = HostCopies(copies)

    def run(self) -> None:
        """Do everything, and return when it is done."""
        for fill in (*self._deferred, *self._by_definition):
            write_fill(fill)
        if self._table is not None:
            if self._sizes != [(storage.data_ptr(), storage.nbytes()) for storage in self._storages]:
                raise RuntimeError(
                    "memory of a tensor was resized, moved or freed since its plan was built: build the plan anew"
                )
            self._fill(self._table, torch.get_num_threads())
            # Autograd knows by them that a value that it kept was overwritten.
            torch.autograd.graph.increment_version(self._counted)
        with torch.no_grad(), gradual_underflow():
            self._copies.run()

    @staticmethod
    def _fill(table: BoxTable, threads: int) -> None:
        total = table.elements
        size = min(_PIECE, max(_SMALL_PIECE, -(-total // threads)))

        def write(piece: int) -> None:
            with gradual_underflow():
                table.write(piece * size, min((piece + 1) * size, total))

        share(-(-total // size), write, threads)


def _table(fills: Sequence[Fill], columns: Columns) -> BoxTable:
    makers = [_maker(law, dtype) for law, dtype in columns.laws]
    firsts, dims = list(columns.starts), {}
    for number, start in enumerate(columns.starts):
        if start < 0:
            each = fills[number]
            own = dims_in_memory(each.out) if isinstance(each.law, Constant) else dims_in_order(each.shape, each.out)
            dims[number] = from_runs(own)
            firsts[number] = flat_index(each.offsets, each.shape)
    widths = [dtype.itemsize for _, dtype in columns.laws]
    return BoxTable(
        columns.addresses,
        [widths[number] for number in columns.law_numbers],
        firsts,
        columns.keys,
        columns.counts,
        makers,
        columns.law_numbers,
        dims,
    )


def _maker(law: Law, dtype: torch.dtype) -> Maker:
    if isinstance(law, Constant):
        return constant_maker(constant_bits(law, dtype) & ((1 << 8 * dtype.itemsize) - 1), dtype.itemsize)
    return maker_of(law, str(dtype).removeprefix("torch."))


def check_device(device: torch.device) -> None:
    """Let the CPU pass.

    Raises:
        ValueError: It is another device.
    """
    if device.type != "cpu":
        raise ValueError(f"backend 'cpu' writes to the cpu only, got device {shown(str(device))}")


def prepare(fills: Sequence[Fill], copies: Sequence[Copy]) -> CpuPlan:
    """Lay out operations for `run`."""
    return CpuPlan(fills, copies)


def sums(operations: Sequence[Sum]) -> NDArray[np.uint64]:
    """What each operation adds to its sums: uint64 of shape [n, 2]."""
    found = np.zeros((len(operations), 2), np.uint64)
    numbers = [number for number, each in enumerate(operations) if each.source.numel()]
    if not numbers:
        return found
    rows = [operations[number] for number in numbers]
    try:
        table = _sum_table(rows)
    except CompilerError as error:
        tell_of_compiler(str(error))
        return sums_by_definition(operations)
    threads, total = torch.get_num_threads(), table.elements
    size = min(_PIECE, max(_SMALL_PIECE, -(-total // threads)))
    parts: list[tuple[int, NDArray[np.uint64]]] = []
    share(-(-total // size), lambda n: parts.append(table.add(n * size, min((n + 1) * size, total))), threads)
    of_rows = np.zeros((len(rows), 2), np.uint64)
    for first, part in parts:
        of_rows[first : first + len(part)] += part
    found[numbers] = of_rows
    return found


def _sum_table(operations: Sequence[Sum]) -> SumTable:
    dims = {}
    for number, each in enumerate(operations):
        own = from_runs(dims_in_order(each.shape, each.source))
        if len(own) > 1 or own[0][2] != 1:
            dims[number] = own
    return SumTable(
        [each.source.data_ptr() for each in operations],
        [each.source.element_size() for each in operations],
        [flat_index(each.offsets, each.shape) for each in operations],
        np.array([each.key for each in operations], np.uint64),
        [each.source.numel() for each in operations],
        dims,
        packed_column_factors(),
    )
