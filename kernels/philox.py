"""Words on the device: Philox4x32-10 of the counter (block low, block high, 0, 0), shorter than `tl.philox`.

Word e of block b belongs to element 4*b + e of the global tensor. It depends on (key, b, e) and on nothing else.
"""

import triton
import triton.language as tl

_M0 = tl.constexpr(0xD2511F53)
_M1 = tl.constexpr(0xCD9E8D57)
_WEYL0 = tl.constexpr(0x9E3779B9)
_WEYL1 = tl.constexpr(0xBB67AE85)


@triton.jit
def _multiply(x, M: tl.constexpr):
    """(high, low) of the 64-bit product: one IMAD.WIDE where umulhi and a product would be two instructions."""
    product = x.to(tl.uint64) * M
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def _philox(k0, k1, low, high):
    """Four uint32 words for the counter (low, high, 0, 0); what depends on scalars alone, if they are, is hoisted."""
    product_high, c3 = _multiply(low, _M0)
    c0 = high ^ k0
    c1 = c0 ^ c0
    c2 = product_high ^ k1
    for _ in tl.static_range(9):
        k0 += _WEYL0
        k1 += _WEYL1
        high0, low0 = _multiply(c0, _M0)
        high1, low1 = _multiply(c2, _M1)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
    return c0, c1, c2, c3
