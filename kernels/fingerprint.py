"""Add up the words of any number of boxes, each times its factors, in one launch: the sums of fingerprints.

Word j of a tensor is word c = j % 1024 of block b = j // 1024. A box adds sum(w * C[c] * B[b]) mod 2**64 to each of its
two sums, where the factors C are the table's and B come from Philox of the tensor's key and b. Integers are added up:
whatever the grid, num_warps, the device, the other rows, or the order of the programs, the sums are the same.

The table (int64, on the device): C of both sums, each in half of a word, the first program of each row, the rows of ROW
columns, the dimensions of rows that are no run. The columns: address, key, flags, first and last of what the programs
share out, where the dimensions are, origin, the number of the sums. The flags: path, from bit 8 on whether the address
is aligned to 16 bytes, from bit 16 on the number of dimensions. The paths:

run: words of the tensor, side by side in memory. The address is that of word 0, shared out are words of the tensor.
units: four words each, side by side at a multiple of 16 bytes, in any dimensions (size, its reciprocal, step in the
    tensor, in memory, in units), one at least. Address and origin are of the first unit.
1, 2, 4, 8: elements of so many bytes, likewise.
"""

import triton
import triton.language as tl

from .philox import _philox
from .rows import _divide, _find_row

BLOCK_WORDS = 1024
HEADER = BLOCK_WORDS
ROW = 8
DIMENSION = 4
PATHS = {"run": 0, "units": 1, "1": 2, "2": 3, "4": 4, "8": 5}
NUM_WARPS = 2
LANES = 32 * NUM_WARPS  # of four words each: a block is four loads of 128 bits for each
RUN_CHUNK = 16 * BLOCK_WORDS  # words a program
CHUNK = 16 * LANES  # units or elements a program

_HEADER = tl.constexpr(HEADER)
_BLOCK = tl.constexpr(BLOCK_WORDS)
_ROW = tl.constexpr(ROW)
_DIMENSION = tl.constexpr(DIMENSION)
_LANES = tl.constexpr(LANES)
_RUN_CHUNK = tl.constexpr(RUN_CHUNK)
_CHUNK = tl.constexpr(CHUNK)
_TYPES = tl.constexpr((tl.uint32, tl.uint32, tl.uint8, tl.uint16, tl.uint32, tl.uint64))  # in the order of PATHS


@triton.jit
def _block_factors(k0, k1, block):
    """The factors of blocks in both sums: uint64 of the shape of `block`."""
    w0, w1, w2, w3 = _philox(k0, k1, block.to(tl.uint32), (block >> 32).to(tl.uint32))
    first = w0.to(tl.uint64) | (w1.to(tl.uint64) << 32) | 1
    second = w2.to(tl.uint64) | (w3.to(tl.uint64) << 32) | 1
    return first, second


@triton.jit
def _halves(both):
    """The factors of columns in both sums, of 32 bits each."""
    return both.to(tl.uint32), (both >> 32).to(tl.uint32)


@triton.jit
def _product(word, factor):
    """The 64 bits of a product of 32-bit words: one IMAD.WIDE."""
    return word.to(tl.uint64) * factor.to(tl.uint64)


@triton.jit
def _quarter(words, number, start, stop, N: tl.constexpr, WHOLE: tl.constexpr):
    """Quarter N of the block whose first word is `number`; words outside of [start, stop) are 0. [LANES, 4]"""
    e = N * 4 * _LANES + 4 * tl.arange(0, _LANES)[:, None] + tl.arange(0, 4)[None, :]
    if WHOLE:
        return tl.load(words + e)
    return tl.load(words + e, mask=(number + e >= start) & (number + e < stop), other=0)


@triton.jit
def _add_block(words, number, start, stop, c0, c1, c2, c3, d0, d1, d2, d3, f0, f1, sum0, sum1, WHOLE: tl.constexpr):
    """The sums with those of one block: each lane adds up its own words before it multiplies by the block's factors."""
    w0 = _quarter(words, number, start, stop, 0, WHOLE)
    w1 = _quarter(words, number, start, stop, 1, WHOLE)
    w2 = _quarter(words, number, start, stop, 2, WHOLE)
    w3 = _quarter(words, number, start, stop, 3, WHOLE)
    first = _product(w0, c0) + _product(w1, c1) + _product(w2, c2) + _product(w3, c3)
    second = _product(w0, d0) + _product(w1, d1) + _product(w2, d2) + _product(w3, d3)
    return sum0 + tl.sum(first, axis=1) * f0, sum1 + tl.sum(second, axis=1) * f1


