"""What importing the package does, and does not do."""

import importlib
import importlib.util
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tritonparam
from tools import import_graph

ROOT = Path(tritonparam.__file__).parents[1]
HEAVY = ["triton", "typer", "rich", "safetensors", "transformers", "torch.distributed.tensor"]

# Seconds are of this process's CPU and from bytecode, and the least of three, so that a busy machine does not matter.
# Where torch itself takes more than 1.25 s, the machine is slow, and the limit is the same share of that time.
PROBE = f"""
import compileall, json, sys, time
start = time.process_time()
import torch
torch_seconds = time.process_time() - start
compileall.compile_dir("tritonparam", quiet=2)
before = set(sys.modules)
start = time.process_time()
import tritonparam
seconds = time.process_time() - start
new = set(sys.modules) - before
print(json.dumps({{
    "file": tritonparam.__file__,
    "heavy": [name for name in {HEAVY!r} if name in new],
    "cuda": torch.cuda.is_initialized(),
    "seconds": seconds,
    "torch": torch_seconds,
}}))
"""


def check_import(root: Path) -> None:
    """Import the package that lies in `root` after torch, in processes of its own, and look at what that did."""
    assert min(_imported(root) for _ in range(3)) < 0.05


def _imported(root: Path) -> float:
    """The seconds of an import that brings in nothing heavy, on a machine that imports torch in 1.25 s or less."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    got = json.loads(done.stdout)
    assert Path(got["file"]).parents[1] == root
    assert got["heavy"] == []
    assert not got["cuda"]
    return float(got["seconds"]) * min(1.0, 1.25 / got["torch"])


def mutant(folder: Path, line: str) -> Path:
    """A copy of the package whose `__init__` runs `line` first."""
    package = folder / "tritonparam"
    shutil.copytree(ROOT / "tritonparam", package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    future = "from __future__ import annotations\n"
    init.write_text(init.read_text().replace(future, f"{future}\n{line}\n"))
    return folder


def test_import_is_quick_and_brings_in_nothing_heavy():
    check_import(ROOT)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_import_of_triton_would_be_noticed(tmp_path):
    with pytest.raises(AssertionError, match="triton"):
        check_import(mutant(tmp_path, "import triton"))


def test_slow_import_would_be_noticed(tmp_path):
    with pytest.raises(AssertionError, match=r"0\.05"):
        check_import(mutant(tmp_path, "sum(range(6_000_000))"))


def test_every_public_name_is_there_and_listed():
    for name in tritonparam.__all__:
        assert getattr(tritonparam, name) is not None
    with pytest.raises(AttributeError, match=r"module 'tritonparam' has no attribute 'nosuch'$"):
        _ = tritonparam.nosuch


@pytest.mark.parametrize("room", ["", *(f".{room}" for room in import_graph.ROOMS if room != "cli")])
def test_completion_shows_what_is_public_and_nothing_else(room):
    """No modules that were imported for the package's own use, no types of annotations, no private files."""
    package = importlib.import_module(f"tritonparam{room}")
    assert dir(package) == sorted(package.__all__)


def test_a_misspelled_name_is_told_the_right_one_once():
    """Also of names that are imported when they are asked for; Python's traceback adds no second guess."""
    for wrong, right in (("materailize", "materialize"), ("Parametr", "Parameter"), ("ParamTuple", "ParameterTuple")):
        with pytest.raises(AttributeError, match=f"has no attribute {wrong!r}; did you mean {right!r}\\?$") as caught:
            getattr(tritonparam, wrong)
        assert caught.value.name == wrong
    code = "import tritonparam; tritonparam.materailize"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.lower().count("did you mean") == 1


def test_the_docstring_of_the_package_says_what_it_has():
    """It is what `help(tritonparam)` begins with: an example, and every public name."""
    text = tritonparam.__doc__
    assert text.index("deferred_init") < text.index("materialize") < text.index(">>>")
    assert [name for name in tritonparam.__all__ if f"`{name}`" not in text] == ["__version__"]
    assert len(text.splitlines()) < 35


def test_dtype_and_initializer_are_modules():
    from tritonparam import dtype, initializer
    from tritonparam.initializer import initializer as function

    assert dtype.float32.name == "float32"
    assert initializer.initializer is function
    assert inspect.signature(tritonparam.initializer) == inspect.signature(function)
    called = tritonparam.initializer(0.5, [2], dtype.float16, name="w")
    assert (called.asnumpy().tolist(), called.dtype) == ([0.5, 0.5], dtype.float16)


def test_no_module_of_the_package_hides_a_public_name():
    """Importing a submodule puts it into its package under its own name, over what else has that name there."""
    code = """
import importlib, pkgutil, tritonparam
before = {name: getattr(tritonparam, name) for name in tritonparam.__all__}
for module in pkgutil.walk_packages(tritonparam.__path__, "tritonparam."):
    if ".kernels" not in module.name and not module.name.endswith(("__main__", "backends.triton", "_table")):
        importlib.import_module(module.name)
hidden = [name for name, value in before.items() if getattr(tritonparam, name) is not value]
print(len(before), hidden)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{len(tritonparam.__all__)} []\n"


def test_the_package_runs_as_a_program():
    """As `torchrun -m tritonparam` needs it."""
    for arguments, want in ((["--version"], f"tritonparam {tritonparam.__version__}\n"), (["--help"], "Usage: ")):
        done = subprocess.run(
            [sys.executable, "-m", "tritonparam", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert want in done.stdout
