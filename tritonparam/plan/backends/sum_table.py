"""Sums as one table that the kernel of fingerprints reads."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tritonparam.kernels.fingerprint import CHUNK, HEADER, PATHS, ROW, RUN_CHUNK
from tritonparam.kernels.rows import reciprocal
from tritonparam.plan.backends.dimensions import Dim, dims_in_order
from tritonparam.plan.views import cut_boxes
from tritonparam.stream import flat_index
from tritonparam.stream.reference import packed_column_factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritonparam.plan.box_sum import Sum

_ALIGNED, _NDIM_SHIFT = 1 << 8, 16
_WORD, _WIDE = 4, 16  # bytes of a word, and of a unit
_MOST = 2**30  # elements that a row can place: its arithmetic is of 32 bits


class Row(NamedTuple):
    """A part of a box, as the kernel reads it.

    Attributes:
        path: A code in PATHS.
        address: Of a run that of word 0 of the tensor, which may lie before all memory; else of the first unit.
        start, stop: What the programs share out: words of the tensor of a run, else units from 0 on.
        origin: The number of the first unit in the tensor.
        dims: Of units, the innermost of memory first: size, step in the tensor, in memory.
    """

    path: int
    address: int
    start: int
    stop: int
    origin: int = 0
    dims: tuple[Dim, ...] = ()

    @property
    def programs(self) -> int:
        """How many chunks it has."""
        if self.path == PATHS["run"]:
            return -(-self.stop // RUN_CHUNK) - self.start // RUN_CHUNK
        return -(-self.stop // CHUNK)


@dataclass(frozen=True, slots=True)
class SumTable:
    """Sums as the kernel reads them.

    Attributes:
        words: int64 of shape [n]: factors of columns, first program of each row, rows, dimensions.
        rows: How many there are.
        programs: How many programs add them up.
        paths: A bit for each path that rows take.
    """

    words: NDArray[np.int64]
    rows: int
    programs: int
    paths: int


def build_sum_table(operations: Sequence[Sum]) -> SumTable:
    """Lay out `operations` for one launch; those without elements have no rows."""
    filled = [(number, each) for number, each in enumerate(operations) if each.source.numel()]
    found = [(number, each.key, row) for number, each in filled for row in rows_of(each)]
    rows = len(found)
    table = np.zeros((rows, ROW), np.int64)
    before = np.zeros(rows + 1, np.int64)
    dims: list[int] = []
    places: dict[tuple[Dim, ...], int] = {(): 0}
    for n, (number, key, row) in enumerate(found):
        if row.dims not in places:
            places[row.dims] = HEADER + rows * (1 + ROW) + len(dims)
            dims += [word for size, step, away in row.dims for word in (size, reciprocal(size), step, away)]
        flags = row.path | (_ALIGNED if row.address % _WIDE == 0 else 0) | len(row.dims) << _NDIM_SHIFT
        signed = key - (key >> 63 << 64)
        table[n] = row.address, signed, flags, row.start, row.stop, places[row.dims], row.origin, number
        before[n + 1] = before[n] + row.programs
    paths = functools.reduce(operator.or_, (1 << row.path for _, _, row in found), 0)
    parts = (packed_column_factors().view(np.int64), before[:-1], table.ravel(), np.array(dims, np.int64))
    return SumTable(np.concatenate(parts), rows, int(before[-1]), paths)


def rows_of(each: Sum) -> Iterator[Row]:
    """The rows of a box that has elements: one, or more where it is cut."""
    source, origin = each.source, flat_index(each.offsets, each.shape)
    dims = dims_in_order(each.shape, source)
    width, address = source.element_size(), source.data_ptr()
    if dims == [(source.numel(), 1, 1)] and (address - origin * width) % _WORD == 0:
        yield from _run(origin, source.numel(), width, address)
    elif source.numel() <= _MOST:
        yield _units(dims, origin, width, address)
    else:
        for piece in cut_boxes(source.shape, _MOST):
            values = piece.of(source)
            offsets = tuple(map(operator.add, each.offsets, piece.offsets))
            own = dims_in_order(each.shape, values)
            yield _units(own, flat_index(offsets, each.shape), width, values.data_ptr())


def _run(origin: int, count: int, width: int, address: int) -> Iterator[Row]:
    """The whole words of a run, and elements before and after them whose words it has in part."""
    start, stop = origin * width, (origin + count) * width
    first, last = -(-start // _WORD) * _WORD, stop // _WORD * _WORD
    if first >= last:
        yield _elements(start, stop, width, address)
        return
    if start < first:
        yield _elements(start, first, width, address)
    yield Row(PATHS["run"], address - start, first // _WORD, last // _WORD)
    if last < stop:
        yield _elements(last, stop, width, address + last - start)


def _elements(start: int, stop: int, width: int, address: int) -> Row:
    """Elements side by side, from byte `start` of the tensor to `stop`."""
    count = (stop - start) // width
    return Row(PATHS[str(width)], address, 0, count, start // width, ((count, 1, 1),))


def _units(dims: list[Dim], origin: int, width: int, address: int) -> Row:
    """A box in any dimensions: by units of four words where it is made of such, else by elements."""
    inner, outer = dims[0], dims[1:]
    numbers = (inner[0], origin, *(step for _, step, _ in outer), *(away for _, _, away in outer))
    if inner[1:] == (1, 1) and address % _WIDE == 0 and math.gcd(*numbers) * width % _WIDE == 0:
        per = _WIDE // width
        dims = [(inner[0] // per, 1, 1), *((size, step // per, away // per) for size, step, away in outer)]
        path, origin = PATHS["units"], origin // per
    else:
        path = PATHS[str(width)]
    ordered = tuple(sorted(dims, key=lambda dim: dim[2]))
    return Row(path, address, 0, math.prod(size for size, _, _ in dims), origin, ordered)
