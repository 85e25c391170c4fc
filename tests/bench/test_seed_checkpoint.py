"""What a seed checkpoint costs is measured on runs that end in the same sharded model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("torch.distributed.fsdp")
pytest.importorskip("safetensors")

from bench.seed_checkpoint import HABIT, OURS, main


def test_quick_run_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "results" / "rows.csv"
    assert main(["--quick", "--rounds", "1", "--out", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["way"] for row in rows] == [OURS, HABIT]
    assert all(float(row["least_s"]) > 0 and int(row["peak_bytes"]) > 10**8 for row in rows)
    assert int(rows[0]["disk_bytes"]) == 0 < int(rows[0]["bytes"]) < int(rows[1]["disk_bytes"])