@triton.jit
def _columns(table, N: tl.constexpr):
    """The factors of quarter N of a block's words. [LANES, 4]"""
    lanes = 4 * tl.arange(0, _LANES)[:, None] + tl.arange(0, 4)[None, :]
    return _halves(tl.load(table + N * 4 * _LANES + lanes))


@triton.jit
def _add_run(table, address, k0, k1, aligned, chunk, start, stop):
    """One chunk of words that stand side by side. Returns the sums of each lane: [LANES]"""
    c0, d0 = _columns(table, 0)
    c1, d1 = _columns(table, 1)
    c2, d2 = _columns(table, 2)
    c3, d3 = _columns(table, 3)
    sum0 = tl.zeros((_LANES,), tl.uint64)
    sum1 = tl.zeros((_LANES,), tl.uint64)
    first = tl.maximum(chunk * _RUN_CHUNK, start) // _BLOCK
    blocks = (tl.minimum((chunk + 1) * _RUN_CHUNK, stop) - 1) // _BLOCK + 1 - first
    x_ptr = address.to(tl.pointer_type(tl.uint32))
    for n in range(blocks):
        block = first + n
        number = block * _BLOCK
        f0, f1 = _block_factors(k0, k1, block)
        if aligned & (number >= start) & (number + _BLOCK <= stop):  # this is the mask of the wide loads
            words = tl.multiple_of(x_ptr + number, 16)
            sum0, sum1 = _add_block(
                words, number, start, stop, c0, c1, c2, c3, d0, d1, d2, d3, f0, f1, sum0, sum1, True
            )
        else:
            words = x_ptr + number
            sum0, sum1 = _add_block(
                words, number, start, stop, c0, c1, c2, c3, d0, d1, d2, d3, f0, f1, sum0, sum1, False
            )
    return sum0, sum1


@triton.jit
def _place(dims, ndim, unit, origin):
    """Where units stand: their numbers in the tensor, and in memory from the first one on."""
    rest = unit.to(tl.uint32)
    index = tl.zeros(unit.shape, tl.int64) + origin
    at = tl.zeros(unit.shape, tl.int64)
    for d in range(ndim - 1):
        dim = dims + d * _DIMENSION
        quotient = _divide(rest, tl.load(dim + 1))
        coordinate = (rest - quotient * tl.load(dim).to(tl.uint32)).to(tl.int64)
        index += coordinate * tl.load(dim + 2)
        at += coordinate * tl.load(dim + 3)
        rest = quotient
    last = dims + (ndim - 1) * _DIMENSION
    return index + rest.to(tl.int64) * tl.load(last + 2), at + rest.to(tl.int64) * tl.load(last + 3)


