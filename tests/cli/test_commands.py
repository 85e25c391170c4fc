"""The command line itself: its help, its version, how quickly it answers, and the examples that its help names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
    assert "tritonparam plan examples/llama-3.1-405b.json --mesh dp_shard=128,tp=8" in run("plan", "--help")[1]
    assert "tritonparam warmup --arch 80 90 100" in run("warmup", "--help")[1]


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
    """Parameter counts as published: 124M for GPT-2, 1.24B for Llama 3.2 1B, 405B."""
    from tritonparam.cli.init.job import prepare

    counts = {"gpt2": 124_439_808, "llama-3.2-1b": 1_235_814_400, "tiny-llama": 311_872}
    counts["llama-3.1-405b"] = 405_853_388_800
    assert {name: prepare(str(EXAMPLES / f"{name}.json")).parameters for name in counts} == counts


def test_a_model_larger_than_the_disk_is_refused_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = json.loads((EXAMPLES / "tiny-llama.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(config | {"vocab_size": 10**12}))
    code, out, err = run("init", tmp_path / "c.json", "--out", tmp_path / "m", "--device", "cpu")
    assert (code, out) == (1, "")
    wanted = r"error: \S+ needs 128\.0 TB more, and its disk has .* free: choose another disk, or a narrower --dtype\n"
    assert re.fullmatch(wanted, err)
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_a_tensor_larger_than_memory_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no type of its own for the memory of a host."""
    (tmp_path / "too_large.py").write_text(
        "import torch\n\n\ndef build():\n    layer = torch.nn.Linear(2**21, 2**21, bias=False)\n"
        "    torch.nn.init.orthogonal_(layer.weight)\n    return layer\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**60))
    code, out, err = run("init", "too_large:build", "--out", tmp_path / "m", "--device", "cpu")
    assert (code, out) == (1, "")
    assert err == "error: out of memory; tensors that have to be replayed are held whole, one after the other\n"
    assert not (tmp_path / "m").exists()


def test_a_message_is_one_short_line_of_text(run: Run, tmp_path: Path) -> None:
    """Whatever names it has from files: no escape sequence for the terminal, nothing without end."""
    code, _, err = run("init", "\x1b[2J\u202e" + "x" * 5000, "--out", tmp_path / "m")
    assert code == 2
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert err.rstrip("\n").isprintable()


def test_warmup_says_what_is_ready(run: Run) -> None:
    pytest.importorskip("numba")
    code, out, err = run("warmup")
    assert (code, err) == (0, "")
    assert out.startswith("12 loops for this host ready, ")
    code, out, err = run("warmup", "90")
    assert (code, out) == (2, "")
    assert err == "error: warmup takes compute capabilities after --arch only, got 90 without it\n"
    code, out, err = run("warmup", "--arch", "9", "90")
    assert code == 2
    assert "--arch must be a compute capability such as 80, 90 or 100, got 9" in err
    assert out == ""
