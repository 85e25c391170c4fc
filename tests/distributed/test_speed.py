"""Predictions come from rows of the bench."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import rows
from bench.cases import DTYPES, PLAIN_FILL
from tritonparam.distributed import BANDWIDTH
from tritonparam.distributed.speed import _FRACTIONS, fraction_of_bandwidth

H100 = rows.read(Path(__file__).parents[2] / "bench" / "results" / "nvidia-h100-80gb-hbm3.csv")
ROWS = [row for row in H100 if row.workload == "one tensor of 1024 MiB"]


def test_fractions_are_those_of_the_rows() -> None:
    found = {
        ("constant" if row.op == "ones" else row.op, DTYPES[row.dtype]): round(row.fraction_of_ceiling, 3)
        for row in ROWS
        if (row.provider, row.mode) == ("tritonparam triton", "eager")
    }
    assert found == pytest.approx(_FRACTIONS, abs=0.001)


def test_bandwidth_is_that_of_a_plain_fill() -> None:
    measured = [row.gb_per_s for row in ROWS if (row.provider, row.mode) == (PLAIN_FILL, "graph")]
    assert measured == pytest.approx([BANDWIDTH] * len(measured), rel=0.002)


def test_every_dtype_has_a_fraction() -> None:
    for dtype in (torch.float64, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2):
        for kind in ("uniform", "normal", "truncated_normal"):
            assert 0 < fraction_of_bandwidth(kind, dtype) < 1
    for dtype in (torch.int64, torch.int32, torch.int8, torch.bool):
        assert 0.9 < fraction_of_bandwidth("constant", dtype) < 1
