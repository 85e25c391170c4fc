"""Fill any number of tensors in one launch.

Element i of a row becomes the value of element i of its global tensor: a function of (key, law, i), whatever the grid,
TILE, num_warps, the device, the other rows, or the box that the row covers.

The table (int64, on the device): `LEAD`, the first program of each row, the rows of ROW columns, the dimensions of
strided rows (size, stride in the global tensor, stride in memory; the innermost first). A program finds its row by
bisection and writes one CHUNK of it. Chunks are aligned in the global tensor, not in memory: so Philox blocks are never
cut, and the high counter word is the same throughout a program.
"""

import triton
import triton.language as tl

from .philox import _philox
from .rows import _find_row
from .store import _store_constant, _store_random, _store_scattered
from .transforms import LEAD, _normal_pair, _truncated_normal, _uniform

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
def _low_float(packed):
    return packed.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _high_float(packed):
    return (packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _parameters(row_ptr, KIND: tl.constexpr):
    """What the transform of this KIND takes beside the words."""
    ab = tl.load(row_ptr + 6)
    cd = tl.load(row_ptr + 7)
    a = _low_float(ab)
    b = _high_float(ab)
    c = _low_float(cd)
    if KIND == 1:
        return a, b, c
    elif KIND == 2:
        ef = tl.load(row_ptr + 8)
        return a, (b, c, _high_float(cd), _low_float(ef), _high_float(ef))
    else:
        split = tl.load(row_ptr + 8)
        ef = tl.load(row_ptr + 9)
        return a, b, c, _high_float(cd), split, _low_float(ef), _high_float(ef), _low_float(tl.load(row_ptr + 10))


@triton.jit
def _truncated(word, p, lead, HAS_TAIL: tl.constexpr):
    return _truncated_normal(word, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], lead, HAS_TAIL)


@triton.jit
def _values(k0, k1, low, high, p, lead, KIND: tl.constexpr):
    """The four float32 values of each Philox block, of the law with parameters `p`."""
    w0, w1, w2, w3 = _philox(k0, k1, low, high)
    if KIND == 1:
        z0 = _uniform(w0, p[0], p[1], p[2])
        z1 = _uniform(w1, p[0], p[1], p[2])
        z2 = _uniform(w2, p[0], p[1], p[2])
        z3 = _uniform(w3, p[0], p[1], p[2])
    elif KIND == 2:
        z0, z1 = _normal_pair(w0, w1, p[0], p[1], lead)
        z2, z3 = _normal_pair(w2, w3, p[0], p[1], lead)
    else:
        z0 = _truncated(w0, p, lead, KIND == 4)
        z1 = _truncated(w1, p, lead, KIND == 4)
        z2 = _truncated(w2, p, lead, KIND == 4)
        z3 = _truncated(w3, p, lead, KIND == 4)
    return z0, z1, z2, z3


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
def _fill_strided(
    table, row_ptr, address, k0, k1, dtype, ndim, chunk, stop, lead, KIND: tl.constexpr, DTYPES: tl.constexpr
):
    """One chunk of a box of any strides: each element finds its index, makes its Philox block and keeps its word."""
    dims = table + tl.load(row_ptr + 5)
    origin = tl.load(row_ptr + 11)
    pattern = tl.load(row_ptr + 6)
    p = _parameters(row_ptr, KIND)
    first = chunk * _CHUNK
    for n in range((tl.minimum(first + _CHUNK, stop) - first + _BLOCK - 1) // _BLOCK):
        rest = first + n * _BLOCK + tl.arange(0, _BLOCK)
        mask = rest < stop
        index = tl.zeros((_BLOCK,), tl.int64) + origin
        at = tl.zeros((_BLOCK,), tl.int64)
        for d in range(ndim):
            size = tl.load(dims + 3 * d)
            coordinate = rest % size
            rest = rest // size
            index += coordinate * tl.load(dims + 3 * d + 1)
            at += coordinate * tl.load(dims + 3 * d + 2)
        if KIND == 0:
            _store_scattered(dtype, address, at, mask, at, pattern, True, DTYPES)
        else:
            block = index >> 2
            z0, z1, z2, z3 = _values(k0, k1, block.to(tl.uint32), (block >> 32).to(tl.uint32), p, lead, KIND)
            odd = (index & 1) != 0
            z = tl.where((index & 2) != 0, tl.where(odd, z3, z2), tl.where(odd, z1, z0))
            _store_scattered(dtype, address, at, mask, z, pattern, False, DTYPES)


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
    ndim = flags >> 24
    chunk = tl.program_id(0).to(tl.int64) - programs_before + start // _CHUNK
    if STRIDED:
        if ndim > 0:
            _fill_strided(table, row_ptr, address, k0, k1, dtype, ndim, chunk, stop, lead, KIND, DTYPES)
        else:
            _fill_run(row_ptr, address, k0, k1, dtype, aligned, chunk, start, stop, lead, KIND, DTYPES)
    else:
        _fill_run(row_ptr, address, k0, k1, dtype, aligned, chunk, start, stop, lead, KIND, DTYPES)


@triton.jit(do_not_specialize=["rows"])
def _fill_kernel(table, rows, KINDS: tl.constexpr, DTYPES: tl.constexpr, STRIDED: tl.constexpr):
    """Program p writes one chunk of the last row whose first program is not above p.

    KINDS, DTYPES: bit n is set where some row has the code n. STRIDED: whether any row is.
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


def fill(table, rows: int, programs: int, kinds: int, dtypes: int, strided: bool) -> None:
    """Run a table: one launch, no synchronization, nothing allocated.

    Args:
        table: int64 tensor on the device, laid out as the module docstring says.
        rows: How many rows it has.
        programs: Sum of the rows' chunks; at most 2**31 - 1.
        kinds, dtypes: A bit for each code in KINDS, DTYPES that a row has.
        strided: Whether any row is strided.
    """
    if programs == 0:
        return
    flags = {"KINDS": kinds, "DTYPES": dtypes, "STRIDED": strided}
    _fill_kernel[(programs,)](table, rows, **flags, num_warps=num_warps(kinds), enable_fp_fusion=False)


def is_interpreted() -> bool:
    """Whether Triton runs the kernels on the host, in Python (TRITON_INTERPRET=1 when it was imported)."""
    return not isinstance(_fill_kernel, triton.JITFunction)
