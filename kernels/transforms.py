"""From words to float32 values, as docs/stream.md has it, operation by operation.

Every operation is an integer operation, a float32 +, -, * or fma, a comparison or a bit cast. No exp, log, sin, cos or
sqrt of any library, and no contraction but the fma written here: the launcher turns fp fusion off.

`lead` holds constants that come through memory (`LEAD`): an instruction has room for one immediate, and where it needs
two constants the second would cost a MOV at each use (tests/data/instructions.csv has the counts).
"""

import struct

import triton
import triton.language as tl

_LOG0 = tl.constexpr(float.fromhex("-0x1.ffffcep-1"))
_LOG1 = tl.constexpr(float.fromhex("0x1.0011e8p-2"))
_LOG2 = tl.constexpr(float.fromhex("-0x1.519e66p-4"))
_LOG3 = tl.constexpr(float.fromhex("0x1.2bc462p-5"))
_LOG4 = tl.constexpr(float.fromhex("0x1.fb145cp-9"))
_LOG5 = tl.constexpr(float.fromhex("0x1.0bdcf0p-5"))
_LOG6 = tl.constexpr(float.fromhex("0x1.6db228p-6"))
_RSQRT1 = tl.constexpr(float.fromhex("-0x1.ffff90p-2"))
_RSQRT2 = tl.constexpr(float.fromhex("0x1.7fffdap-2"))
_RSQRT3 = tl.constexpr(float.fromhex("-0x1.4178b0p-2"))
_COS0 = tl.constexpr(float.fromhex("0x1.000000p+0"))
_COS1 = tl.constexpr(float.fromhex("-0x1.3bd39cp-2"))
_COS2 = tl.constexpr(float.fromhex("0x1.03b058p-6"))
_SIN0 = tl.constexpr(float.fromhex("0x1.921fb6p-1"))
_SIN1 = tl.constexpr(float.fromhex("-0x1.4abc0ap-4"))
_SIN2 = tl.constexpr(float.fromhex("0x1.46767ap-9"))
_CENTRAL0 = tl.constexpr(float.fromhex("0x1.40d930p+0"))
_CENTRAL1 = tl.constexpr(float.fromhex("0x1.4ffe62p-3"))
_CENTRAL2 = tl.constexpr(float.fromhex("0x1.0b77bap-8"))
_CENTRAL3 = tl.constexpr(float.fromhex("-0x1.aeea48p-12"))
_CENTRAL4 = tl.constexpr(float.fromhex("-0x1.95f488p-17"))
_CENTRAL5 = tl.constexpr(float.fromhex("0x1.27c9b2p-19"))
_CENTRAL6 = tl.constexpr(float.fromhex("0x1.a26504p-25"))
_CENTRAL7 = tl.constexpr(float.fromhex("-0x1.34b048p-26"))
_CENTRAL8 = tl.constexpr(float.fromhex("0x1.1703d4p-30"))
_CENTRAL9 = tl.constexpr(float.fromhex("-0x1.5aaebap-36"))
_TAIL0 = tl.constexpr(float.fromhex("0x1.002060p+0"))
_TAIL1 = tl.constexpr(float.fromhex("-0x1.920ca8p-5"))
_TAIL2 = tl.constexpr(float.fromhex("-0x1.1a8b1cp+1"))
_TAIL3 = tl.constexpr(float.fromhex("0x1.554a10p+3"))
_TAIL4 = tl.constexpr(float.fromhex("-0x1.05461cp+5"))
_TAIL5 = tl.constexpr(float.fromhex("0x1.2b3fc8p+6"))
_TAIL6 = tl.constexpr(float.fromhex("-0x1.9cfd6ep+6"))
_TAIL7 = tl.constexpr(float.fromhex("0x1.da17bep+5"))
_MINUS_LN4_ULP = tl.constexpr(-float.fromhex("0x1.62e430p-23"))
_BELOW_TWO = tl.constexpr(float.fromhex("0x1.fffffep+0"))
_TWO_M31 = tl.constexpr(2.0**-31)
_RSQRT_SEED = tl.constexpr(0x5F375A86)
_TAIL_FROM = tl.constexpr(11.0)

# 1.0 and the last coefficients of LOG, COS, SIN and RSQRT, as bits.
LEAD = tuple(
    struct.unpack("<i", struct.pack("<f", float.fromhex(text)))[0]
    for text in ("0x1p+0", "0x1.5e975cp-7", "-0x1.4e78bep-12", "-0x1.314deep-15", "0x1.18e59cp-2")
)


