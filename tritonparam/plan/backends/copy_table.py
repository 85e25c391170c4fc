"""Copies as one table that the copy kernel reads."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._arguments import shown
from tritonparam.kernels.copy import CHUNK, COLUMNS, MOVE_VECTOR, ROW, STRIP, TILE, UNITS, VECTOR, code_of
from tritonparam.kernels.dtypes import DTYPES
from tritonparam.kernels.rows import reciprocal
from tritonparam.plan.backends.dimensions import Dim, merged

if TYPE_CHECKING:
    from tritonparam.plan.copy import Copy

_CODES = {getattr(torch, name): code for name, code in DTYPES.items()}
_WIDE = 16  # bytes of the widest unit of a move; wide rows start at multiples of it
_NDIM_SHIFT = 16
_LONG_RUN = TILE // 2  # elements of a run that a program of its own is worth
_SIDE = 16  # elements of either dimension that a transpose is worth
_PEELED_FROM = 2048  # bytes of a run that is worth a head and a tail of their own
MAX_PLACES = 2**31 - 1
_MAX_PROGRAMS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CopyTable:
    """Copies as the kernel reads them.

    Attributes:
        words: int64 of shape [n]: first program of each row, rows, dimensions.
        rows: How many rows there are: one for most copies that have elements.
        programs: How many programs write them.
        codes: The codes that occur, in order.
    """

    words: NDArray[np.int64]
    rows: int
    programs: int
    codes: tuple[int, ...]


class Row(NamedTuple):
    """A row of the table, for a copy from address 0 to address 0.

    Attributes:
        out, source: How many bytes after the copy's addresses its own start.
        code: See `kernels.copy.code_of`.
        size: Of a run, or of everything, in units.
        dims: Sizes, and strides in units, the innermost first.
        programs: How many programs it takes.
    """

    out: int
    source: int
    code: int
    size: int
    dims: tuple[Dim, ...]
    programs: int


class Units(NamedTuple):
    """How a row's elements are read and written.

    Attributes:
        source_code, out_code: Of the dtypes in `kernels.dtypes.DTYPES`.
        vector: Elements a unit.
        source_bytes, out_bytes: Of a unit.
    """

    source_code: int
    out_code: int
    vector: int
    source_bytes: int
    out_bytes: int


class Geometry(NamedTuple):
    """All that decides how a copy is distinct out; many copies share one.

    Attributes:
        casts: Whether the bits change.
        out, source: The dtypes.
        out_phase, source_phase: The addresses modulo 16.
        dims: In elements, in any order; the strides in the source may be negative.
    """

    casts: bool
    out: torch.dtype
    source: torch.dtype
    out_phase: int
    source_phase: int
    dims: tuple[Dim, ...]


def build_copy_table(copies: list[Copy]) -> CopyTable:
    """Lay out `copies` for one launch; those without elements are left out.

    The rows are worked out once for each geometry, since Python's time for each copy is all that a large plan costs.

    Raises:
        ValueError: A tensor to be cast does not lie at a multiple of its element, or there are too many programs.
    """
    known: dict[object, int] = {}
    layouts: list[list[Row]] = []
    which, outs, sources = [], [], []
    for copy in copies:
        out, source = copy.out, copy.source
        count = out.numel()
        if not count:
            continue
        out_address, source_address = out.data_ptr(), source.data_ptr()
        for d in copy.backwards:
            source_address += (source.shape[d] - 1) * source.stride(d) * source.element_size()
        plain = not copy.backwards and out.is_contiguous() and source.is_contiguous()
        place = (count,) if plain else (out.shape, out.stride(), source.stride(), copy.backwards)
        phases = out_address % _WIDE, source_address % _WIDE
        key = (out.dtype, source.dtype, phases, place)
        layout = known.get(key)
        if layout is None:
            layout = known[key] = len(layouts)
            layouts.append(lay_out(_geometry(copy, *phases, plain)))
        which.append(layout)
        outs.append(out_address)
        sources.append(source_address)
    if not which:
        return CopyTable(np.empty(0, np.int64), 0, 0, ())
    return _assemble(layouts, *(np.array(each, np.int64) for each in (which, outs, sources)))


def _assemble(
    layouts: list[list[Row]], which: NDArray[np.int64], outs: NDArray[np.int64], sources: NDArray[np.int64]
) -> CopyTable:
    """The table of copies that have these layouts and addresses."""
    distinct = list(itertools.chain.from_iterable(layouts))
    dimensions: list[int] = []
    columns = []
    for each in distinct:
        flags = each.code | len(each.dims) << _NDIM_SHIFT
        columns.append((each.out, each.source, flags, each.size, len(dimensions), each.programs))
        for size, source_stride, out_stride in each.dims:
            dimensions += (size, reciprocal(size), source_stride, out_stride)

    counts = np.array([len(layout) for layout in layouts], np.int64)
    repeats = counts[which]
    starts = np.cumsum(repeats) - repeats
    rows = int(repeats.sum())
    # The rows of a copy stand together, in the order of its layout.
    at = np.repeat((np.cumsum(counts) - counts)[which] - starts, repeats) + np.arange(rows)
    table = np.array(columns, np.int64).reshape(-1, ROW + 1)[at]
    table[:, 0] += np.repeat(outs, repeats)
    table[:, 1] += np.repeat(sources, repeats)
    table[:, 4] += rows * (1 + ROW)
    ends = np.cumsum(table[:, ROW])
    programs = int(ends[-1])
    if programs > _MAX_PROGRAMS:
        raise ValueError(f"the copies of one plan must come to at most {_MAX_PROGRAMS} programs, got {programs}")
    parts = (ends - table[:, ROW], table[:, :ROW].ravel(), np.array(dimensions, np.int64))
    return CopyTable(np.concatenate(parts), rows, programs, tuple(sorted({each.code for each in distinct})))


def _geometry(copy: Copy, out_phase: int, source_phase: int, plain: bool) -> Geometry:
    out, source = copy.out, copy.source
    casts = not _same_bits(out.dtype, source.dtype)
    if casts and (out_phase % out.element_size() or source_phase % source.element_size()):
        raise ValueError(f"{shown(copy)} casts, so both addresses must be multiples of the elements")
    if plain:
        return Geometry(casts, out.dtype, source.dtype, out_phase, source_phase, ((out.numel(), 1, 1),))
    strides = [-stride if d in copy.backwards else stride for d, stride in enumerate(source.stride())]
    dims = tuple(zip(out.shape, strides, out.stride(), strict=True))
    return Geometry(casts, out.dtype, source.dtype, out_phase, source_phase, dims)


def _same_bits(out: torch.dtype, source: torch.dtype) -> bool:
    """Whether a cast moves the bits as they are: also between integers of one width, except from or to bool."""
    if out == source:
        return True
    floats = out.is_floating_point or source.is_floating_point
    return not floats and torch.bool not in (out, source) and out.itemsize == source.itemsize


def lay_out(geometry: Geometry) -> list[Row]:
    """The rows of a copy that has at least one element."""
    dims = merged(sorted(geometry.dims, key=lambda dim: dim[2]))  # in the order of memory
    is_run = dims[0][1:] == (1, 1)
    if geometry.casts:
        return _lay_out_cast(geometry, dims, is_run)
    return _lay_out_move(geometry, dims, is_run)


def _lay_out_move(g: Geometry, dims: list[Dim], is_run: bool) -> list[Row]:
    """In units of the move's own, as wide as addresses, runs and strides are multiples of; here, all are in bytes."""
    width = g.out.itemsize
    run = width * dims[0][0] if is_run else width
    outer = [(size, width * s, width * o) for size, s, o in dims[is_run:]]
    if not outer:
        if run >= _PEELED_FROM and g.out_phase == g.source_phase:
            head = -g.out_phase % _WIDE
            tail = (run - head) % _WIDE
            narrow, wide = _move(_divisor(8, width, g.out_phase, head, tail)), _move(_WIDE)
            return _run_in_parts(((head, narrow), (run - head - tail, wide), (tail, narrow)))
        if run < _PEELED_FROM and (g.out_phase or g.source_phase or run % _WIDE):
            # In elements: so the many short runs of a model are of few codes.
            return _run_in_parts(((run, _move(_divisor(8, width, g.out_phase, g.source_phase))),))
    unit = _divisor(_WIDE, run, g.out_phase, g.source_phase, *(each for dim in outer for each in dim[1:]))
    inner = [(run // unit, 1, 1)] if run > unit or not outer else []
    return _rows_of(inner + [(size, s // unit, o // unit) for size, s, o in outer], _move(unit))


def _move(unit: int) -> Units:
    code = DTYPES["int32" if unit == _WIDE else f"int{8 * unit}"]
    return Units(code, code, MOVE_VECTOR if unit == _WIDE else 1, unit, unit)


def _divisor(*numbers: int) -> int:
    """The largest power of two that divides all of them."""
    together = functools.reduce(operator.or_, numbers)
    return together & -together


def _lay_out_cast(g: Geometry, dims: list[Dim], is_run: bool) -> list[Row]:
    """In units of VECTOR elements, if everything is a multiple of that and the addresses are of 16, else of one."""
    codes = _CODES[g.source], _CODES[g.out]
    narrow = Units(*codes, 1, g.source.itemsize, g.out.itemsize)
    wide = Units(*codes, VECTOR, VECTOR * g.source.itemsize, VECTOR * g.out.itemsize)
    count = dims[0][0]
    if is_run and len(dims) == 1 and count >= _LONG_RUN:
        head = -g.out_phase % _WIDE // g.out.itemsize
        if (g.source_phase + head * g.source.itemsize) % _WIDE == 0:
            tail = (count - head) % VECTOR
            return _run_in_parts(
                (
                    (head * g.out.itemsize, narrow),
                    ((count - head - tail) * g.out.itemsize, wide),
                    (tail * g.out.itemsize, narrow),
                )
            )
    multiples = (count, *(each for dim in dims[1:] for each in dim[1:]))
    if is_run and not (g.out_phase or g.source_phase or any(each % VECTOR for each in multiples)):
        inner = [(count // VECTOR, 1, 1)] if count > VECTOR or len(dims) == 1 else []
        return _rows_of(inner + [(size, s // VECTOR, o // VECTOR) for size, s, o in dims[1:]], wide)
    return _rows_of(dims, narrow)


def _run_in_parts(parts: tuple[tuple[int, Units], ...]) -> list[Row]:
    """One run on both sides: for each part its bytes in out, and the units that they make."""
    rows = []
    out = source = 0
    for length, units in parts:
        count = length // units.out_bytes
        if count:
            rows += [_moved(each, out, source) for each in _rows_of([(count, 1, 1)], units)]
        out += length
        source += count * units.source_bytes
    return rows


def _moved(row: Row, out: int, source: int) -> Row:
    return row._replace(out=row.out + out, source=row.source + source)


def _rows_of(dims: list[Dim], units: Units) -> list[Row]:
    """The rows for these dimensions, in units: of the path that fits them, and several where one has too many."""
    size, source_stride, out_stride = dims[0]
    wide = units.vector > 1
    is_run = (source_stride, out_stride) == (1, 1) and (len(dims) == 1 or size * units.vector >= _LONG_RUN)
    # What the kernel finds the place of by 32-bit arithmetic.
    places = math.prod(dim[0] for dim in dims[is_run:])
    if places > MAX_PLACES:
        return _split(dims, units, -(-places // MAX_PLACES))
    if is_run:
        path, own, programs = "run", dims[1:], places * -(-size * units.vector // CHUNK)
    elif across := 0 if wide else _across(dims):
        path, own = "transpose", [dims[0], dims[across], *dims[1:across], *dims[across + 1 :]]
        strips = -(-size // STRIP) * -(-dims[across][0] // COLUMNS)
        programs = strips * math.prod(dim[0] for dim in own[2:])
    else:
        path, own, size, programs = "gather", dims, places, -(-places // UNITS)
    code = code_of(path, wide, units.source_code, units.out_code)
    return [Row(0, 0, code, size, tuple(own), programs)]


def _across(dims: list[Dim]) -> int:
    """Where out's first dimension is worth a transpose, the one along which the source is a run; else 0."""
    size, _, out_stride = dims[0]
    if out_stride != 1 or size < _SIDE:
        return 0
    return next((d for d, (size, stride, _) in enumerate(dims) if d and stride == 1 and size >= _SIDE), 0)


def _split(dims: list[Dim], units: Units, parts: int) -> list[Row]:
    """The rows for so many parts of the outermost dimension, or as many as it has."""
    *inner, (length, source_stride, out_stride) = dims
    share = max(1, length // parts)
    rows = []
    for start in range(0, length, share):
        size = min(share, length - start)
        part = [*inner, (size, source_stride, out_stride)] if size > 1 or not inner else inner
        out, source = start * out_stride * units.out_bytes, start * source_stride * units.source_bytes
        rows += [_moved(each, out, source) for each in _rows_of(part, units)]
    return rows
