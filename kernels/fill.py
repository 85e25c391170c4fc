"""Fill any number of tensors in one launch.

Element i of a row becomes the value of element i of its global tensor: a function of (key, law, i), whatever the grid,
TILE, num_warps, the device, the other rows, or the box that the row covers.

The table (int64, on the device): `LEAD`, the first program of each row, the rows of ROW columns, the dimensions of rows
that are no run (`boxes.py`). The columns: address of element 0, key, flags, first and last element that the programs
share out, where the dimensions are, five of the law's parameters, origin of a box. The flags: kind, dtype, from bit 16
on whether the address is aligned, path, and from bit 24 on the number of dimensions.

A program finds its row by bisection and writes one CHUNK of it. Chunks of runs are aligned in the global tensor, not in
memory: so Philox blocks are never cut, and the high counter word is the same throughout a program.
"""

import triton
import triton.language as tl

from .boxes import _fill_box
from .laws import _low_float, _parameters, _values
from .rows import _find_row
from .store import _store_constant, _store_random
from .transforms import LEAD

HEADER = len(LEAD)
ROW = 12
BLOCK = 512
TILE = 8 * BLOCK  # elements an iteration: two Philox blocks for each of BLOCK lanes
CHUNK = 4 * TILE  # elements a program
NUM_WARPS = 4
NUM_WARPS_TRUNCATED = 8  # a lane's values need more registers: fewer of them leave room for more warps
KINDS = {"constant": 0, "uniform": 1, "normal": 2, "truncated_normal": 3, "truncated_normal_with_tail": 4}

_ROW = tl.constexpr(ROW)
_CHUNK = tl.constexpr(CHUNK)
_HEADER = tl.constexpr(HEADER)
_TILE = tl.constexpr(TILE)
_BLOCK = tl.constexpr(BLOCK)


