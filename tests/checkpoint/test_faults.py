"""Whatever cuts a save or an `init` short, nothing is lost, and the next one ends as if nothing had been.

`make faults` tries every file operation; the ordinary tests try one of many.
"""

import collections
import json
import os
import resource
import subprocess
import sys

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("fcntl")

from safetensors.torch import load_file

from tests.checkpoint import faults
from tests.checkpoint.test_replacing import tree
from tritonparam import save

EVERY = pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="minutes long: set TRITONPARAM_ALL")


def rows_of(module, *arguments):
    command = [sys.executable, "-m", f"tests.checkpoint.{module}", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def check_faults(rows):
    assert [row for row in rows if row["wrong"]] == []
    counts = collections.Counter((row["scenario"], row["fault"]) for row in rows)
    kinds = (faults.KILL, faults.BEFORE, faults.AFTER, faults.FULL, faults.LINE)
    assert set(counts) == {(name, kind) for name in faults.SCENARIOS for kind in kinds}


def test_some_faults_of_each_kind_lose_nothing(tmp_path):
    check_faults(rows_of("faults", tmp_path, "--every", 30))


@pytest.mark.slow
@EVERY
def test_all_faults_lose_nothing(tmp_path, capsys):
    rows = rows_of("faults", tmp_path)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(rows)} faults, {sum(bool(row['wrong']) for row in rows)} of them did harm\n")
    check_faults(rows)
    assert len(rows) > 1500


def check_races(rows):
    assert [row for row in rows if row["wrong"]] == []
    assert len({(row["path"], row.get("savers"), row.get("overwrite")) for row in rows}) == 9


def test_savers_at_once_save_fully_or_say_why_not(tmp_path):
    check_races(rows_of("races", tmp_path / "here", 1))


@pytest.mark.slow
@EVERY
def test_many_savers_at_once_save_fully_or_say_why_not(tmp_path, capsys):
    rows = rows_of("races", tmp_path / "here", 40)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(rows)} races, {sum(bool(row['wrong']) for row in rows)} of them did harm\n")
    check_races(rows)


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_file_larger_than_the_system_allows_leaves_what_was_there(name, tmp_path):
    save({"w": torch.ones(3)}, tmp_path / name)
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save({"w": torch.zeros(9000)}, tmp_path / name, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename.startswith(str(tmp_path / "out"))
    assert tree(tmp_path) == before
    save({"w": torch.zeros(9000)}, tmp_path / name, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [name]
    file = tmp_path / name if name != "out" else tmp_path / "out" / "model.safetensors"
    assert not load_file(file)["w"].any()
