"""`inspect` of what is far from ordinary: laws that float32 cannot follow, damaged exponents, odd names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")

from tests.cli.jobs import entry, job
from tritonparam import stream
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.writing import write_checkpoint
from tritonparam.cli.inspect.inspection import inspect_checkpoint

Run = Callable[..., tuple[int, str, str]]
LAWS = {
    "below its spacing": stream.Normal(mean=1.0, std=1e-38),
    "one step": stream.Uniform(low=1.0, high=1.0000001),
    "subnormal": stream.Normal(mean=0.0, std=1e-45),
    "subnormal, uniform": stream.Uniform(low=-1e-45, high=1e-45),
    "far": stream.Normal(mean=1e10, std=1e-6),
    "a thin slice": stream.TruncatedNormal(mean=0.0, std=1.0, low=0.0, high=1e-30),
    "narrow, and tested": stream.Normal(mean=1.0, std=1e-5),
}


def written(folder: Path, law: stream.Law, dtype: torch.dtype, name: str = "w") -> Path:
    entries = (entry(name, (3000,), law, dtype),)
    settings = {**job().settings, "spec": {"callable": "x:y"}}
    write_checkpoint(Job(entries, settings), folder, device=torch.device("cpu"))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_law_that_cannot_be_tested_raises_no_alarm(law: stream.Law, dtype: torch.dtype, tmp_path: Path) -> None:
    inspection = inspect_checkpoint(written(tmp_path / "made", law, dtype))
    assert [report.problems for report in inspection.reports] == [[]]


def test_a_damaged_exponent_is_a_disagreement(run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "made", stream.Normal(mean=0.0, std=1.0), torch.float64)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    for last in (1, 9):
        data[-last] ^= 0x40
    path.write_bytes(data)
    code, out, _ = run("inspect", folder)
    assert code == 1
    assert "1 disagree" in out


def test_names_with_marks_of_mathematics_are_drawn(run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "o_$x_{$", stream.Normal(mean=0.0, std=1.0), torch.float32, "a$\\foo{$b")
    assert run("inspect", folder, "--plot", tmp_path / "plot.png")[0] == 0
    assert (tmp_path / "plot.png").stat().st_size > 1000


NAMES = """
import torch
from torch import nn

def built(name, dtype=torch.float32):
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.zeros(3, dtype=dtype)))
    return module

def metadata(): return built("__metadata__")
def surrogate(): return built("a\\ud800")
def complex128(): return built("p", torch.complex128)
"""


@pytest.mark.parametrize("name", ["metadata", "surrogate", "complex128"])
def test_what_no_file_can_hold_is_refused_before_the_work(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was written, and nobody could read the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "names_to_refuse", raising=False)
    (tmp_path / "names_to_refuse.py").write_text(NAMES)
    code, _, err = run("init", f"names_to_refuse:{name}", "--out", "made")
    assert code == 1
    assert err.startswith(f"error: names_to_refuse:{name}: safetensors cannot hold")
    assert not list(tmp_path.glob("made*"))
