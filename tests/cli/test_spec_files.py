"""What SPEC is taken for: a config is a config, a record what the user gave as one, and neither runs code by itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("transformers")

from tests.cli.jobs import job, started, write

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = EXAMPLES / "tiny-llama.json"
Run = Callable[..., tuple[int, str, str]]
MODELS = """
import torch
from torch import nn

def plain():
    return nn.Linear(3, 2)

def replayed():
    model = nn.Linear(3, 2)
    nn.init.orthogonal_(model.weight)
    return model
"""
TRAP = "open('trap', 'w').close()\nraise SystemExit('this was run')\n"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory."""
    name = "models_of_specs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / f"{name}.py").write_text(MODELS)
    return name


def trap(name: str) -> None:
    """Whoever imports the module from now on is noticed."""
    sys.modules.pop(name, None)
    Path(f"{name}.py").write_text(TRAP)


def record_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "tritonparam.json").read_text())
    return values


def test_a_config_is_never_a_record(run: Run, tmp_path: Path, models: str) -> None:
    """Not by its key: not alone, not beside the keys of a config, not by its full path."""
    assert run("init", f"{models}:plain", "--out", "m")[0] == 0
    record = record_of(tmp_path / "m")
    trap(models)
    (tmp_path / "c").mkdir()
    for values in (record, record | json.loads(TINY.read_text()), {"tritonparam_record": None}):
        (tmp_path / "c" / "config.json").write_text(json.dumps(values))
        for spec in ("c", "c/config.json", tmp_path / "c" / ".." / "c" / "config.json"):
            code, out, err = run("init", spec, "--out", "o")
            assert (code, out) == (2, "")
            assert "config.json holds a record, where a model's config is expected" in err
    assert not Path("trap").exists()
    assert not Path("o").exists()


def test_inspect_takes_a_config_for_no_record_either(run: Run, tmp_path: Path) -> None:
    write(job(), tmp_path / "m")
    (tmp_path / "m" / "tritonparam.json").rename(tmp_path / "m" / "config.json")
    code, _, err = run("inspect", tmp_path / "m")
    assert code == 2
    assert "config.json holds a record" in err


def test_a_record_is_what_is_named_as_one(run: Run, tmp_path: Path, models: str) -> None:
    """A file of any other name, or a folder that has it and no config."""
    assert run("init", f"{models}:plain", "--out", "m")[0] == 0
    trap(models)
    (tmp_path / "any name.json").write_text((tmp_path / "m" / "tritonparam.json").read_text())
    for number, spec in enumerate(("m", "m/tritonparam.json", "any name.json")):
        assert run("init", spec, "--out", f"again{number}")[0] == 0
        assert (tmp_path / f"again{number}" / "model.safetensors").read_bytes() == (
            tmp_path / "m" / "model.safetensors"
        ).read_bytes()
    assert not Path("trap").exists()
    (tmp_path / "m" / "config.json").write_text(TINY.read_text())
    assert run("init", "m", "--out", "llama")[0] == 0
    assert record_of(tmp_path / "llama")["spec"] == {"config": json.loads(TINY.read_text())}
    (tmp_path / "tritonparam.json").write_text(TINY.read_text())
    code, _, err = run("init", "tritonparam.json", "--out", "o")
    assert code == 2
    assert "tritonparam_record must be 1 for this version of tritonparam, got None" in err


@pytest.mark.parametrize("name", ["../x", "/abs/x", "model.safetensors", "tritonparam.json", "", "a/config.json"])
def test_a_record_names_no_file_but_configs(run: Run, tmp_path: Path, name: str, models: str) -> None:
    assert run("init", f"{models}:plain", "--out", "m")[0] == 0
    name = name.replace("/abs", str(tmp_path / "abs"))
    (tmp_path / "r.json").write_text(json.dumps(record_of(tmp_path / "m") | {"files": {name: "{}"}}))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("init", "r.json", "--out", "o")
    assert (code, out) == (2, "")
    assert f"files has the unknown key {name[:10]!r}"[:-1] in err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_config_in_a_record_is_checked_as_a_config(run: Run, tmp_path: Path) -> None:
    assert run("init", TINY, "--out", tmp_path / "m")[0] == 0
    record = record_of(tmp_path / "m")
    config = json.loads(record["files"]["config.json"]) | {"_attn_implementation": "org/repo"}
    record["files"]["config.json"] = json.dumps(config)
    (tmp_path / "r.json").write_text(json.dumps(record))
    code, _, err = run("init", tmp_path / "r.json", "--out", tmp_path / "o")
    assert code == 2
    assert "_attn_implementation must name an implementation that transformers has itself" in err


