"""Which files `inspect` reads and writes: those that `load` reads, and a picture only when it is whole."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("typer")

from safetensors.torch import save_file

import tritonparam
from tests.cli.jobs import job, write
from tritonparam.checkpoint import INDEX_NAME, CheckpointError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of several files with an index."""
    write(job(max_shard_size=3000), tmp_path / "m")
    return tmp_path / "m"


def rewrite_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    change(index["weight_map"])
    (folder / INDEX_NAME).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/ABS/x.safetensors", "a/../../x.safetensors", "", ".", 5, None, []]
)
def test_an_index_names_files_beside_it_only(run: Run, tmp_path: Path, folder: Path, name: Any) -> None:
    """What `load` refuses, `inspect` refuses; even where the file is there and holds what it should."""
    name = name.replace("/ABS", str(tmp_path)) if isinstance(name, str) else name
    first = next(iter(json.loads((folder / INDEX_NAME).read_text())["weight_map"].values()))
    (tmp_path / "x.safetensors").write_bytes((folder / first).read_bytes())
    rewrite_index(folder, lambda files: files.update({key: name for key, file in files.items() if file == first}))
    code, out, err = run("inspect", folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {folder / INDEX_NAME} is not the index of a checkpoint")
    assert err.count("\n") == 1
    with pytest.raises(CheckpointError, match="is not the index of a checkpoint"):
        tritonparam.load({"cut.weight": torch.empty(50, 7)}, folder)


def test_an_index_that_is_none_is_named(run: Run, folder: Path) -> None:
    for text in ("{}", "[" * 100_000, '{"weight_map": 7}', '{"weight_map": {"a": 1, "a": 2}}', "\0"):
        (folder / INDEX_NAME).write_text(text)
        code, out, err = run("inspect", folder)
        assert (code, out) == (2, "")
        assert str(folder / INDEX_NAME) in err
        assert err.count("\n") == 1


def test_files_that_contradict_each_other_are_named(run: Run, folder: Path) -> None:
    """A tensor that a file has and the index gives to another; a tensor in two files."""
    rewrite_index(folder, lambda files: files.update({"cut.weight": files["wide.weight"]}))
    code, _, err = run("inspect", folder)
    assert code == 1
    assert "holds 'cut.weight', and the index does not say so" in err
    (folder / INDEX_NAME).unlink()
    save_file({"cut.weight": torch.ones(2)}, folder / "other.safetensors")
    code, _, err = run("inspect", folder)
    assert code == 1
    assert "'cut.weight', and so does another file" in err


def test_a_pipe_among_the_files_is_not_waited_for(run: Run, folder: Path) -> None:
    first = sorted(folder.glob("model-*"))[0]
    first.unlink()
    os.mkfifo(first)
    code, out, err = run("inspect", folder)
    assert (code, out) == (1, "")
    assert first.name in err


@pytest.mark.parametrize(
    ("code", "count", "verdict"),
    [("F4", 132, "expected float16 [33]"), ("F6_E2M3", 88, "cannot be read: F6_E2M3")],
)
def test_what_has_no_numbers_in_torch_is_said_of_its_tensor(
    run: Run, tmp_path: Path, code: str, count: int, verdict: str
) -> None:
    """Packed, or of no dtype of torch's: the other tensors are looked at as ever."""
    write(job(), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["half.weight"].update(dtype=code, shape=[count])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    status, out, err = run("inspect", tmp_path / "m", "--json")
    assert (status, err) == (1, "")
    rows = {row["name"]: row["verdict"] for row in json.loads(out)["tensors"]}
    assert rows.pop("half.weight").startswith(verdict)
    assert set(rows.values()) == {"ok"}


@pytest.mark.parametrize(
    "dtype", [torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.complex64, torch.bool, torch.uint64]
)
def test_every_dtype_of_a_file_is_told_and_is_no_raw_error(run: Run, tmp_path: Path, dtype: torch.dtype) -> None:
    write(job(), tmp_path / "m")
    save_file({"wide.weight": torch.ones(40, 30).to(dtype)}, tmp_path / "m" / "model.safetensors")
    code, out, err = run("inspect", tmp_path / "m", "--json")
    assert (code, err) == (1, "")
    rows = {row["name"]: row["verdict"] for row in json.loads(out)["tensors"]}
    assert "expected float32 [40, 30]" in rows["wide.weight"]


def picture(run: Run, folder: Path, path: Path) -> tuple[int, str, str]:
    pytest.importorskip("matplotlib")
    return run("inspect", folder, "--plot", path)


def test_a_picture_on_a_full_disk_leaves_what_was_there(
    run: Run, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing, or the earlier picture; and no file of another name."""
    before = sorted(path.name for path in tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for earlier in (None, b"an earlier one"):
        if earlier is not None:
            (tmp_path / "p.png").write_bytes(earlier)
            before = sorted([*before, "p.png"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            code, out, err = picture(run, folder, tmp_path / "p.png")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert code == 1
        assert "all ok" in out
        assert err == f"error: {tmp_path / 'p.png'}: File too large\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert earlier is None or (tmp_path / "p.png").read_bytes() == earlier

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = picture(run, folder, tmp_path / "q.png")
    assert (code, err) == (1, f"error: {tmp_path / 'q.png'}: No space left on device\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_picture_replaces_an_earlier_one(run: Run, tmp_path: Path, folder: Path) -> None:
    for ending in ("png", "svg", "PDF"):
        (tmp_path / f"p.{ending}").write_bytes(b"an earlier one")
        assert picture(run, folder, tmp_path / f"p.{ending}")[0] == 0
        assert (tmp_path / f"p.{ending}").stat().st_size > 1000
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "p.PDF").read_bytes()[:4] == b"%PDF"
