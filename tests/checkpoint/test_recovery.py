"""What a run that was killed at its end has left goes with the next one, of whichever kind, and nobody has to help."""

import json
import os
import shutil

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.checkpoint.halves import halves
from tests.checkpoint.test_replacing import tree
from tests.cli.jobs import job, write
from tritonparam import save
from tritonparam.checkpoint import outgoing
from tritonparam.checkpoint.assembly import Assembly
from tritonparam.checkpoint.errors import UsageError

OLD, NEW = {"w": torch.ones(3)}, {"w": torch.zeros(3)}
RUNS = [{"save": 1, "metadata": {}}, {"save": 2, "metadata": {"step": "1"}}, {"seed": 0, "files": {}}]


def by_save(out, overwrite=False):
    save(NEW, out, overwrite=overwrite)


def by_init(out, overwrite=False):
    write(job(), out, overwrite=overwrite)


both = pytest.mark.parametrize("act", [by_save, by_init])


def leave(tmp_path, run=None, *files):
    partial = tmp_path / "out.partial"
    if run is not None:
        (partial / "state").mkdir(parents=True)
        (partial / "state" / "run.json").write_text(json.dumps(run))
        (partial / "state" / "begun-00000").touch()
    for file in files:
        (partial / file).parent.mkdir(parents=True, exist_ok=True)
        (partial / file).write_bytes(b"old")
    return partial


@both
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("aside", ["replaced", "discarded"])
def test_half_of_what_was_replaced_is_removed(act, there, aside, tmp_path):
    """Killed while it removed that, on a file system that lists `state` first."""
    if there:
        save(OLD, tmp_path / "out")
    leave(tmp_path, None, f"{aside}/config.json", f"{aside}/deep/notes.txt")
    act(tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]
    assert not load_file(tmp_path / "out" / "model.safetensors").get("w", torch.zeros(1)).any()


@both
def test_half_of_what_was_replaced_is_named_where_nothing_may_be_replaced(act, tmp_path):
    leave(tmp_path, None, "replaced/config.json")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"replaced seems to be a part .*overwrite"):
        act(tmp_path / "out")
    assert tree(tmp_path) == before


@both
def test_a_whole_checkpoint_that_was_put_aside_comes_back(act, tmp_path):
    save(OLD, tmp_path / "old")
    leave(tmp_path)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "old").rename(tmp_path / "out.partial" / "replaced")
    with pytest.raises(UsageError, match="exists; use"):
        act(tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].all()
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("run", RUNS)
def test_what_is_left_after_the_last_rename_goes_with_the_next_run(act, run, tmp_path):
    leave(tmp_path, run)
    act(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("run", RUNS)
def test_what_is_left_after_the_last_rename_goes_with_a_run_that_is_refused(act, run, tmp_path):
    save(OLD, tmp_path / "out")
    before = tree(tmp_path)
    leave(tmp_path, run, "replaced/model.safetensors")
    with pytest.raises(UsageError, match="exists; use"):
        act(tmp_path / "out")
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == ["out"]


@both
def test_a_run_that_is_not_done_stays_where_another_is_refused(act, tmp_path):
    save(OLD, tmp_path / "out")
    leave(tmp_path, RUNS[2], "weights/model-00001-of-00002.safetensors")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="exists; use"):
        act(tmp_path / "out")
    assert tree(tmp_path) == before


def test_a_save_that_was_killed_is_discarded_by_init(tmp_path):
    leave(tmp_path, RUNS[0], "weights/model.safetensors.tmp")
    by_init(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("run", "act"), [(RUNS[2], by_save), (RUNS[1], by_init)])
