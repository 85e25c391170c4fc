"""The values of a law: its parameters from a row of the table, its four values from each Philox block."""

import triton
import triton.language as tl

from .philox import _philox
from .transforms import _normal_pair, _truncated_normal, _uniform


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