def test_a_callable_of_a_record_runs_only_when_it_is_named_again(run: Run, tmp_path: Path, models: str) -> None:
    assert run("init", f"{models}:replayed", "--out", "m")[0] == 0
    code, out, err = run("init", "m/tritonparam.json", "--out", "o", "--callable", f"{models}:plain")
    assert (code, out) == (2, "")
    assert f"was made from '{models}:replayed', got --callable '{models}:plain'" in err
    assert run("init", "m/tritonparam.json", "--out", "o", "--callable", f"{models}:replayed")[0] == 0
    assert (tmp_path / "o" / "model.safetensors").read_bytes() == (tmp_path / "m" / "model.safetensors").read_bytes()
    trap(models)
    code, out, err = run("init", "m/tritonparam.json", "--out", "p")
    assert (code, out) == (2, "")
    assert err.endswith(f"if you trust that code, add --callable {models}:replayed\n")
    assert not Path("trap").exists()
    assert not Path("p").exists()


def test_a_callable_is_refused_where_it_has_no_part(run: Run, tmp_path: Path, models: str) -> None:
    for spec in (TINY, f"{models}:plain"):
        code, _, err = run("init", spec, "--out", "o", "--callable", f"{models}:plain")
        assert code == 2
        assert "--callable is for a record that was made from a callable" in err
    assert run("init", TINY, "--out", "llama")[0] == 0
    code, _, err = run("init", "llama/tritonparam.json", "--out", "o", "--callable", f"{models}:plain")
    assert code == 2
    assert "was made from a config, got --callable" in err


def test_what_a_callable_makes_now_must_be_what_the_record_has(run: Run, tmp_path: Path, models: str) -> None:
    """Before anything is written."""
    assert run("init", f"{models}:replayed", "--out", "m")[0] == 0
    del sys.modules[models]
    (tmp_path / f"{models}.py").write_text(MODELS.replace("nn.Linear(3, 2)", "nn.Linear(1, 2)"))
    code, out, err = run("init", "m", "--out", "o", "--callable", f"{models}:replayed")
    assert (code, out) == (1, "")
    assert "no longer makes these tensors as the record says: weight" in err
    assert not list(tmp_path.glob("o*"))


def test_the_working_directory_is_searched_only_for_a_named_callable(tmp_path: Path) -> None:
    """A file there that is called like a package stands in for none, even with `python -m`."""
    for name in ("transformers", "safetensors", "timm", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "config.json").write_text(TINY.read_text())
    (tmp_path / "own.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for spec in (".", "o/tritonparam.json", "own:build"):
        out = f"o{spec.count('/') * 'b'}{'c' * (':' in spec)}"
        code, _, err = started("-m", "tritonparam", "init", spec, "--out", out, cwd=tmp_path, env=environment)
        assert (code, err) == (0, "")
    assert not (tmp_path / "trap").exists()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def make_deep_record(path: Path) -> None:
    path.write_text('{"tritonparam_record": ' + "[" * 100_000)


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_twice(path: Path) -> None:
    path.write_text('{"model_type": "llama", "model_type": "gpt2"}')


def make_marked(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + TINY.read_bytes())


def make_latin(path: Path) -> None:
    path.write_bytes('{"model_type": "é"}'.encode("latin-1"))


def make_folder(path: Path) -> None:
    path.mkdir()


MAKERS = (
    *(make_pipe, make_link_to_device, make_deep, make_deep_record, make_huge, make_twice, make_marked, make_latin),
    make_folder,
)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("make_"))
@pytest.mark.parametrize("name", ["config.json", "tritonparam.json", "other.json"])
def test_a_file_that_cannot_be_read_is_a_usage_error(run: Run, tmp_path: Path, make: Any, name: str) -> None:
    """As SPEC, in a folder that is SPEC, and in a folder to inspect; at once, and not when a pipe is written to."""
    write(job(), tmp_path / "m")
    (tmp_path / "m" / "tritonparam.json").unlink()
    make(tmp_path / "m" / name)
    specs = [["init", tmp_path / "m" / name, "--out", tmp_path / "o"]]
    if name != "other.json":
        specs += [["init", tmp_path / "m", "--out", tmp_path / "o"], ["inspect", tmp_path / "m"]]
    for arguments in specs:
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert name in err
        assert len(err) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


@pytest.mark.parametrize("spec", ["x" * 300, "x" * 5000 + "/y", "loop", "shut/config.json", "\x1b[31mred", ""])
def test_a_path_that_is_none_is_a_usage_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code, out, err = run("init", spec, "--out", "o")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert err.rstrip("\n").isprintable()
