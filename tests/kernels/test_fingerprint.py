"""The kernel of the sums of fingerprints: its table's rows by their paths; tests/plan/test_summing.py has its bits."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from tests.plan.test_summing import content
from tritonparam.kernels import fingerprint
from tritonparam.kernels.fingerprint import BLOCK_WORDS, CHUNK, PATHS, RUN_CHUNK
from tritonparam.plan import Sum, sums
from tritonparam.plan.backends.sum_table import build_sum_table, rows_of
from tritonparam.stream.loops import layout
from tritonparam.stream.reference import fingerprint as definition


def test_all_have_one_block() -> None:
    assert BLOCK_WORDS == definition.BLOCK_WORDS == layout.BLOCK_BYTES // 4


def test_the_kernel_takes_every_path() -> None:
    """Runs by words, units, elements of every width: else the tests above would prove less than they say."""
    x = content((64, 64), torch.float32)
    cases = {
        "run": Sum(x, 1),
        "units": Sum(x[:, 16:32], 1),
        "4": Sum(x[:, 17:32], 1),
        "2": Sum(x.bfloat16().T, 1),
        "1": Sum(x.bool().T, 1),
        "8": Sum(x.double().T, 1),
    }
    assert {name: [row.path for row in rows_of(each)] for name, each in cases.items()} == {
        name: [PATHS[name]] for name in cases
    }
    assert build_sum_table(list(cases.values())).paths == 2 ** len(PATHS) - 1
    bytes_at_odd_places = Sum(content((4106,), torch.uint8)[1:4100], 1, (5000,), (1,))
    assert [row.path for row in rows_of(bytes_at_odd_places)] == [PATHS["1"], PATHS["run"]]
    (row,) = rows_of(Sum(content((64 * 64 + 1,), torch.float32)[1:].view(64, 64)[:, 16:32], 1))
    assert row.path == PATHS["4"]  # which 128-bit loads would not find at multiples of their bytes
    apart = Sum(content((4106,), torch.uint8)[1:4100], 1, (5000,), (2,))
    assert [row.path for row in rows_of(apart)] == [PATHS["1"]]
    (row,) = rows_of(Sum(content((2 * RUN_CHUNK + 5,), torch.int32), 1, (9 * RUN_CHUNK,), (RUN_CHUNK - 1,)))
    assert row.programs == 4
    (row,) = rows_of(Sum(content((CHUNK + 1, 2), torch.int32)[:, 0], 1))
    assert row.programs == 2


@pytest.mark.kernels
def test_one_launch_for_all_and_none_for_nothing(monkeypatch: pytest.MonkeyPatch, launch_recorder, device) -> None:
    monkeypatch.setattr(fingerprint, "_box_sums_kernel", launch_recorder)
    x = torch.zeros(5000, device=device)
    sums([Sum(x, 1), Sum(x[:3], 2), Sum(x.view(50, 100).T, 3), Sum(x[:0], 4)], "triton")
    sums([Sum(x[:0], 4)], "triton")
    assert launch_recorder.asked == [((1 + 1 + 5,), fingerprint.NUM_WARPS)]


def test_rows_that_are_too_long_for_its_arithmetic_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes in pieces, whose sums are one; runs are not cut, whatever their length."""
    from tritonparam.plan.backends import sum_table

    x = content((60, 50), torch.int16).T
    (want,) = sums([Sum(x, 3)], "numpy")
    assert len(list(rows_of(Sum(x, 3)))) == 1
    monkeypatch.setattr(sum_table, "_MOST", 1000)
    assert len(list(rows_of(Sum(x, 3)))) > 3
    assert len(list(rows_of(Sum(content((60, 50), torch.int16), 3)))) == 1
    if fingerprint.triton.knobs.runtime.interpret or torch.cuda.is_available():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        (got,) = sums([Sum(x.to(device), 3)], "triton")
        assert got.tolist() == want.tolist()