@triton.jit
def _bits(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def _float(n):
    return n.to(tl.float32, bitcast=True)


@triton.jit
def _uniform(word, low, scale, cap):
    """min(word * scale + low, cap)."""
    return tl.minimum(tl.fma(word.to(tl.float32), scale, low), cap)


@triton.jit
def _fraction(m, lead):
    """n of u = 2**-k * (1 + n/2), -1 < n <= 0, from m = 2**23 * (1 - k + n) - 1."""
    return _float((m & 0x007FFFFF) | _bits(lead[0])) - _BELOW_TWO


@triton.jit
def _minus_two_log(m, n, lead):
    """-2 ln u, with k from m."""
    p = tl.fma(n, lead[1], _LOG6)
    p = tl.fma(p, n, _LOG5)
    p = tl.fma(p, n, _LOG4)
    p = tl.fma(p, n, _LOG3)
    p = tl.fma(p, n, _LOG2)
    p = tl.fma(p, n, _LOG1)
    p = tl.fma(p, n, _LOG0)
    return tl.fma(n, p, (m & -0x00800000).to(tl.float32) * _MINUS_LN4_ULP)


@triton.jit
def _rsqrt_seed(x):
    """Within 4 % of 1 / sqrt(x): half the exponent and an average slope, on the bits."""
    return _float((-_bits(x) >> 1) + _RSQRT_SEED)


@triton.jit
def _normal_pair(radius_word, angle_word, mean, radius, lead):
    """Box and Muller: mean + std * sqrt(-2 ln u) * (cos, sin), of an angle up to an eighth of a circle from an axis.

    Bit 0 of the angle word is the sign of the axis, bit 1 says which axis. `radius` is RSQRT times std.
    """
    f = radius_word.to(tl.int32, bitcast=True).to(tl.float32) + 0.5
    m = tl.minimum(_bits(f) - 0x4F000001, 0x007FFFFF)  # wraps to above where f < 0
    n = tl.fma(tl.minimum(f, 0.0), _TWO_M31, _fraction(m, lead))
    w = _minus_two_log(m, n, lead)
    y = _rsqrt_seed(w)
    g = w * y
    e = tl.fma(g, y, -1.0)
    c = tl.fma(e, radius[4], radius[3])
    c = tl.fma(c, e, radius[2])
    c = tl.fma(c, e, radius[1])
    c = tl.fma(c, e, radius[0])
    r = _float(_bits(g) + (angle_word << 31).to(tl.int32, bitcast=True)) * c

    x = angle_word.to(tl.int32, bitcast=True).to(tl.float32) * _TWO_M31
    y = x * x
    cos = tl.fma(y, lead[2], _COS2)
    cos = tl.fma(cos, y, _COS1)
    cos = tl.fma(cos, y, _COS0)
    sin = tl.fma(y, lead[3], _SIN2)
    sin = tl.fma(sin, y, _SIN1)
    sin = tl.fma(sin, y, _SIN0)
    near = tl.fma(r, cos, mean)
    far = tl.fma(r * x, sin, mean)
    swap = (angle_word & 2) != 0
    return tl.where(swap, far, near), tl.where(swap, near, far)


@triton.jit
def _truncated_normal(word, mean, std, low, high, split, scale, below, above, lead, HAS_TAIL: tl.constexpr):
    """The inverse of the normal distribution function, restricted to [low, high], at `word`."""
    is_below = word.to(tl.int64) < split
    f = tl.where(is_below, word, word ^ 0xFFFFFFFF).to(tl.float32) + 0.5
    q = tl.fma(f, scale, tl.where(is_below, below, above))
    m = _bits((q * 4.0) * (1.0 - q)) - 0x3F000001
    w = _minus_two_log(m, _fraction(m, lead), lead)

    p = tl.fma(w, _CENTRAL9, _CENTRAL8)
    p = tl.fma(p, w, _CENTRAL7)
    p = tl.fma(p, w, _CENTRAL6)
    p = tl.fma(p, w, _CENTRAL5)
    p = tl.fma(p, w, _CENTRAL4)
    p = tl.fma(p, w, _CENTRAL3)
    p = tl.fma(p, w, _CENTRAL2)
    p = tl.fma(p, w, _CENTRAL1)
    p = tl.fma(p, w, _CENTRAL0)
    z = tl.fma(q, -2.0, 1.0) * p
    if HAS_TAIL:
        x = tl.maximum(w, _TAIL_FROM)
        y = _rsqrt_seed(x)
        g = x * y
        e = tl.fma(g, y, -1.0)
        c = tl.fma(e, lead[4], _RSQRT3)
        c = tl.fma(c, e, _RSQRT2)
        c = tl.fma(c, e, _RSQRT1)
        c = tl.fma(c, e, 1.0)
        s = y * c
        p = tl.fma(s, _TAIL7, _TAIL6)
        p = tl.fma(p, s, _TAIL5)
        p = tl.fma(p, s, _TAIL4)
        p = tl.fma(p, s, _TAIL3)
        p = tl.fma(p, s, _TAIL2)
        p = tl.fma(p, s, _TAIL1)
        p = tl.fma(p, s, _TAIL0)
        z = tl.where(w > _TAIL_FROM, (g * c) * p, z)
    z = tl.where(is_below, -z, z)
    return tl.minimum(tl.maximum(tl.fma(z, std, mean), low), high)
