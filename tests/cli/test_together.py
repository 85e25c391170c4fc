"""Processes that write one checkpoint together: the files of one process, or an error in all and nothing half."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")

from tests.cli.jobs import job, write
from tests.processes import ROOT, Launcher
from tritonparam._processes import Processes
from tritonparam.checkpoint import CheckpointError
from tritonparam.cli.init import writing
from tritonparam.cli.init.processes import started_processes
from tritonparam.cli.init.writing import share

SMALL = 100  # bytes of a file, of which there are then three


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def told(*arguments: Any, **options: Any) -> str:
    try:
        write(*arguments, **options)
    except (CheckpointError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _written(rank: int, world: int, out: Path) -> tuple[str, int]:
    done = write(job(SMALL), out, processes=Processes.of())
    return done.digest, done.reused


def test_the_files_are_those_of_one_process(launch: Launcher, tmp_path: Path) -> None:
    want = write(job(SMALL), tmp_path / "one")
    assert launch(_written, 3, out=tmp_path / "out") == [(want.digest, 0)] * 3
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["one", "out"]


@pytest.mark.parametrize("world", [1, 2, 5, 40])
def test_each_file_is_the_share_of_one_process(world: int) -> None:
    work = job(SMALL)
    shares = [share(work, Processes(rank, world)) for rank in range(world)]
    names = [shard.name for each in shares for shard in each]
    assert sorted(names) == [shard.name for shard in share(work, Processes())]
    loads = [sum(shard.nbytes for shard in each) for each in shares]
    assert max(loads) - min(loads) <= max(shard.nbytes for each in shares for shard in each)


def _dying(rank: int, world: int, out: Path, who: int, how: int) -> tuple[str, bool, bool] | None:
    """Process `who` is gone after its first file."""
    if rank == who:
        finished = writing.Workspace.mark_finished

        def die(*arguments: Any) -> None:
            finished(*arguments)
            os.kill(os.getpid(), how)

        writing.Workspace.mark_finished = die  # type: ignore[method-assign]
    begin = time.monotonic()
    text = told(job(SMALL), out, processes=Processes.of(deadline=2.0))
    return text, time.monotonic() - begin < 60, out.exists()


@pytest.mark.parametrize(("who", "how"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_what_is_left_when_a_process_is_gone_is_gone_on_with(
    launch: Launcher, tmp_path: Path, who: int, how: signal.Signals
) -> None:
    found = launch(_dying, 3, lost=(who,), out=tmp_path / "out", who=who, how=how)
    for text, soon, there in (each for each in found if each is not None):
        assert f"process {who} of 3 has not come for 2 s" in text
        assert soon
        assert not there
    assert os.listdir(tmp_path) == ["out.partial"]
    (_, reused), _ = launch(_written, 2, out=tmp_path / "out")
    assert reused >= 1
    write(job(SMALL), tmp_path / "one")
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["one", "out"]


def _failing(rank: int, world: int, out: Path) -> list[str]:
    """The disk of process 1 refuses; then the folder is there already."""
    processes = Processes.of(deadline=60.0)
    right = writing.write_file

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if rank == 1:
        writing.write_file = refuse
    found = [told(job(SMALL), out, processes=processes)]
    writing.write_file = right
    found.append(told(job(SMALL), out, processes=processes))
    found.append(told(job(SMALL), out, processes=processes))
    return found


def test_an_error_of_one_process_is_an_error_of_all(launch: Launcher, tmp_path: Path) -> None:
    first, second = launch(_failing, 2, out=tmp_path / "out")
    assert "process 1 of 2: OSError: [Errno 28] No space left on device" in first[0]
    assert second[0].startswith("OSError: [Errno 28]")
    assert (first[1], second[1]) == ("none", "none")
    assert "exists" in first[2]
    assert "exists" in second[2]


def test_a_run_is_not_joined_by_another(tmp_path: Path) -> None:
    """As long as one of its processes is at work, though process 0 is gone."""
    run = writing.Workspace(tmp_path / "out", False)
    with run:
        run.open(job(SMALL).identity(), [])
        other = writing.Workspace(tmp_path / "out", False, rank=1)
        other.join()
    try:
        assert "another process is writing" in told(job(SMALL), tmp_path / "out")
    finally:
        other.rest()
    assert told(job(SMALL), tmp_path / "out") == "none"


SPEC = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 50), torch.nn.Linear(50, 3))
"""


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in two processes."""
    (folder / "models.py").write_text(SPEC)
    return subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tritonparam", "init", "models:build", "--max-shard-size", "3000", *arguments),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_torchrun(tmp_path: Path) -> None:
    """One report, of process 0, and a checkpoint as one process writes it; then an error in all."""
    done = torchrun(tmp_path, "--out", "out", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    command = ["-m", "tritonparam", "init", "models:build", "--max-shard-size", "3000", "--out", "one", "--json"]
    alone = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said["digest"] == json.loads(alone.stdout)["digest"]
    assert len(said["files"]) > 1
    assert files(tmp_path / "out") == files(tmp_path / "one")
    again = torchrun(tmp_path, "--out", "out")
    assert again.returncode
    assert "error: out exists" in again.stderr  # the launcher may end the other before it says so


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set without RANK, MASTER_ADDR, MASTER_PORT: start all"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            r"RANK must be in \[0, WORLD_SIZE\)",
        ),
        ({"WORLD_SIZE": "x", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "WORLD_SIZE must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}, "have not met"),
    ],
)
def test_environments_of_no_launcher(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], match: str) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=match):
        started_processes(1.0)
