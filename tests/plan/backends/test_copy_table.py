"""The copy table: rows of any size and strides are split so that each place has 31 bits and is written once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonparam import Copy

pytest.importorskip("triton")

from tests.kernels.copies import BF16, F32
from tritonparam.kernels import copy as kernel
from tritonparam.kernels.dtypes import DTYPES as CODES
from tritonparam.kernels.rows import reciprocal
from tritonparam.plan.backends import copy_table as _copy_table
from tritonparam.plan.backends.copy_table import Geometry, Row, build_copy_table, lay_out

pytestmark = pytest.mark.kernels


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_division_by_a_reciprocal_is_exact(size: int, n: int) -> None:
    made = reciprocal(size)
    factor, shift = made & 0xFFFFFFFF, made >> 32
    for number in (n, n - n % size, max(n - n % size - 1, 0), 2**31 - 1):
        assert number * factor < 2**64
        assert number * factor >> shift == number // size


@pytest.mark.parametrize("size", [*range(1, 40), 2**30, 2**30 + 1, 2**31 - 1])
def test_division_by_any_small_number_is_exact(size: int) -> None:
    test_division_by_a_reciprocal_is_exact.hypothesis.inner_test(size, 2**31 - 1)


def elements_of(row: Row, geometry: Geometry) -> int:
    """How many elements of out a row writes."""
    path, wide = row.code & 3, row.code >> 2 & 1
    unit = geometry.out.itemsize * (kernel.VECTOR if wide else 1)
    if not geometry.casts:
        unit = 16 if wide else {CODES[f"int{8 * n}"]: n for n in (1, 2, 4, 8)}[row.code >> 8]
    places = math.prod(dim[0] for dim in row.dims)
    return unit * (places * row.size if path == kernel.PATHS["run"] else places) // geometry.out.itemsize


BIG = 2**31 + 11
HUGE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "run": ((3 * BIG, 1, 1),),
    "every second": ((3 * BIG, 2, 1),),
    "many rows": ((BIG, 8, 4), (4, 2, 1)),
    "few rows": ((3, 4 * BIG, BIG), (BIG, 2, 1)),
    "transpose": ((2**17, 1, 2**16), (2**16, 2**17, 1)),
    "backwards": ((3, -4 * BIG, BIG), (BIG, -2, 1)),
}


@pytest.mark.parametrize("dtypes", [(F32, F32), (F32, BF16)], ids=str)
@pytest.mark.parametrize("dims", HUGE.values(), ids=HUGE)
def test_more_than_two_to_the_31_elements_are_split(dims: Any, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Places stay below 2**31 in a row; together the rows write every element once, from the first to the last."""
    geometry = Geometry(dtypes[0] != dtypes[1], dtypes[1], dtypes[0], 0, 0, dims)
    rows = lay_out(geometry)
    counts = [elements_of(row, geometry) for row in rows]
    assert sum(counts) == math.prod(dim[0] for dim in dims)
    assert sum(row.programs for row in rows) < 2**31
    for row in rows:
        assert math.prod(dim[0] for dim in row.dims) < 2**31 or row.code & 3 == kernel.PATHS["transpose"]
    # They lie one behind the other in out, each where the source has its first element.
    starts = np.cumsum([0, *counts[:-1]])
    for start, row in zip(starts, rows, strict=True):
        assert row.out == start * dtypes[1].itemsize
        rest, source = int(start), 0
        for size, stride, _ in sorted(dims, key=lambda dim: dim[2]):
            source += rest % size * stride
            rest //= size
        assert row.source == source * dtypes[0].itemsize


def test_too_many_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_table, "_MAX_PROGRAMS", 2)
    copies = [Copy(torch.empty(3), torch.empty(3)) for _ in range(3)]
    with pytest.raises(ValueError, match="the copies of one plan must come to at most 2 programs, got 3"):
        build_copy_table(copies)
