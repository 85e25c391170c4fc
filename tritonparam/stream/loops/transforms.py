"""From words to float32 values: docs/stream.md, sections 5 to 7, operation by operation.

A loop takes the words of even elements and those of odd ones, as Box and Muller pair them. `parameters` are those of
`lower_*`, in the order in which they are read here.
"""

from tritonparam.stream.coefficients import (
    BELOW_TWO,
    CENTRAL,
    COS,
    LOG,
    MINUS_LN4_ULP,
    RSQRT,
    RSQRT_SEED,
    SIN,
    TAIL,
    TAIL_FROM,
)
from tritonparam.stream.loops.arithmetic import (
    float32,
    float_bits,
    floats_at,
    fma,
    int32,
    int_bits,
    larger,
    part,
    polynomial,
    smaller,
    uint32,
    uint_bits,
    words_at,
)
from tritonparam.stream.loops.layout import ODD

_ONE_BITS, _MANTISSA, _EXPONENT = int32(0x3F800000), int32(0x007FFFFF), int32(-0x00800000)
_ZERO, _HALF, _ONE, _TWO, _FOUR = (float32(each) for each in (0, 0.5, 1, 2, 4))
_TWO_M31 = float32(2.0**-31)


@part
def _fraction(m):
    """n of u = 2**-k * (1 + n/2), -1 < n <= 0, from m = 2**23 * (1 - k + n) - 1."""
    return float_bits(int32((m & _MANTISSA) | _ONE_BITS)) - BELOW_TWO


@part
def _minus_two_log(m, n):
    """-2 ln u, with k from m."""
    return fma(n, polynomial(n, LOG), float32(int32(m & _EXPONENT)) * MINUS_LN4_ULP)


@part
def _rsqrt_seed(x):
    """Within 4 % of 1 / sqrt(x): half the exponent and an average slope, on the bits."""
    return float_bits(int32(RSQRT_SEED + int32(int32(-int_bits(x)) >> int32(1))))


@part
def _uniform(word, low, scale, cap):
    return smaller(fma(float32(word), scale, low), cap)


@part
def _normal_pair(radius_word, angle_word, mean, radius):
    """Box and Muller: mean + std * sqrt(-2 ln u) * (cos, sin), of an angle up to an eighth of a circle from an axis.

    Bit 0 of the angle word is the sign of the axis, bit 1 says which axis. `radius` is RSQRT times std.
    """
    f = float32(int32(radius_word)) + _HALF
    m = smaller(int32(int_bits(f) - int32(0x4F000001)), _MANTISSA)  # wraps to above where f < 0
    n = fma(smaller(f, _ZERO), _TWO_M31, _fraction(m))
    w = _minus_two_log(m, n)
    y = _rsqrt_seed(w)
    g = w * y
    c = polynomial(fma(g, y, -_ONE), radius)
    r = float_bits(uint32(uint_bits(g) + uint32(angle_word << uint32(31)))) * c

    x = float32(int32(angle_word)) * _TWO_M31
    y = x * x
    near = fma(r, polynomial(y, COS), mean)
    far = fma(r * x, polynomial(y, SIN), mean)
    swap = uint32(angle_word & uint32(2)) != uint32(0)
    return (far, near) if swap else (near, far)


@part
def _truncated_normal(word, mean, std, low, high, split, always_below, scale, below, above, has_tail):
    """The inverse of the normal distribution function, restricted to [low, high], at `word`."""
    is_below = (word < split) | always_below
    f = float32(word if is_below else uint32(word ^ uint32(0xFFFFFFFF))) + _HALF
    q = fma(f, scale, below if is_below else above)
    m = int32(int_bits((q * _FOUR) * (_ONE - q)) - int32(0x3F000001))
    w = _minus_two_log(m, _fraction(m))
    z = fma(-_TWO, q, _ONE) * polynomial(w, CENTRAL)
    if has_tail:
        x = larger(w, TAIL_FROM)
        y = _rsqrt_seed(x)
        g = x * y
        c = polynomial(fma(g, y, -_ONE), RSQRT)
        z = (g * c) * polynomial(y * c, TAIL) if w > TAIL_FROM else z
    z = -z if is_below else z
    return smaller(larger(fma(z, std, mean), low), high)


def uniform(source, parameters, out, n):
    """The values of n pairs of elements: low + word * scale, kept below high. See `truncated_normal`."""
    p = floats_at(parameters, 0)
    low, scale, cap = p[0], p[1], p[2]
    even, odd, values = words_at(source, 0), words_at(source, ODD), floats_at(out, 0)
    for i in range(n):
        values[2 * i] = _uniform(even[i], low, scale, cap)
        values[2 * i + 1] = _uniform(odd[i], low, scale, cap)


def normal(source, parameters, out, n):
    """The values of n pairs of elements. See `truncated_normal`."""
    p = floats_at(parameters, 0)
    mean, radius = p[0], (p[1], p[2], p[3], p[4], p[5])
    even, odd, values = words_at(source, 0), words_at(source, ODD), floats_at(out, 0)
    for i in range(n):
        values[2 * i], values[2 * i + 1] = _normal_pair(even[i], odd[i], mean, radius)


def _truncated(has_tail):
    def truncated_normal(source, parameters, out, n):
        """The values of n pairs of elements.

        Args:
            source: Address of their words, of the even elements, and from ODD on of the odd ones.
            parameters: Address of the law's parameters, of 32 bits each.
            out: Address of 2n float32.
            n: How many pairs.
        """
        p, bits = floats_at(parameters, 0), words_at(parameters, 0)
        mean, std, low, high, scale, below, above = p[0], p[1], p[2], p[3], p[4], p[5], p[6]
        split, always_below = bits[7], bits[8] != uint32(0)
        law = mean, std, low, high, split, always_below, scale, below, above
        even, odd, values = words_at(source, 0), words_at(source, ODD), floats_at(out, 0)
        for i in range(n):
            values[2 * i] = _truncated_normal(even[i], *law, has_tail)
            values[2 * i + 1] = _truncated_normal(odd[i], *law, has_tail)

    return truncated_normal


truncated_normal, truncated_normal_with_tail = _truncated(False), _truncated(True)
