"""The command line itself: its help, its version, how quickly it answers, and the examples that its help names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., tuple[int, str, str]]


def test_help_and_version(run: Run) -> None:
    from tritonparam import __version__

    assert run("--version") == (0, f"tritonparam {__version__}\n", "")
    assert "inspect" in run("--help")[1]
    assert "tritonparam init examples/gpt2.json --out gpt2-seed0" in run("init", "--help")[1]
    assert "tritonparam inspect gpt2-seed0 --plot gpt2.png" in run("inspect", "--help")[1]


def test_help_loads_nothing_heavy() -> None:
    """The command line itself loads neither the checkpoint code nor transformers, safetensors, matplotlib or triton."""
    code = """
import sys
sys.argv = ["tritonparam", "--help"]
from tritonparam import cli
try:
    cli.main()
except SystemExit:
    heavy = ("tritonparam.checkpoint", "transformers", "safetensors", "matplotlib", "triton")
    sys.stderr.write(" ".join(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "Usage" in done.stdout


def test_the_examples_are_the_models_they_are_named_after() -> None:
    """Parameter counts as published: 124M for GPT-2, 1.24B for Llama 3.2 1B."""
    from tritonparam.cli.init.job import prepare

    counts = {"gpt2": 124_439_808, "llama-3.2-1b": 1_235_814_400, "tiny-llama": 311_872}
    assert {name: prepare(str(EXAMPLES / f"{name}.json")).parameters for name in counts} == counts