def test_a_run_that_others_may_go_on_with_is_discarded_only_if_asked(run, act, tmp_path):
    leave(tmp_path, run, "weights/model-00001-of-00002.safetensors")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="unfinished run"):
        act(tmp_path / "out")
    assert tree(tmp_path) == before
    act(tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


def test_a_living_save_is_not_discarded_by_init(tmp_path, monkeypatch):
    """Not even between two moments at which it has the folder's lock."""
    parts, caught = outgoing.ByteStream.parts, []

    def meanwhile(self, tensors):
        with pytest.raises(UsageError, match="another process is writing") as error:
            by_init(tmp_path / "out", overwrite=True)
        caught.append(error)
        yield from parts(self, tensors)

    monkeypatch.setattr(outgoing.ByteStream, "parts", meanwhile)
    save(NEW, tmp_path / "out")
    assert len(caught) == 1
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_a_save_that_others_discarded_does_not_publish_what_they_wrote(tmp_path, monkeypatch):
    """As where the system has no locks."""
    parts = outgoing.ByteStream.parts
    monkeypatch.setattr("tritonparam.checkpoint.disk.writing._is_locked", lambda _: None)

    def meanwhile(self, tensors):
        monkeypatch.setattr(outgoing.ByteStream, "parts", parts)
        save(OLD, tmp_path / "out", metadata={"step": "2"})
        yield from parts(self, tensors)

    monkeypatch.setattr(outgoing.ByteStream, "parts", meanwhile)
    with pytest.raises(Exception, match=r"out|another process"):
        save(NEW, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].all()


def test_a_process_with_nothing_to_write_is_not_forgotten(tmp_path):
    save({"w": torch.ones(4)}, tmp_path / "out", rank=1, world_size=2)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists"):
        by_save(tmp_path / "out")
    (tmp_path / "out").rmdir()
    assert save({"w": torch.ones(4)}, tmp_path / "out", rank=0, world_size=2).complete


def test_an_interrupted_save_of_one_process_leaves_nothing_and_one_of_several_what_the_others_need(
    tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    parts = outgoing.ByteStream.parts
    first, second = halves(torch.randn(4, 3))
    save([second], tmp_path / "team", rank=1, world_size=2)
    monkeypatch.setattr(outgoing.ByteStream, "parts", interrupt)
    for name in ("out", "out.safetensors"):
        with pytest.raises(KeyboardInterrupt):
            save(NEW, tmp_path / name)
    assert os.listdir(tmp_path) == ["team.partial"]
    with pytest.raises(KeyboardInterrupt):
        save([first], tmp_path / "team", rank=0, world_size=2)
    assert os.listdir(tmp_path) == ["team.partial"]
    monkeypatch.setattr(outgoing.ByteStream, "parts", parts)
    assert not save([first], tmp_path / "team", rank=0, world_size=2).complete
    assert save([second], tmp_path / "team", rank=1, world_size=2).complete


def test_a_child_forked_during_a_save_does_not_keep_others_from_the_folder(tmp_path):
    """It has the descriptors too, as the workers of a data loader do."""
    work = Assembly(tmp_path / "out", False, 1, 2)
    work.begin({})
    work.take()
    copies = [os.dup(each) for each in (*work._root_locks, *work._alive)]
    work.let_go()
    work.release()
    try:
        assert save(NEW, tmp_path / "out").complete
    finally:
        for each in copies:
            os.close(each)


@pytest.mark.parametrize("weights", [True, False])
def test_a_save_of_several_that_was_being_removed_is_begun_anew(weights, tmp_path):
    """One was killed there; a process took part in what was left, and then missed the files of the others."""
    parts = halves(torch.arange(12.0).view(4, 3))
    save([parts[0]], tmp_path / "out", rank=0, world_size=2)
    partial = tmp_path / "out.partial"
    (partial / "state" / "begun-00000").unlink()
    if not weights:
        shutil.rmtree(partial / "weights")
    assert not save([parts[1]], tmp_path / "out", rank=1, world_size=2).complete
    assert save([parts[0]], tmp_path / "out", rank=0, world_size=2).complete
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors",
    ]
    assert not partial.exists()
