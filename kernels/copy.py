"""Copy any number of boxes in one launch, cast on the way.

Each element of a row's box becomes the element of the same index in the source, cast as `cast.py` has it, whatever the
grid, TILE, num_warps, the device, the other rows, or the path that the row takes. Rows that only move bits do so in
units of 1, 2, 4, 8 or 16 bytes, whatever their dtype.

The table (int64, on the device): the first program of each row, the rows of ROW columns (address of out, of the source,
code and number of dimensions, size, place of the dimensions), the dimensions of DIMENSION columns (size, its
reciprocal, stride in the source, in out; the innermost first). Sizes and strides count units: VECTOR elements that lie
side by side at a multiple of their width in wide runs and gathers, else one. A row takes one of three paths:

run: `size` units that lie side by side, at each index of the dimensions; a program copies a CHUNK of one run.
gather: `size` units, each at an index of the dimensions, which each lane finds for itself; a program copies UNITS.
transpose: elements side by side along the first dimension in out, along the second in the source; a program copies
STRIP by COLUMNS of them.
"""

import triton
import triton.language as tl

from .cast import _cast, _source_pointer
from .dtypes import _TYPES, _pointer
from .rows import _divide, _find_row

ROW = 5
DIMENSION = 4
TILE = 4096  # elements an iteration of a run, of a wide cast; half of it in a wide move, a quarter in narrow rows
CHUNK = 1 * TILE  # elements a program of a run; many small programs hide the way to their rows
LANES = 1024  # units an iteration of a gather
UNITS = 1 * LANES  # units a program of a gather
ROWS, COLUMNS = 32, 64  # elements an iteration of a transpose
STRIP = 4 * ROWS  # elements a program of a transpose, along its first dimension
NUM_WARPS = 8
NUM_WARPS_FEW = 4  # for what has a longer way through a lane, or too few bytes on it
PATHS = {"run": 0, "gather": 1, "transpose": 2}
VECTOR = 8  # elements a unit of a wide cast
MOVE_VECTOR = 4  # int32 a unit of a wide move: 16 bytes

_ROW = tl.constexpr(ROW)
_DIMENSION = tl.constexpr(DIMENSION)
_TILE = tl.constexpr(TILE)
_CHUNK = tl.constexpr(CHUNK)
_LANES = tl.constexpr(LANES)
_UNITS = tl.constexpr(UNITS)
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_STRIP = tl.constexpr(STRIP)
_VECTOR = tl.constexpr(VECTOR)
_MOVE_VECTOR = tl.constexpr(MOVE_VECTOR)


@triton.jit
def _place(dims, ndim, index):
    """How far the source and out are, in units, at `index` (uint32, below 2**31) of the dimensions."""
    rest = index
    source = index.to(tl.int64) * 0
    out = source
    for d in range(ndim):
        dim = dims + d * _DIMENSION
        quotient = _divide(rest, tl.load(dim + 1))
        coordinate = (rest - quotient * tl.load(dim).to(tl.uint32)).to(tl.int64)
        rest = quotient
        source += coordinate * tl.load(dim + 2)
        out += coordinate * tl.load(dim + 3)
    return source, out


@triton.jit
def _ahead(ptr, elements, V: tl.constexpr):
    """`ptr` + elements, which begins a unit: the compiler is told how it is aligned, and makes wide accesses of it."""
    BYTES: tl.constexpr = V * ptr.dtype.element_ty.primitive_bitwidth // 8
    if V == 1:
        return ptr + elements
    else:
        return tl.multiple_of(ptr + elements, 16 if BYTES > 16 else BYTES)


