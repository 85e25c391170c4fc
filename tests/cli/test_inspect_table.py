"""What `tritonparam inspect` prints: a line for each tensor, on terminals of any width."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("typer")

from safetensors.torch import load_file, save_file

from tests.cli.test_inspect import LAWS, checkpoint, entry

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs tests side by side says how wide its own output is."""
    monkeypatch.delenv("COLUMNS", raising=False)


def test_the_table_has_a_line_for_every_tensor(run: Run, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (30, 20), LAWS[0]), entry("b", (600,), LAWS[0]))
    code, out, err = run("inspect", folder)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "dtype", "mean", "std", "min", "max", "expected", "verdict"]
    assert [line.split()[0] for line in lines[1:3]] == ["a", "b"]
    assert lines[-2] == "2 tensors against tritonparam.json: all ok"
    assert re.fullmatch("fingerprint [0-9a-f]{32}", lines[-1])


def test_on_a_terminal_each_tensor_has_one_line_of_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names lose their middle, and columns go, until a row fits; what disagrees is said below, whole."""
    long = "a.tensor.with.a.rather.long.name.such.as.models.have.weight"
    folder = checkpoint(tmp_path / "m", entry(long, (300, 200), LAWS[4]), entry("b", (300, 200), LAWS[0]))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {long: tensors[long] * 1.1}, folder / "model.safetensors")
    plain = run("inspect", folder)[1]
    assert re.search(rf"^{long} +\[300, 200\] +float32 .*other bytes than the record says$", plain, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("inspect", folder)
    assert (code, err) == (1, "")
    title, first, second, below, *_ = out.splitlines()
    assert title.split()[::9] == ["tensor"]
    assert title.split()[-1] == "verdict"
    assert max(map(len, (title, first, second))) <= 80
    assert re.fullmatch(r"a\.tensor\S*…\S*\.weight +\S.* wrong", first)
    assert re.fullmatch(r"b +\S.* ok", second)
    assert below.startswith(f"{long}: std ")
    assert below.endswith("other bytes than the record says")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = run("inspect", folder)[1]
    assert "\x1b[31mwrong" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == out
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("COLUMNS", "30")
    assert all(len(line) <= 30 for line in run("inspect", folder)[1].splitlines()[1:3])


def test_only_what_disagrees_is_listed_if_asked_for_and_nothing_if_quiet(run: Run, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (300, 200), LAWS[0]), entry("b", (300, 200), LAWS[0]))
    assert run("inspect", folder, "--quiet") == (0, "", "")
    code, out, _ = run("inspect", folder, "--only-failures")
    assert (code, out.splitlines()[0]) == (0, "2 tensors against tritonparam.json: all ok")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"b": tensors["b"] * 1.1}, folder / "model.safetensors")
    assert run("inspect", folder, "-q") == (1, "", "")
    code, out, _ = run("inspect", folder, "--only-failures")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["tensor", "b"]
    assert "2 tensors against tritonparam.json: 1 disagrees" in out
    code, out, _ = run("inspect", folder, "--only-failures", "--json")
    assert [row["name"] for row in json.loads(out)["tensors"]] == ["b"]


def test_shortened_names_tell_layers_apart(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column goes before the number of a layer does."""
    names = [f"transformer.h.{layer}.{part}.c_proj.weight" for layer in (1, 11) for part in ("attn", "mlp")]
    folder = checkpoint(tmp_path / "m", *(entry(name, (300,), LAWS[0]) for name in names))
    for columns in (50, 60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = run("inspect", folder)[1].splitlines()[1:5]
        assert max(map(len, lines)) <= columns
        assert len({line.split()[0] for line in lines}) == 4
