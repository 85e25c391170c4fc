"""How a program of a launch over a table finds its row."""

import triton
import triton.language as tl


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
