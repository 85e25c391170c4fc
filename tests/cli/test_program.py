"""The process of the command line is quick to start and to end, and nothing that it has promised is lost by that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

import tritonparam

ROOT = Path(tritonparam.__file__).parents[1]
SPEC = "import torch\n\ndef build():\n    return torch.nn.Linear(3, 2)\n"
# Says in the end whether Python took the process apart: then what a module holds goes too.
SCRIPT = """
import atexit, gc, sys, threading, time
class Last:
    def __del__(self):
        sys.__stderr__.write("taken apart\\n")
import tritonparam
tritonparam._last = Last()
def told():
    sys.stderr.write("atexit\\n")
def late():
    threading.main_thread().join()
    time.sleep(0.2)
    sys.stderr.write("thread\\n")
atexit.register(told)
threading.Thread(target=late).start()
from tritonparam.cli import commands
from tritonparam.cli.init import writing
import tritonparam.cli.init as init
before = writing.write_checkpoint
def write(*arguments, **options):
    sys.stderr.write(f"garbage {gc.isenabled()} {gc.get_freeze_count() > 10_000}\\n")
    return before(*arguments, **options)
init.write_checkpoint = write
sys.stderr.write(f"importing {gc.isenabled()}\\n")
sys.exit(commands.main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program_spec.py").write_text(SPEC)
    (tmp_path / "tritonparam").write_text(SCRIPT)
    (tmp_path / "other.py").write_text(SCRIPT)
    return tmp_path


def run(folder: Path, name: str, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    command = [sys.executable, str(folder / name), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )


def test_a_run_ends_at_once_after_all_that_was_promised(folder: Path) -> None:
    done = run(folder, "tritonparam", "init", "program_spec:build", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out: 8 parameters")
    assert done.stderr.splitlines() == ["importing False", "garbage True True", "thread", "atexit"]
    assert (folder / "out" / "tritonparam.json").exists()


def test_another_program_is_left_as_it_is(folder: Path) -> None:
    done = run(folder, "other.py", "init", "program_spec:build", "--out", "out")
    assert done.returncode == 0, done.stderr
    want = ["importing True", "garbage True False", "thread", "atexit", "taken apart"]
    assert done.stderr.splitlines() == want


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("init", "--seed", "x"), 2, "error: "),
        (("init", "program_spec:none", "--out", "out"), 2, "error: "),
        (("inspect", "nowhere"), 2, "error: "),
        (("--version",), 0, ""),
    ],
)
def test_every_exit_status_is_kept(arguments: tuple[str, ...], status: int, error: str, folder: Path) -> None:
    done = run(folder, "tritonparam", *arguments)
    assert done.returncode == status, done.stderr
    assert "taken apart" not in done.stderr
    assert error in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_no_success(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(folder, "tritonparam", "--version", stdout=full.fileno())
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_an_error_that_is_shown_with_its_traceback_ends_as_python_ends(folder: Path) -> None:
    (folder / "program_spec.py").write_text("def build():\n    raise SystemExit(7)\n")
    done = run(folder, "tritonparam", "init", "program_spec:build", "--out", "out", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
