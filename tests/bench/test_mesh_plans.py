"""What planning costs is measured on plans that hold the whole model, and drawn."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("safetensors")

from bench import mesh_plans
from bench.mesh_plans import COMMAND, PLAN, RANK, jobs, main


def test_quick_run_writes_rows_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "results" / "rows.csv", tmp_path / "rows.png"
    assert main(["--quick", "--rounds", "1", "--out", str(out), "--plot", str(picture)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["job"], int(row["layers"]), int(row["ranks"])) for row in rows]
    assert found == [
        (job, *size) for size in jobs(quick=True) for job in (PLAN, RANK, *([COMMAND] * (size == (2, 16))))
    ]
    assert all(float(row["least_s"]) > 0 for row in rows)
    assert [int(row["peak_bytes"]) > 10**8 for row in rows if row["job"] == COMMAND] == [True]
    assert picture.stat().st_size > 5000


def test_a_plan_that_loses_bytes_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: object, **options: object) -> mesh_plans.MeshPlan:
        plan = plan_mesh(*arguments, **options)  # type: ignore[arg-type]
        plan.nbytes.setflags(write=True)
        plan.nbytes[3] -= 4
        return plan

    plan_mesh = mesh_plans.plan_mesh
    monkeypatch.setattr(mesh_plans, "plan_mesh", lost)
    with pytest.raises(ValueError, match="2 layers on 16 ranks: the ranks do not hold the model"):
        main(["--quick", "--rounds", "1"])
