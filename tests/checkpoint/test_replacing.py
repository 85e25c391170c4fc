"""What is there is replaced only when asked, only by a whole, and only where it is a checkpoint."""

import json
import os

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tritonparam import save
from tritonparam.checkpoint import outgoing
from tritonparam.checkpoint.errors import UsageError


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_is_replaced_only_when_asked_and_only_by_a_whole(tmp_path, monkeypatch):
    out = tmp_path / "out"
    save({"w": torch.ones(3)}, out)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"exists; use overwrite=True to replace it"):
        save({"w": torch.zeros(3)}, out)
    assert tree(tmp_path) == before

    def full(*_, **__):
        raise OSError(28, "No space left on device", "there")

    with monkeypatch.context() as patched:
        patched.setattr("tritonparam.checkpoint.saving.write_file", full)
        with pytest.raises(OSError, match="No space"):
            save({"w": torch.zeros(3)}, out, overwrite=True)
    assert {name: data for name, data in tree(tmp_path).items() if name.startswith("out/")} == before
    save({"w": torch.zeros(3)}, out, overwrite=True)
    assert not load_file(out / "model.safetensors")["w"].any()
    assert os.listdir(tmp_path) == ["out"]


def test_single_file_is_replaced_only_when_asked_and_only_by_a_whole(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "w.safetensors"
    save({"w": torch.ones(3)}, out)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="overwrite=True"):
        save({"w": torch.zeros(3)}, out)

    def full(*_):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(outgoing.ByteStream, "parts", full)
        with pytest.raises(OSError, match="No space"):
            save({"w": torch.zeros(3)}, out, overwrite=True)
    assert tree(tmp_path) == before
    save({"w": torch.zeros(3)}, out, overwrite=True)
    assert not load_file(out)["w"].any()
    assert os.listdir(out.parent) == ["w.safetensors"]
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save({"w": torch.zeros(3)}, tmp_path / "folder.safetensors", overwrite=True)


def test_only_checkpoints_are_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="not a checkpoint"):
        save({"w": torch.zeros(3)}, tmp_path / "home", overwrite=True)
    with pytest.raises(UsageError, match="in the way"):
        save({"w": torch.zeros(3)}, tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


def test_leftovers_of_a_save_are_discarded_and_those_of_init_are_not(tmp_path):
    for name, run, kept in (("mine", {"save": 1}, False), ("foreign", {"spec": "x:y"}, True)):
        out, partial = tmp_path / name, tmp_path / f"{name}.partial"
        state = partial / "state"
        state.mkdir(parents=True)
        (partial / "weights").mkdir()
        (partial / "weights" / "model-00009-of-00009.safetensors").write_bytes(b"old")
        (state / "run.json").write_text(json.dumps(run))
        if kept:
            with pytest.raises(UsageError, match="unfinished run"):
                save({"w": torch.zeros(3)}, out)
            assert (partial / "weights" / "model-00009-of-00009.safetensors").exists()
        save({"w": torch.zeros(3)}, out, overwrite=kept)
        assert os.listdir(out) == ["model.safetensors"]
        assert not partial.exists()


def test_a_save_cut_between_two_renames_loses_nothing(tmp_path):
    """The old checkpoint had been put aside: it comes back, and is not replaced unless asked."""
    out = tmp_path / "out"
    save({"w": torch.ones(3)}, out)
    (tmp_path / "out.partial" / "state").mkdir(parents=True)
    (tmp_path / "out.partial" / "state" / "run.json").write_text('{"save": 1}')
    out.rename(tmp_path / "out.partial" / "replaced")
    with pytest.raises(UsageError, match="overwrite=True"):
        save({"w": torch.zeros(3)}, out)
    assert load_file(out / "model.safetensors")["w"].all()


def test_a_file_where_the_work_is_done_is_in_the_way(tmp_path):
    (tmp_path / "out.partial").write_text("mine")
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        save({"w": torch.ones(2)}, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.partial").read_text() == "mine"
