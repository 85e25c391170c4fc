"""inspect of a folder that says nothing of what should be there: statistics, and what is wrong in any case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from tritonparam import save

Run = Callable[..., tuple[int, str, str]]


def test_what_save_wrote_is_shown_and_nan_is_told(run: Run, tmp_path: Path) -> None:
    values = {"a": torch.arange(4.0), "b": torch.tensor([1.0, float("nan"), float("-inf")])}
    save(values, tmp_path / "m")
    code, out, _ = run("inspect", tmp_path / "m", "--json")
    rows = {row["name"]: row for row in json.loads(out)["tensors"]}
    assert (code, json.loads(out)["source"]) == (1, None)
    assert (rows["a"]["mean"], rows["a"]["max"], rows["a"]["verdict"]) == (1.5, 3.0, "not compared")
    assert rows["b"]["verdict"] == "1 NaN"
    assert run("inspect", tmp_path / "m")[1].splitlines()[-2].endswith("; 1 with NaN, or not to be read")


def test_what_cannot_be_read_is_told_where_nothing_is_known(run: Run, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abc")
    code, out, _ = run("inspect", tmp_path, "--json")
    (row,) = json.loads(out)["tensors"]
    assert code == 1
    assert row["verdict"].startswith("cannot be read: ")
