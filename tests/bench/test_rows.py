"""Rows say where, with what and how fast, and survive the file; what is measured again replaces its row."""

import dataclasses

import pytest
import torch

from bench import rows
from tests.bench.samples import measured
from tritonparam.stream.key import STREAM_VERSION


def test_rows_survive_the_file(tmp_path):
    (path,) = rows.write(tmp_path / "results", [measured(), measured(op="ones")], whole=True)
    assert path.name == "a-device.csv"
    assert path.read_text().splitlines()[0].split(",") == rows.COLUMNS
    assert rows.read(path) == [measured(), measured(op="ones")]


def test_row_says_where_and_with_what():
    """No column is empty, here or on a bare host."""
    found = dataclasses.asdict(rows.environment("cpu", commit="abc"))
    assert all(str(value) for value in found.values())
    assert found["torch"] == torch.__version__
    assert found["stream"] == STREAM_VERSION
    assert set(found) < set(rows.COLUMNS)


def test_measured_again_replaces_its_row_and_a_full_run_all(tmp_path):
    rows.write(tmp_path, [measured(), measured(op="ones")], whole=True)
    rows.write(tmp_path, [measured(median_s=9.0, commit="def")], whole=False)
    (path,) = rows.write(tmp_path, [measured(op="uniform")], whole=False)
    assert rows.read(path) == [measured(median_s=9.0, commit="def"), measured(op="ones"), measured(op="uniform")]
    rows.write(tmp_path, [measured(op="uniform")], whole=True)
    assert rows.read(path) == [measured(op="uniform")]


def test_rows_of_other_columns_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("device,op\nx,y\n")
    with pytest.raises(ValueError, match="must have the columns"):
        rows.read(path)
