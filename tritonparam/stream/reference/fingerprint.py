"""The sums of a fingerprint, for any box of a tensor: the definition that every backend meets.

A tensor is the bytes of its elements, each in little-endian order, in row-major order: 32-bit words w, word j of which
is word c = j % 1024 of block b = j // 1024. The two sums are sum(w * C[c] * B[b]) mod 2**64, each with factors of its
own. They are sums of what each byte adds, so the sums of disjoint boxes add up to those of the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tritonparam.stream.reference.fill import global_index
from tritonparam.stream.reference.philox import block_words

BLOCK_WORDS = 1024
CHUNK = 2**15  # elements at a time: the temporaries stay in a core's cache
COLUMN_KEY = 0x66696E6765727072  # of the factors of columns, which all tensors share
_HALF = np.uint64(32)
_ONE = np.uint64(1)


@functools.cache
def column_factors() -> NDArray[np.uint64]:
    """The factors of the 1024 words of a block, odd and below 2**32: uint64 of shape [2, 1024], of each sum.

    Examples:
        >>> column_factors()[:, 0].tolist()
        [3760098683, 3488782527]
    """
    words = block_words(COLUMN_KEY, np.arange(BLOCK_WORDS // 2)).reshape(BLOCK_WORDS, 2)
    factors = np.ascontiguousarray(words.T.astype(np.uint64) | _ONE)
    factors.flags.writeable = False
    return factors


@functools.cache
def packed_column_factors() -> NDArray[np.uint64]:
    """Those of both sums in one word, the second's above the first's: uint64 of shape [1024]."""
    first, second = column_factors()
    packed: NDArray[np.uint64] = first | second << _HALF
    packed.flags.writeable = False
    return packed


def block_factors(key: int, block: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The factors of blocks, odd: uint64 of shape [2, n], of each sum.

    Args:
        key: 64 bits, from `fingerprint_key`.
        block: Their numbers, non-negative, shape [n].
    """
    words = block_words(key, block).T.astype(np.uint64)
    return words[0::2] | words[1::2] << _HALF | _ONE


def box_sums(
    key: int,
    elements: NDArray[np.uint8],
    shape: Sequence[int],
    offsets: Sequence[int],
    sizes: Sequence[int],
    start: int = 0,
) -> tuple[int, int]:
    """The sums over elements of a box of a tensor, each 0 <= sum < 2**64.

    Depends on the key, on the global indices of these elements and on their bytes; on nothing else.

    Args:
        key: 64 bits, from `fingerprint_key`.
        elements: The bytes of the box's elements start, start + 1, ..., in row-major order of the box, little-endian;
            of shape [n, width], the width 1, 2, or a multiple of 4.
        shape: Of the global tensor; at most 2**63 bytes.
        offsets, sizes: The box.
        start: Which of the box's elements comes first.

    Examples:
        >>> bits = np.arange(24, dtype=np.uint8).reshape(6, 4)
        >>> whole = box_sums(7, bits, (6,), (0,), (6,))
        >>> left, right = box_sums(7, bits[:2], (6,), (0,), (2,)), box_sums(7, bits[2:], (6,), (2,), (4,))
        >>> [(a + b) % 2**64 for a, b in zip(left, right)] == list(whole)
        True
    """
    sums = [0, 0]
    for begin in range(0, len(elements), CHUNK):
        chunk = elements[begin : begin + CHUNK]
        index = np.arange(start + begin, start + begin + len(chunk))
        words, values = _words(global_index(index, shape, offsets, sizes), np.ascontiguousarray(chunk))
        factors, row = _factors(key, words >> 10)
        column = words & (BLOCK_WORDS - 1)
        for n in (0, 1):
            terms = values * column_factors()[n][column] * factors[n][row]
            sums[n] = (sums[n] + int(terms.sum(dtype=np.uint64))) % 2**64
    return sums[0], sums[1]


def _words(index: NDArray[np.int64], elements: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The numbers of the words that elements have bits in, and these words with no other bits: of one shape [n]."""
    width = elements.shape[1]
    at = index * width  # the number of the element's first byte
    if width % 4:
        shift = (at & 3).astype(np.uint64) * np.uint64(8)
        return at >> 2, elements.view(f"<u{width}").astype(np.uint64)[:, 0] << shift
    numbers = (at >> 2)[:, None] + np.arange(width // 4)
    return numbers.reshape(-1), elements.view("<u4").astype(np.uint64).reshape(-1)


def _factors(key: int, block: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The factors of distinct blocks, and which of them each of `block` has."""
    first, last = int(block.min()), int(block.max())
    if last - first <= len(block):  # as in runs
        return block_factors(key, np.arange(first, last + 1)), block - first
    distinct, row = np.unique(block, return_inverse=True)
    return block_factors(key, distinct), row.reshape(-1)
