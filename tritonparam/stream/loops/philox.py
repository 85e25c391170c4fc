"""Words: Philox4x32-10 of many blocks, a lane of 64 bits for each block.

A multiplication takes the low half of a lane and makes both halves of a product, so the words stay in lanes whose high
halves are never looked at: a round is two multiplications, two shifts and two exclusive ors of three.
"""

from tritonparam.stream.loops.arithmetic import longs_at, part, uint32, uint64
from tritonparam.stream.loops.layout import ODD

MULTIPLIERS = (uint64(0xD2511F53), uint64(0xCD9E8D57))
WEYL = (uint32(0x9E3779B9), uint32(0xBB67AE85))
_LOW = uint64(0xFFFFFFFF)
_HALF = uint64(32)


@part
def philox4x32(block, key):
    """The four words of a block, each in the low half of 64 bits."""
    c0, c1, c2, c3 = block, block >> _HALF, uint64(0), uint64(0)
    k0, k1 = uint32(key), uint32(key >> _HALF)
    for _ in range(10):
        product0, product1 = (c0 & _LOW) * MULTIPLIERS[0], (c2 & _LOW) * MULTIPLIERS[1]
        c0 = (product1 >> _HALF) ^ c1 ^ uint64(k0)
        c2 = (product0 >> _HALF) ^ c3 ^ uint64(k1)
        c1, c3 = product1, product0
        k0, k1 = uint32(k0 + WEYL[0]), uint32(k1 + WEYL[1])
    return c0, c1, c2, c3


def words(source, key, out, n):
    """The words of n blocks: 0 and 2 of each block at `out`, 1 and 3 of each from `out` + ODD on.

    Args:
        source: Address of the blocks' numbers, uint64.
        key: The key, as 64 bits.
        out: Address of 4n uint32, in two halves.
        n: How many blocks.
    """
    blocks, even, odd = longs_at(source, 0), longs_at(out, 0), longs_at(out, ODD)
    for i in range(n):
        w0, w1, w2, w3 = philox4x32(blocks[i], uint64(key))
        even[i] = (w0 & _LOW) | (w2 << _HALF)
        odd[i] = (w1 & _LOW) | (w3 << _HALF)
