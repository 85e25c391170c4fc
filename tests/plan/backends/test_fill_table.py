"""The fill table says what it holds: rows, programs, kinds and dtypes."""

from __future__ import annotations

import pytest
import torch

from tritonparam import Fill, Normal

pytest.importorskip("triton")

from tritonparam.kernels import fill as kernel
from tritonparam.plan.backends.fill_table import build_fill_table

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
