"""A record that somebody changed: one line that says what is wrong, nothing written, and never an error that is raw."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("typer")

from safetensors.torch import load_file

from tritonparam.checkpoint import UsageError, parse_json_object
from tritonparam.cli.init.config import special_number
from tritonparam.cli.record import checkpoint_digest, parse_record

Run = Callable[..., tuple[int, str, str]]
MODELS = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        w = torch.randn(3, 2)
        self.w = nn.Parameter(w)
        self.turned = nn.Parameter(w.t().contiguous())
        self.flat = nn.Parameter(w.reshape(-1).clone())
        self.q, self.k = (nn.Parameter(part) for part in torch.randn(4, 2).chunk(2))
        self.e = nn.Embedding(6, 4, padding_idx=0)
        self.tied = self.e
        self.b = nn.Parameter(nn.init.trunc_normal_(torch.empty(3), std=0.02, a=-0.04, b=float("inf")))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
"""
MODULE = "models_to_record"
DROPPED = object()
VALUES: tuple[Any, ...] = (
    *(DROPPED, None, True, -1, 0, 7, 2**40, 2**64, 2**90, 1.5, -0.0, math.nan, math.inf, -math.inf),
    *("", "x", "nan", "../x", "/x", "\0", "é" * 5000, [], {}, [[]], [None], [1], ["x"], [-1], {"x": 1}, {"kind": []}),
    *([2**62] * 3, [0] * 70, {"__float__": "NaN"}, {"law": None}),
)


