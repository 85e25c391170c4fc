"""How a program of a launch over a table finds its row, and its place in what the row covers.

Dimensions are divided by without a division, after Granlund and Montgomery ("Division by invariant integers using
multiplication", 1994): `reciprocal` on the host makes what `_divide` takes.
"""

import triton
import triton.language as tl


def reciprocal(size: int) -> int:
    """What divides any n < 2**31 by `size`, from 1 to 2**31: n * factor >> shift, as factor | shift << 32."""
    shift = 31 + (size - 1).bit_length()
    return -(-(1 << shift) // size) | shift << 32


@triton.jit
def _divide(n, reciprocal):
    """n // size, of uint32 below 2**31, by the `reciprocal` of size."""
    factor = (reciprocal & 0xFFFFFFFF).to(tl.uint64)
    return ((n.to(tl.uint64) * factor) >> (reciprocal >> 32).to(tl.uint64)).to(tl.uint32)


@triton.jit
def _find_row(starts, rows, program):
    """The last of `rows` rows whose first program, in `starts`, is not above `program`: by bisection."""
    row = 0
    end = rows
    while end - row > 1:
        middle = (row + end) // 2
        not_above = tl.load(starts + middle) <= program
        row = tl.where(not_above, middle, row)
        end = tl.where(not_above, end, middle)
    return row
