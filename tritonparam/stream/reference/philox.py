"""Words: Philox4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: tuple[Words, Words, Words, Words], key: int, rounds: int = 10) -> Words:
    """The four output words of every counter.

    Args:
        counter: c0..c3, each uint32 of shape [n].
        key: 64 bits; its low half is k0, its high half k1.
        rounds: 10 in the stream; the published known answers also have 7.

    Returns:
        uint32 of shape [n, 4].

    Examples:
        >>> zero = np.zeros(1, np.uint32)
        >>> [hex(word) for word in philox4x32((zero, zero, zero, zero), key=0)[0]]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(rounds):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0 = (product1 >> np.uint64(32)).astype(np.uint32) ^ c1 ^ np.uint32(k0)
        c2 = (product0 >> np.uint64(32)).astype(np.uint32) ^ c3 ^ np.uint32(k1)
        c1, c3 = product1.astype(np.uint32), product0.astype(np.uint32)
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=1)


def block_words(key: int, block: NDArray[np.int64]) -> Words:
    """The words of elements 4*block .. 4*block + 3 of the tensor with this key: uint32 of shape [n, 4].

    Args:
        key: 64 bits, from `derive_key`.
        block: Global index // 4, non-negative, shape [n].
    """
    low, high = block.astype(np.uint32), (block >> 32).astype(np.uint32)
    zero = np.zeros_like(low)
    return philox4x32((low, high, zero, zero), key)