@triton.jit
def _fill_run(
    row_ptr, address, k0, k1, dtype, aligned, chunk, start, stop, lead, KIND: tl.constexpr, DTYPES: tl.constexpr
):
    """One chunk of a row that is a run of consecutive global elements."""
    first_tile = tl.maximum(chunk * _CHUNK, start) // _TILE
    tiles = (tl.minimum((chunk + 1) * _CHUNK, stop) - 1) // _TILE + 1 - first_tile
    if KIND == 0:
        pattern = tl.load(row_ptr + 6)
        for n in range(tiles):
            _store_constant(dtype, address, (first_tile + n) * _TILE, start, stop, aligned, pattern, _TILE, DTYPES)
    else:
        p = _parameters(row_ptr, KIND)
        high = (chunk * (_CHUNK // 4) >> 32).to(tl.uint32)
        # 8- and 16-bit dtypes: a lane's two blocks are neighbours; wider ones: half a tile apart.
        narrow = (dtype >= 2).to(tl.uint32)
        lane = tl.arange(0, _BLOCK).to(tl.uint32) * (1 + narrow)
        step = _BLOCK - (_BLOCK - 1) * narrow
        for n in range(tiles):
            tile = first_tile + n
            low = (tile * (_TILE // 4)).to(tl.uint32) + lane
            z0, z1, z2, z3 = _values(k0, k1, low, high, p, lead, KIND)
            z4, z5, z6, z7 = _values(k0, k1, low + step, high, p, lead, KIND)
            _store_random(dtype, address, tile * _TILE, start, stop, aligned, z0, z1, z2, z3, z4, z5, z6, z7, DTYPES)


@triton.jit
def _fill_row(table, row_ptr, programs_before, lead, KIND: tl.constexpr, DTYPES: tl.constexpr, STRIDED: tl.constexpr):
    """One chunk of a row of this KIND."""
    address = tl.load(row_ptr)
    # As halves: from a 64-bit word LLVM widens the first rounds to 64 bits.
    key_ptr = (row_ptr + 1).to(tl.pointer_type(tl.uint32))
    k0 = tl.load(key_ptr)
    k1 = tl.load(key_ptr + 1)
    flags = tl.load(row_ptr + 2).to(tl.int32)
    start = tl.load(row_ptr + 3)
    stop = tl.load(row_ptr + 4)
    dtype = (flags >> 8) & 0xFF
    aligned = ((flags >> 16) & 1) != 0
    chunk = tl.program_id(0).to(tl.int64) - programs_before + start // _CHUNK
    if STRIDED == 0:
        _fill_run(row_ptr, address, k0, k1, dtype, aligned, chunk, start, stop, lead, KIND, DTYPES)
    else:
        path = (flags >> 17) & 7
        for PATH in tl.static_range(4):
            if (STRIDED >> PATH) & 1:
                if path == PATH:
                    if PATH == 0:
                        _fill_run(row_ptr, address, k0, k1, dtype, aligned, chunk, start, stop, lead, KIND, DTYPES)
                    else:
                        ndim = flags >> 24
                        dims = table + tl.load(row_ptr + 5)
                        _fill_box(
                            row_ptr,
                            dims,
                            ndim,
                            address,
                            k0,
                            k1,
                            dtype,
                            chunk,
                            stop,
                            lead,
                            KIND,
                            DTYPES,
                            PATH,
                            _TILE,
                            _CHUNK,
                        )


@triton.jit(do_not_specialize=["rows"])
def _fill_kernel(table, rows, KINDS: tl.constexpr, DTYPES: tl.constexpr, STRIDED: tl.constexpr):
    """Program p writes one chunk of the last row whose first program is not above p.

    KINDS, DTYPES: bit n is set where some row has the code n. STRIDED: likewise of paths; 0 where all rows are runs.
    """
    program = tl.program_id(0).to(tl.int64)
    starts = table + _HEADER
    row = _find_row(starts, rows, program)
    row_ptr = starts + rows + row.to(tl.int64) * _ROW
    before = tl.load(starts + row)
    kind = tl.load(row_ptr + 2).to(tl.int32) & 0xFF
    lead = (
        _low_float(tl.load(table)),
        _low_float(tl.load(table + 1)),
        _low_float(tl.load(table + 2)),
        _low_float(tl.load(table + 3)),
        _low_float(tl.load(table + 4)),
    )
    for KIND in tl.static_range(5):
        if (KINDS >> KIND) & 1:
            if kind == KIND:
                _fill_row(table, row_ptr, before, lead, KIND, DTYPES, STRIDED)


def num_warps(kinds: int) -> int:
    """How many warps a program has, by a bit for each code in KINDS (bench/results/tuning has what was measured)."""
    return NUM_WARPS_TRUNCATED if kinds >> KINDS["truncated_normal"] else NUM_WARPS


def fill(table, rows: int, programs: int, kinds: int, dtypes: int, strided: int) -> None:
    """Run a table: one launch, no synchronization, nothing allocated.

    Args:
        table: int64 tensor on the device, laid out as the module docstring says.
        rows: How many rows it has.
        programs: Sum of the rows' chunks; at most 2**31 - 1.
        kinds, dtypes: A bit for each code in KINDS, DTYPES that a row has.
        strided: A bit for each code in `boxes.PATHS` that a row has; 0 where all are runs.
    """
    if programs == 0:
        return
    _fill_kernel[(programs,)](table, rows, **_options(kinds, dtypes, strided))


def compile_fill(table, kinds: int, dtypes: int, strided: int) -> None:
    """Compile what `fill` would launch, for the device that Triton takes for the current one.

    Args:
        table: The dtype of a table: torch.int64.
        kinds, dtypes, strided: As for `fill`.
    """
    _fill_kernel.warmup(table, 1, grid=(1,), **_options(kinds, dtypes, strided))


def _options(kinds: int, dtypes: int, strided: int) -> dict[str, int]:
    flags = {"KINDS": kinds, "DTYPES": dtypes, "STRIDED": strided}
    return flags | {"num_warps": num_warps(kinds), "enable_fp_fusion": False}


def is_interpreted() -> bool:
    """Whether Triton runs the kernels on the host, in Python (TRITON_INTERPRET=1 when it was imported)."""
    return not isinstance(_fill_kernel, triton.JITFunction)
