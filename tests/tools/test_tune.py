"""The sweep over launch constants: it finds the lines it edits, and runs interpreted but for the timing."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name",
    [
        *("normal float32", "truncated_normal bfloat16"),
        *("copy float32", "transposes float32", "transposes bfloat16", "cast bfloat16 to float8_e4m3fn"),
        "every other float32",
    ],
)
def test_each_variant_of_a_path_finds_its_constants(tmp_path: Path, name: str) -> None:
    from tools.tune_jobs import JOBS, KERNELS, write_package

    job = JOBS[name]
    texts = set()
    for variant in job.variants():
        write_package(variant, tmp_path)
        texts.add((tmp_path / variant.package / f"{job.kernel}.py").read_text())
    assert len(texts) == len(job.variants())
    assert (KERNELS / f"{job.kernel}.py").read_text() not in texts  # the launcher returns what it launched


@pytest.mark.kernels
def test_a_quick_sweep_times_every_variant(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "tune_kernels.py"), "--quick", "--only", "broadcast"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # and interpreted where this process interprets
    subprocess.run([*command, "--out", str(tmp_path), "--workers", "1"], env=environment, check=True, timeout=300)
    (written,) = tmp_path.glob("*.csv")
    with written.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert sorted(row["baseline"] for row in rows) == ["False", "True"]


def test_rows_of_other_jobs_stay(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        tune = importlib.import_module("tune_kernels")
    finally:
        sys.path.remove(str(ROOT / "tools"))
    path = tmp_path / "device.csv"
    tune.keep(path, [])
    assert not path.exists()
    tune.keep(path, [{"job": "copy float32", "median_s": 1}, {"job": "normal float32", "median_s": 2}])
    tune.keep(path, [{"job": "copy float32", "median_s": 3}])
    assert path.read_text() == "job,median_s\nnormal float32,2\ncopy float32,3\n"
