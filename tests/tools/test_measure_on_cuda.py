"""The script for a CUDA host: it fits twelve minutes, its steps select what the bench has, and a failure is said.

Here the steps are done by a Python that only notes what it is asked.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import end_to_end
from bench.cases import cases
from bench.copies import copy_cases
from bench.fingerprints import fingerprint_cases

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "measure_on_cuda.sh"
WAYS = ["gpt2", "llama"]
BENCHES = ["transposes", "clones", "fills", "shards", "channels", "fingerprints"]

pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("bash", "make", "timeout", "realpath")), reason="needs a shell's tools"
)


def measure(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script, with these variables, for a folder."""
    known = {name: value for name, value in os.environ.items() if name not in ("TESTS", "COMMIT", "MAKEFLAGS")}
    command = ["bash", str(SCRIPT), str(folder), *arguments]
    return subprocess.run(command, env=known | environment, capture_output=True, text=True, timeout=60, check=False)


def fake_python(folder: Path, has_xdist: bool, fails: str = "nothing") -> str:
    """A Python that notes its arguments in `asked`, and fails where they hold `fails`."""
    path = folder / "python"
    path.write_text(
        f"""#!/bin/sh
if [ "$2" = "import xdist" ]; then exit {0 if has_xdist else 1}; fi
echo "$@" >> {shlex.quote(str(folder / "asked"))}
echo "did $3"
case "$*" in *"{fails}"*) exit 3;; esac
"""
    )
    path.chmod(0o755)
    return str(path)


def steps(printed: str) -> dict[str, tuple[int, list[str]]]:
    """Limit and command of each step that a dry run prints, by the name of its log."""
    found = {}
    for line in printed.splitlines():
        timeout, limit, *command, arrow, log = shlex.split(line)
        assert (timeout, arrow) == ("timeout", ">")
        found[Path(log).stem] = int(limit), command
    return found


def test_a_dry_run_fits_twelve_minutes_and_does_nothing(tmp_path: Path) -> None:
    done = measure(tmp_path, "--dry-run", PYTHON=fake_python(tmp_path, has_xdist=False))
    assert (done.returncode, done.stderr) == (0, "")
    found = steps(done.stdout)
    assert list(found) == ["tests", *WAYS, *BENCHES]
    assert sum(limit for limit, _ in found.values()) <= 12 * 60
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("has_xdist", [True, False])
def test_tests_run_side_by_side_where_they_can(tmp_path: Path, has_xdist: bool) -> None:
    """As many at a time as the host has cores but two; one after the other without pytest-xdist."""
    python = fake_python(tmp_path, has_xdist)
    command = steps(measure(tmp_path, "--dry-run", PYTHON=python, TESTS="tests/kernels -k box").stdout)["tests"][1]
    cores = int(subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout)
    workers = f"-n {max(cores - 2, 1)}" if has_xdist else ""
    assert command == ["make", "test-gpu", f"PYTHON={python}", f"ARGS={workers} tests/kernels -k box"]


def test_every_step_of_the_bench_selects_what_it_says(tmp_path: Path) -> None:
    """The texts of --only are in the cases of a CUDA device; of fills, all ops of one tensor and no model."""
    texts = {name: command[-1] for name, (_, command) in steps(measure(tmp_path, "--dry-run").stdout).items()}
    known = [*cases("cuda"), *copy_cases("cuda"), *fingerprint_cases("cuda")]
    selected = {name: [case for case in known if texts[name] in str(case)] for name in BENCHES}
    assert {name: {case.op for case in found} for name, found in selected.items()} == {
        "transposes": {"transposes"},
        "clones": {"clone"},
        "fills": {"ones", "uniform", "normal", "truncated_normal", "fingerprint"},
        "shards": {"uniform", "normal"},
        "channels": {"uniform", "normal"},
        "fingerprints": {"fingerprint"},
    }
    assert {name: {case.layout for case in selected[name]} for name in ("fills", "shards", "channels")} == {
        "fills": {"whole"},
        "shards": {"column shard"},
        "channels": {"channels_last"},
    }
    models = {name: [job.name for job in end_to_end.jobs() if texts[name] in job.name] for name in WAYS}
    assert models == {"gpt2": ["gpt2"], "llama": ["llama-2-7b"]}


def test_all_steps_are_run_and_a_failure_is_said(tmp_path: Path) -> None:
    """The others go on; logs stand in the folder."""
    out = tmp_path / "out"
    done = measure(out, PYTHON=fake_python(tmp_path, has_xdist=True, fails="clone"), COMMIT="abc")
    assert done.returncode == 1, done.stdout + done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line for line in asked if line.startswith("-m bench.")] == [
        f"-m bench.end_to_end --device cuda --rounds 1 --commit abc --out bench/results/end-to-end --only {text}"
        for text in ("gpt2", "llama-2-7b")
    ]
    assert [line for line in asked if line.startswith("-m bench ")] == [
        f"-m bench --device cuda --commit abc --only {text}"
        for text in (
            *("transposes", "clone", "one tensor of 1024 MiB", "column shard", "channels_last"),
            "fingerprint, float32, GPT-2",
        )
    ]
    assert any(line.startswith("-m pytest") for line in asked)
    assert sorted(path.name for path in out.glob("*.log")) == sorted(
        f"{name}.log" for name in ["tests", *WAYS, *BENCHES]
    )
    assert (out / "shards.log").read_text() == "did --device\n"
    ends = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if "exit status" in line}
    assert ends == {name: "3" if name == "clones" else "0" for name in ["tests", *WAYS, *BENCHES]}
    assert measure(out, PYTHON=fake_python(tmp_path, has_xdist=True)).returncode == 0


@pytest.mark.parametrize("arguments", [("--wet-run",), ("--dry-run", "more")])
def test_other_arguments_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = measure(tmp_path, *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
