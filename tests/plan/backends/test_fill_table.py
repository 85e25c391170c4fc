"""The fill table says what it holds: rows, programs, kinds and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritonparam import Constant, Fill, Normal, TruncatedNormal, Uniform
from tritonparam.plan import FillColumns

pytest.importorskip("triton")

from tritonparam.kernels import fill as kernel
from tritonparam.kernels.transforms import LEAD
from tritonparam.plan.backends.fill_table import _pack_law, build_fill_table

pytestmark = pytest.mark.kernels

CHUNK = kernel.CHUNK
KEY = 0x9E3779B97F4A7C15


def test_table_says_what_it_holds(device: torch.device) -> None:
    """Rows, programs, kinds and dtypes; empty tensors have no row."""
    shapes = [(CHUNK,), (CHUNK + 1,), (0,), (1,)]
    table = build_fill_table([Fill(torch.empty(shape, device=device), Normal(), KEY) for shape in shapes])
    assert (table.rows, table.programs, table.strided) == (3, 4, False)
    assert (table.kinds, table.dtypes) == (1 << kernel.KINDS["normal"], 1)
    empty = build_fill_table([Fill(torch.empty(0, device=device), Normal(), KEY)])
    assert (empty.rows, empty.programs) == (0, 0)


LAWS = [
    *(Constant(0.0), Constant(-0.0), Constant(True), Normal(), Normal(mean=0.5, std=2.0), Uniform(low=-1.0, high=1.0)),
    *(TruncatedNormal(), TruncatedNormal(mean=0.0, std=1.0, low=-8.0, high=8.0)),
]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(LAWS),
        st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
        st.sampled_from([(), (3,), (2, 5), (CHUNK + 3,), (0, 4)]),
        st.integers(0, 2**64 - 1),
    ),
    max_size=6,
)


def words_one_by_one(fills: list[Fill]) -> list[int]:
    """The table of fills that are runs, written down row by row from the docstring of the kernel."""
    rows, firsts, programs = [], [], 0
    for fill in fills:
        flags, itemsize, *parameters = _pack_law(fill.law, fill.out.dtype)
        start = fill.run_start or 0
        stop, address = start + fill.out.numel(), fill.out.data_ptr() - start * itemsize
        if start < stop:
            firsts.append(programs)
            programs += -(-stop // CHUNK) - start // CHUNK
            rows += [address, fill.key, flags | (address % 16 == 0) << 16, start, stop, 0, *parameters, 0]
    unsigned = [*np.asarray(LEAD, np.int64).view(np.uint64).tolist(), *firsts, *rows] if rows else []
    return np.array(unsigned, np.uint64).view(np.int64).tolist()


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, boxes=ROWS)
@example(rows=[(Normal(), torch.float32, (3,), 1)], boxes=[(Uniform(), torch.float32, (CHUNK + 3,), 2)])
def test_columns_are_word_for_word_the_table_of_their_fills(rows: list, boxes: list) -> None:
    """Whole tensors as columns, boxes that start somewhere behind them; both, also as a list, row by row."""
    behind = []
    for law, dtype, shape, key in boxes:
        out = torch.empty((2, *shape), dtype=dtype)
        behind.append(Fill(out, law, key, (7, *shape), (3, *(0,) * len(shape))))
    outs = [torch.empty(shape, dtype=dtype) for _, dtype, shape, _ in rows]
    keys = np.array([key for *_, key in rows], np.uint64)
    columns = FillColumns(outs, [law for law, *_ in rows], keys, behind)
    got, listed = build_fill_table(columns), build_fill_table(list(columns))
    assert got.words.tolist() == listed.words.tolist() == words_one_by_one(list(columns))
    for name in ("rows", "programs", "kinds", "dtypes", "strided"):
        assert getattr(got, name) == getattr(listed, name)