@triton.jit
def _add_word(table, word, number, k0, k1, sum0, sum1):
    """The sums with one word of each lane, of any block."""
    first, second = _halves(tl.load(table + (number & (_BLOCK - 1))))
    f0, f1 = _block_factors(k0, k1, number // _BLOCK)
    return sum0 + _product(word, first) * f0, sum1 + _product(word, second) * f1


@triton.jit
def _add_units(table, dims, ndim, address, k0, k1, chunk, start, stop, origin, PATH: tl.constexpr):
    """One chunk of a box of this PATH, unit by unit. Returns the sums of each lane: [LANES]"""
    sum0 = tl.zeros((_LANES,), tl.uint64)
    sum1 = tl.zeros((_LANES,), tl.uint64)
    x_ptr = address.to(tl.pointer_type(_TYPES[PATH]))
    first = (chunk * _CHUNK).to(tl.int32)
    end = tl.minimum((chunk + 1) * _CHUNK, stop).to(tl.int32)
    for base in range(first, end, _LANES):
        unit = base + tl.arange(0, _LANES)
        mask = unit < end
        index, at = _place(dims, ndim, unit, origin)
        if PATH == 1:
            lanes = tl.arange(0, 4)[None, :]
            words = tl.load(tl.multiple_of(x_ptr + 4 * at, 16)[:, None] + lanes, mask=mask[:, None], other=0)
            columns = (4 * index) & (_BLOCK - 1)
            both = tl.load(tl.multiple_of(table + columns, 16)[:, None] + lanes)
            c, d = _halves(both)
            f0, f1 = _block_factors(k0, k1, index // (_BLOCK // 4))
            sum0 += tl.sum(_product(words, c), axis=1) * f0
            sum1 += tl.sum(_product(words, d), axis=1) * f1
        else:
            x = tl.load(x_ptr + at, mask=mask, other=0)
            if PATH == 5:
                sum0, sum1 = _add_word(table, x.to(tl.uint32), 2 * index, k0, k1, sum0, sum1)
                sum0, sum1 = _add_word(table, (x >> 32).to(tl.uint32), 2 * index + 1, k0, k1, sum0, sum1)
            else:
                WIDTH: tl.constexpr = 1 << (PATH - 2)
                byte = index * WIDTH
                word = x.to(tl.uint32) << (8 * (byte & 3)).to(tl.uint32)
                sum0, sum1 = _add_word(table, word, byte >> 2, k0, k1, sum0, sum1)
    return sum0, sum1


@triton.jit(do_not_specialize=["rows"])
def _box_sums_kernel(table, sums_ptr, rows, PATHS: tl.constexpr):
    """Program p adds up one chunk of the last row whose first program is not above p.

    PATHS: bit n is set where some row has the path n.
    """
    program = tl.program_id(0).to(tl.int64)
    starts = table + _HEADER
    row = _find_row(starts, rows, program)
    row_ptr = starts + rows + row.to(tl.int64) * _ROW
    before = tl.load(starts + row)
    address = tl.load(row_ptr)
    key_ptr = (row_ptr + 1).to(tl.pointer_type(tl.uint32))
    k0 = tl.load(key_ptr)
    k1 = tl.load(key_ptr + 1)
    flags = tl.load(row_ptr + 2).to(tl.int32)
    start = tl.load(row_ptr + 3)
    stop = tl.load(row_ptr + 4)
    dims = table + tl.load(row_ptr + 5)
    origin = tl.load(row_ptr + 6)
    out_ptr = sums_ptr + 2 * tl.load(row_ptr + 7)
    path = flags & 0xFF
    for PATH in tl.static_range(6):
        if (PATHS >> PATH) & 1:
            if path == PATH:
                if PATH == 0:
                    aligned = ((flags >> 8) & 1) != 0
                    chunk = program - before + start // _RUN_CHUNK
                    sum0, sum1 = _add_run(table, address, k0, k1, aligned, chunk, start, stop)
                else:
                    ndim = flags >> 16
                    chunk = program - before
                    sum0, sum1 = _add_units(table, dims, ndim, address, k0, k1, chunk, start, stop, origin, PATH)
                tl.atomic_add(out_ptr, tl.sum(sum0, axis=0).to(tl.int64, bitcast=True), sem="relaxed")
                tl.atomic_add(out_ptr + 1, tl.sum(sum1, axis=0).to(tl.int64, bitcast=True), sem="relaxed")


def box_sums(table, sums, rows: int, programs: int, paths: int) -> None:
    """Run a table: one launch, no synchronization, nothing allocated.

    Args:
        table: int64 tensor on the device, laid out as the module docstring says.
        sums: int64 tensor on the device, of two for each number of sums, to which they are added.
        rows: How many rows it has.
        programs: Sum of the rows' chunks; at most 2**31 - 1.
        paths: A bit for each code in PATHS that a row has.
    """
    if programs == 0:
        return
    _box_sums_kernel[(programs,)](table, sums, rows, **_options(paths))


def compile_box_sums(dtype, paths: int) -> None:
    """Compile what `box_sums` would launch, for the device that Triton takes for the current one.

    Args:
        dtype: Of a table and of sums: torch.int64.
        paths: As for `box_sums`.
    """
    _box_sums_kernel.warmup(dtype, dtype, 1, grid=(1,), **_options(paths))


def _options(paths: int) -> dict[str, int]:
    return {"PATHS": paths, "num_warps": NUM_WARPS, "enable_fp_fusion": False}
