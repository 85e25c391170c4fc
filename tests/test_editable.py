"""An editable install shows the package, with its types, and nothing else that lies beside it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo")

SCRIPT = """
import torch
import tritonparam as tp

with tp.deferred_init():
    model = torch.nn.Linear(2, 2)
reveal_type(tp.materialize(model, seed=0))
reveal_type(tp.load(model, "folder"))
reveal_type(tp.fingerprint(model))
reveal_type(tp.deferred_init())
tp.materialize(model, sead=0)
tp.materailize(model)
"""
REVEALED = """
script.py:7: note: Revealed type is "torch.nn.modules.linear.Linear"
script.py:8: note: Revealed type is "tritonparam.checkpoint.matching.match.LoadReport"
script.py:9: note: Revealed type is "tritonparam.distributed.fingerprints.Fingerprint"
script.py:10: note: Revealed type is "tritonparam.module.recording.deferred.DeferredBlock"
script.py:11: error: Unexpected keyword argument "sead" for "materialize"  [call-arg]
script.py:12: error: Module has no attribute "materailize"; maybe "materialize"?  [attr-defined]
"""


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that finds modules in `cwd` and in its environment only."""
    away = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=away, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment, in which a copy of the checkout is installed with `pip install -e`.

    Nothing is fetched: all other packages are those of this environment.
    """
    for name in ("setuptools", "pip"):
        pytest.importorskip(name)
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77")
    folder = tmp_path_factory.mktemp("editable")
    clone = folder / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    (Path(purelib) / "zz_others.pth").write_text(sysconfig.get_path("purelib"))  # .pth files there are not read
    arguments = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--editable", clone)
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def test_the_package_is_the_clone_and_all_of_it(python: Path, tmp_path: Path) -> None:
    """Also what is new in it since, and the kernels, by their name in the package."""
    clone = python.parents[2] / "clone"
    (clone / "tritonparam" / "later.py").write_text("")
    code = "import tritonparam, tritonparam.later, tritonparam.kernels; print(tritonparam.__file__)"
    done = run(python, "-c", code, cwd=tmp_path)
    assert Path(done.stdout.strip()).resolve() == clone / "tritonparam" / "__init__.py", done.stderr


@pytest.mark.parametrize("name", ["kernels", "tests", "bench", "tools", "setup", "examples"])
def test_what_lies_beside_the_package_is_not_importable(name: str, python: Path, tmp_path: Path) -> None:
    assert (python.parents[2] / "clone" / name).exists() or name == "setup"
    done = run(python, "-c", f"import {name}", cwd=tmp_path)
    assert f"No module named {name!r}" in done.stderr


@pytest.mark.slow
def test_mypy_sees_the_types(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    mypy = (sys.executable, "-m", "mypy", "--python-executable", python, "--config-file=", "--hide-error-context")
    done = run(*mypy, "--no-incremental", "script.py", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if ".py:" in line and "defined in" not in line] == (
        REVEALED.strip().splitlines()
    )