@pytest.fixture
def record(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A real record with boxes, an origin, a tie and a special number; the working directory is its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    (tmp_path / f"{MODULE}.py").write_text(MODELS)
    assert run("init", f"{MODULE}:Model", "--out", "m", "--seed", 3)[0] == 0
    values: dict[str, Any] = json.loads((tmp_path / "m" / "tritonparam.json").read_text())
    del sys.modules[MODULE]
    (tmp_path / f"{MODULE}.py").write_text("raise SystemExit('this was run')")
    assert {name for name, row in values["tensors"].items() if "origin" in row["initializer"][0]} >= {"turned", "k"}
    assert '"inf"' in json.dumps(values)
    assert values["tensors"]["e.weight"]["aliases"] == ["tied.weight"]
    values["files"] = {"config.json": "{}"}
    return values


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a JSON object."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*path, number))


def changed(values: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result = copy.copy(values)
    inner: Any = result
    for key in path[:-1]:  # the rest stays shared: a copy of all of it, thousands of times, takes longer than the test
        inner[key] = copy.copy(inner[key])
        inner = inner[key]
    if value is DROPPED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def in_one_line(code: int, out: str, err: str) -> None:
    assert code in (1, 2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert "--debug shows where" not in err


def mutants(record: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """Each value of a record in turn made each of VALUES."""
    for path in places(record):
        for value in VALUES:
            mutant = changed(record, path, value)
            if mutant != record:
                yield path, json.dumps(mutant).encode()


def refusal(text: bytes) -> str | None:
    """What reading the record says against it."""
    try:
        parse_record(parse_json_object(text, constant=special_number), Path("r.json"))
    except UsageError as error:
        return str(error)
    return None


def tensors(folder: Path) -> dict[str, Any]:
    return {name: value.tolist() for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def test_every_changed_value_is_named_and_nothing_is_written(run: Run, tmp_path: Path, record: dict[str, Any]) -> None:
    """What is no value of a record is refused before any work; what is one gives the same tensors, or none."""
    want = tensors(tmp_path / "m")
    before = sorted(path.name for path in tmp_path.iterdir())
    every = 1 if os.environ.get("TRITONPARAM_ALL") else 41
    tried = taken = 0
    for number, (path, text) in enumerate(mutants(record)):
        tried += 1
        message = refusal(text)
        assert message is None or (message.startswith("r.json") and len(message) < 900), path
        if message is not None and number % every:
            continue
        (tmp_path / "r.json").write_bytes(text)
        code, out, err = run("init", "r.json", "--out", "again")
        (tmp_path / "r.json").unlink()
        if code == 0:
            taken += 1
            assert tensors(tmp_path / "again") == want
            shutil.rmtree(tmp_path / "again")
        else:
            in_one_line(code, out, err)
        assert sorted(each.name for each in tmp_path.iterdir()) == before, path
    assert tried > 3000
    assert taken < 120


def test_a_whole_record_repeats_without_running_anything(run: Run, tmp_path: Path, record: dict[str, Any]) -> None:
    """The mutants fail for what was changed: the record as it was is taken, and its callable is not imported."""
    (tmp_path / "r.json").write_text(json.dumps(record))
    assert run("init", "r.json", "--out", "again")[0] == 0
    names = ("model.safetensors",)
    assert [(tmp_path / "again" / name).read_bytes() for name in names] == [
        (tmp_path / "m" / name).read_bytes() for name in names
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": [0, 0], "sizes": [6, 4]}, "must hold each element once"),
        ({"offsets": [1, 0], "sizes": [6, 4]}, "must lie in"),
        ({"offsets": [0], "sizes": [6, 4]}, "must have 2 ints, got 1"),
        ({"sizes": [1, 4]}, "must hold each element once"),
        ({"law": {"kind": "normal", "mean": 0.0, "std": -1.0}}, "std must be >= 0"),
        ({"law": {"kind": "cauchy"}}, "kind must be one of"),
        ({"law": {"kind": "constant", "value": 1e300}}, "must be a float32 number"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_boxes_cover_their_tensor_once(record: dict[str, Any], change: dict[str, Any], message: str) -> None:
    row = record["tensors"]["e.weight"]["initializer"][-1]
    row.update(change)
    with pytest.raises(Exception, match=message):
        parse_record(record, Path("r.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1}, "must be a view of its box"),
        ({"strides": [1, 1]}, "must be a view of its box"),
        ({"strides": [0, 4]}, "must be a view of its box"),
        ({"key": 2**64}, "the key of the origin"),
        ({"key": -1}, "the key of the origin"),
        ({"offsets": [2, 2]}, "must lie in"),
        ({"shape": [2**40, 2**40]}, r"at most 2\*\*63 - 1"),
        ({"sizes": [4]}, "must have 1 ints, got 2"),
    ],
)
def test_an_origin_is_a_view_of_its_own_box(record: dict[str, Any], change: dict[str, Any], message: str) -> None:
    record["tensors"]["turned"]["initializer"][0]["origin"].update(change)
    with pytest.raises(Exception, match=message):
        parse_record(record, Path("r.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2**64}, "the seed must be an int in"),
        ({"seed": True}, "the seed must be an int in"),
        ({"max_shard_size": 0}, "max_shard_size must be an int in"),
        ({"dtype": "int8"}, "the dtype must be one of"),
        ({"dtype": "bf16"}, "the dtype must be one of"),
        ({"files": {"../x": "{}"}}, "unknown key '../x'"),
        ({"files": {"/tmp/x": "{}"}}, "unknown key '/tmp/x'"),
        ({"files": {"model.safetensors": "{}"}}, "unknown key 'model.safetensors'"),
        ({"files": {"config.json": 5}}, "must be a string, got 5"),
        ({"files": {"config.json": "no"}}, "the file config.json is not JSON"),
        ({"spec": {"callable": "os.system"}}, "must be package.module:callable"),
        ({"spec": {"callable": "a:b", "config": {}}}, "got both"),
        ({"tensors": {}}, "at least one"),
        ({"digest": "0" * 64}, "not that of its tensors"),
        ({"digest": "0" * 63}, "64 hexadecimal digits"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"stream": True}, "stream must be 1"),
        ({"tritonparam_record": 1.0}, "tritonparam_record must be 1"),
    ],
)
def test_settings_are_checked(record: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        parse_record(record | change, Path("r.json"))
    assert type(caught.value).__name__ == "UsageError"
    assert str(caught.value).startswith("r.json")


def renamed(record: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The record with a tensor of another name and the digest that goes with it."""
    tensors = {new if name == old else name: row for name, row in record["tensors"].items()}
    parsed = parse_record(record, Path("r.json"))
    entries = {new if each.name == old else each.name: (each.dtype, each.shape) for each in parsed.entries}
    digests = {new if name == old else name: digest for name, digest in parsed.digests.items()}
    return record | {"tensors": tensors, "digest": checkpoint_digest(entries, digests)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a name that a file can have"),
        ("__metadata__", "a name that a file can have"),
        ("tied.weight", "two tensors"),
    ],
)
def test_names_are_those_of_tensors_in_a_file(record: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse_record(renamed(record, "b", name), Path("r.json"))
    assert parse_record(renamed(record, "b", "other"), Path("r.json")).entries