@triton.jit
def _copy_run(source_ptr, out_ptr, size, dims, ndim, program, SOURCE: tl.constexpr, OUT: tl.constexpr, V: tl.constexpr):
    """One chunk of one run."""
    chunks = ((size * V + (_CHUNK - 1)) // _CHUNK).to(tl.uint32)
    run = program.to(tl.uint32) // chunks
    first = (program.to(tl.uint32) - run * chunks).to(tl.int64) * _CHUNK
    source_at, out_at = _place(dims, ndim, run)
    source_ptr = _ahead(source_ptr, source_at * V + first, V)
    out_ptr = _ahead(out_ptr, out_at * V + first, V)
    stop = tl.multiple_of(tl.minimum(size * V - first, _CHUNK).to(tl.int32), V)
    # Of one shape the compiler gives all tiles of a kernel one layout, whatever suits the widest accesses among them.
    T: tl.constexpr = _TILE if V == _VECTOR else _TILE // 2 if V == _MOVE_VECTOR else _TILE // 4
    for base in range(0, stop, T):
        i = base + tl.arange(0, T)
        x = tl.load(source_ptr + i, mask=i < stop)
        tl.store(out_ptr + i, _cast(x, SOURCE, OUT), mask=i < stop)


@triton.jit
def _copy_gather(
    source_ptr, out_ptr, size, dims, ndim, program, SOURCE: tl.constexpr, OUT: tl.constexpr, V: tl.constexpr
):
    """A number of units, a lane each."""
    first = program.to(tl.uint32) * _UNITS
    stop = tl.minimum(size.to(tl.uint32) - first, _UNITS).to(tl.int32)
    for base in range(0, stop, _LANES):
        i = base + tl.arange(0, _LANES)
        source_at, out_at = _place(dims, ndim, first + i.to(tl.uint32))
        if V == 1:
            x = tl.load(source_ptr + source_at, mask=i < stop)
            tl.store(out_ptr + out_at, _cast(x, SOURCE, OUT), mask=i < stop)
        else:
            e = tl.arange(0, V)[None, :]
            mask = (i < stop)[:, None]
            x = tl.load(_ahead(source_ptr, source_at * V, V)[:, None] + e, mask=mask)
            tl.store(_ahead(out_ptr, out_at * V, V)[:, None] + e, _cast(x, SOURCE, OUT), mask=mask)


@triton.jit
def _copy_transpose(source_ptr, out_ptr, dims, ndim, program, SOURCE: tl.constexpr, OUT: tl.constexpr):
    """One strip of tiles: each loaded along the second dimension, stored along the first."""
    rows = tl.load(dims)
    columns = tl.load(dims + _DIMENSION)
    across = ((rows + (_STRIP - 1)) // _STRIP).to(tl.uint32)
    down = ((columns + (_COLUMNS - 1)) // _COLUMNS).to(tl.uint32)
    strip = program.to(tl.uint32)
    first = (strip % across).to(tl.int64) * _STRIP
    c = (strip // across % down).to(tl.int64) * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    source_at, out_at = _place(dims + 2 * _DIMENSION, ndim - 2, strip // across // down)
    source_ptr += source_at + first * tl.load(dims + 2)
    out_ptr += out_at + first
    stop = tl.minimum(rows - first, _STRIP).to(tl.int32)
    for base in range(0, stop, _ROWS):
        r = base + tl.arange(0, _ROWS)[:, None]
        mask = (r < stop) & (c < columns)
        x = tl.load(source_ptr + r.to(tl.int64) * tl.load(dims + 2) + c, mask=mask)
        tl.store(out_ptr + r + c * tl.load(dims + _DIMENSION + 3), _cast(x, SOURCE, OUT), mask=mask)


@triton.jit
def _copy_row(table, row_ptr, ndim, program, CODE: tl.constexpr):
    """What `program`, counted from the row's first, does for a row of this CODE."""
    PATH: tl.constexpr = CODE & 3
    WIDE: tl.constexpr = (CODE >> 2) & 1
    SOURCE: tl.constexpr = (CODE >> 4) & 15
    OUT: tl.constexpr = CODE >> 8
    V: tl.constexpr = (_MOVE_VECTOR if SOURCE == OUT else _VECTOR) if WIDE else 1
    out_ptr = _pointer(tl.load(row_ptr), OUT)
    source_ptr = _source_pointer(tl.load(row_ptr + 1), SOURCE)
    size = tl.load(row_ptr + 3)
    dims = table + tl.load(row_ptr + 4)
    if PATH == 0:
        _copy_run(source_ptr, out_ptr, size, dims, ndim, program, SOURCE, OUT, V)
    elif PATH == 1:
        _copy_gather(source_ptr, out_ptr, size, dims, ndim, program, SOURCE, OUT, V)
    else:
        _copy_transpose(source_ptr, out_ptr, dims, ndim, program, SOURCE, OUT)


@triton.jit(do_not_specialize=["rows"])
def _copy_kernel(table, rows, CODES: tl.constexpr):
    """Program p does a part of the last row whose first program is not above p; the row's code is one of CODES."""
    program = tl.program_id(0).to(tl.int64)
    row = _find_row(table, rows, program)
    row_ptr = table + rows + row.to(tl.int64) * _ROW
    program -= tl.load(table + row)
    flags = tl.load(row_ptr + 2).to(tl.int32)
    code = flags & 0xFFFF
    for N in tl.static_range(len(CODES)):
        if code == CODES[N]:
            _copy_row(table, row_ptr, flags >> 16, program, CODES[N])


def code_of(path: str, wide: bool, source_code: int, out_code: int) -> int:
    """What a row's code says: its path, whether it is wide, and the codes of its dtypes in `DTYPES`.

    A row that moves bits has one of int8, int16, int32 and int64 on both sides; a wide run or gather has int32.
    """
    return PATHS[path] | wide << 2 | source_code << 4 | out_code << 8


def num_warps(codes: tuple[int, ...]) -> int:
    """How many warps a program has: few if a row transposes, or is wide and casts 8 bits from or to 16 or 8.

    bench/results/tuning has what was measured.
    """
    for code in codes:
        bits = [_TYPES.value[each].primitive_bitwidth for each in (code >> 4 & 15, code >> 8)]
        if code & 3 == PATHS["transpose"] or (code >> 2 & 1 and min(bits) == 8 and max(bits) <= 16):
            return NUM_WARPS_FEW
    return NUM_WARPS


def copy(table, rows: int, programs: int, codes: tuple[int, ...]) -> None:
    """Run a table: one launch, no synchronization, nothing allocated.

    Args:
        table: int64 tensor on the device, laid out as the module docstring says.
        rows: How many rows it has.
        programs: Sum of what the rows take; at most 2**31 - 1.
        codes: The codes (`code_of`) that rows have, each once.
    """
    if programs == 0:
        return
    _copy_kernel[(programs,)](table, rows, **_options(codes))


def compile_copy(table, codes: tuple[int, ...]) -> None:
    """Compile what `copy` would launch, for the device that Triton takes for the current one.

    Args:
        table: The dtype of a table: torch.int64.
        codes: As for `copy`.
    """
    _copy_kernel.warmup(table, 1, grid=(1,), **_options(codes))


def _options(codes: tuple[int, ...]) -> dict[str, object]:
    return {"CODES": codes, "num_warps": num_warps(codes), "enable_fp_fusion": False}
