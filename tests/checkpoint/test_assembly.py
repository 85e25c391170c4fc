"""Processes that save together without talking: the folder has its name once the last is done; leftovers do no harm."""

import os
import shutil
import threading

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.checkpoint.bits import same
from tests.checkpoint.halves import halves
from tritonparam import load, save
from tritonparam.checkpoint import assembly, outgoing
from tritonparam.checkpoint.errors import CheckpointError, UsageError


def test_folder_has_no_name_until_the_last_process_is_done(tmp_path):
    first, second = halves(torch.randn(4, 3))
    report = save([second], tmp_path / "out", rank=1, world_size=2)
    assert (report.complete, os.listdir(tmp_path)) == (False, ["out.partial"])
    assert str(report).endswith("; other processes have not written theirs")
    with pytest.raises(CheckpointError, match="out does not exist"):
        load({"w": torch.zeros(4, 3)}, tmp_path / "out")
    assert save([first], tmp_path / "out", rank=0, world_size=2).complete
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(UsageError, match="overwrite=True"):
        save([first], tmp_path / "out", rank=0, world_size=2)


def test_old_checkpoint_is_there_until_the_last_process_is_done(tmp_path):
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    for values in (old, new):
        for rank, half in enumerate(halves(values)):
            save([half], tmp_path / "out", rank=rank, world_size=2, overwrite=True)
            into = {"w": torch.zeros(4, 3)}
            if values is new:
                load(into, tmp_path / "out")
                assert same(into["w"], old if rank == 0 else new)
    assert os.listdir(tmp_path) == ["out"]


def test_a_process_that_begins_again_begins_all_again(tmp_path):
    """What is left of a save that was cut short is not mixed with the next one's."""
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2)
    for rank in (1, 0):
        save([halves(new)[rank]], tmp_path / "out", rank=rank, world_size=2)
    into = {"w": torch.zeros(4, 3)}
    load(into, tmp_path / "out")
    assert same(into["w"], new)
    shutil.rmtree(tmp_path / "out")
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2)
    (tmp_path / "out.partial" / "state" / "begun-00000").touch()  # rank 0 was cut short
    assert not save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2).complete
    assert save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2).complete
    load(into, tmp_path / "out")
    assert same(into["w"], new)
    shutil.rmtree(tmp_path / "out")
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2, metadata={"step": "1"})
    save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2, metadata={"step": "2"})
    assert os.listdir(tmp_path) == ["out.partial"]
    assert save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2, metadata={"step": "2"}).complete
    load(into, tmp_path / "out")
    assert same(into["w"], new)


def test_what_a_process_that_died_has_left_is_discarded_by_any(tmp_path, monkeypatch):
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    with monkeypatch.context() as patch:
        patch.setattr("tritonparam.checkpoint.saving.write_file", cut_short)
        with pytest.raises(KeyboardInterrupt):
            save([halves(old)[0]], tmp_path / "out", rank=0, world_size=2)
    assert (tmp_path / "out.partial" / "state" / "begun-00000").exists()
    assert not save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2).complete
    assert save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2).complete
    into = {"w": torch.zeros(4, 3)}
    load(into, tmp_path / "out")
    assert same(into["w"], new)


def cut_short(*_):
    raise KeyboardInterrupt


def test_two_that_save_at_once(tmp_path, monkeypatch):
    """The second is told that the first is at work; what the first wrote is whole."""
    caught = []
    monkeypatch.setattr(assembly, "_PATIENCE", 5.0)
    inside, done = threading.Event(), threading.Event()

    class Slow(outgoing.ByteStream):
        def parts(self, tensors):
            inside.set()
            done.wait(20)
            yield from super().parts(tensors)

    monkeypatch.setattr("tritonparam.checkpoint.saving.ByteStream", Slow)
    first = threading.Thread(target=save, args=({"w": torch.ones(3)}, tmp_path / "out"))
    first.start()
    inside.wait(20)
    try:
        save({"w": torch.zeros(3)}, tmp_path / "out")
    except CheckpointError as error:
        caught.append(str(error))
    done.set()
    first.join()
    assert "another process is writing" in caught[0]
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].all()
    assert os.listdir(tmp_path) == ["out"]


def test_a_save_that_is_being_published_is_waited_for(tmp_path):
    root = tmp_path / "out.partial"
    (root / "replaced" / "old").mkdir(parents=True)  # what there is after the last rename
    held = assembly.lock(root)
    if held is None:
        pytest.skip("the system has no locks")

    def publish():
        shutil.rmtree(root)
        os.close(held)

    timer = threading.Timer(0.2, publish)
    timer.start()
    assert save({"w": torch.ones(2)}, tmp_path / "out").complete
    timer.join()
    assert os.listdir(tmp_path) == ["out"]
