"""What somebody else has put where a save works is never written through, published or removed unseen."""

import json
import os

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.checkpoint.halves import halves
from tests.checkpoint.test_replacing import tree
from tests.cli.jobs import job, write
from tritonparam import save
from tritonparam.checkpoint.disk import places
from tritonparam.checkpoint.errors import CheckpointError, UsageError

WEIGHTS = {"w": torch.zeros(3)}


def by_save(out):
    save(WEIGHTS, out, overwrite=True)


def by_init(out):
    write(job(), out, overwrite=True)


def plant(tmp_path, run=True):
    """A partial folder as a save leaves it, and a folder that is none of its business."""
    partial, other = tmp_path / "out.partial", tmp_path / "other"
    for each in (partial / "state", partial / "weights", other):
        each.mkdir(parents=True)
    (other / "letter.txt").write_text("dear")
    (other / "model.safetensors").write_text("mine")
    if run:
        (partial / "state" / "run.json").write_text(json.dumps({"save": 1, "metadata": {}}))
    return partial, other


@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize("name", ["", "weights", "state", "replaced", "discarded"])
def test_no_folder_of_a_run_may_be_a_link(act, name, tmp_path):
    partial, other = plant(tmp_path)
    place = partial / name
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(other)
    before = tree(other)
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        act(tmp_path / "out")
    assert tree(other) == before
    assert place.is_symlink()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize(
    "name",
    [
        "weights/model.safetensors",
        "weights/model.safetensors.tmp",
        "weights/config.json",
        "state/run.json",
        "state/run.json.tmp",
        "state/begun-00000",
        "state/begun-00000.tmp",
        "state/done-00000",
        "state/model.safetensors.json",
    ],
)
@pytest.mark.parametrize("where", ["other/letter.txt", "nowhere"])
def test_no_file_of_a_run_may_be_a_link(act, name, where, tmp_path):
    partial, other = plant(tmp_path)
    (partial / name).unlink(missing_ok=True)
    (partial / name).symlink_to(tmp_path / where)
    before = tree(other)
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        act(tmp_path / "out")
    assert tree(other) == before
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize(
    ("run", "name"),
    [(run, name) for run in (True, False) for name in ("thesis.tex", "weights/thesis.tex", "state/thesis.tex")]
    + [(False, "weights/thesis.json")],
)
def test_a_file_of_no_run_is_named_and_stays(act, run, name, tmp_path):
    """A file that a run could have made goes with what is left of that run."""
    partial, _ = plant(tmp_path, run)
    (partial / name).write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=f"in the way: it has '{name}'"):
        act(tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize("name", ["state/run.json", "weights/model.safetensors", "state/begun-00000"])
def test_what_is_no_file_is_in_the_way(make, act, name, tmp_path):
    partial, _ = plant(tmp_path)
    (partial / name).unlink(missing_ok=True)
    make(partial / name)
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        act(tmp_path / "out")


def test_only_files_that_a_save_wrote_are_published(tmp_path):
    first, second = halves(torch.randn(4, 3))
    save([second], tmp_path / "out", rank=1, world_size=2)
    planted = tmp_path / "out.partial" / "weights" / "model-extra.safetensors"
    planted.write_bytes(b"planted")
    with pytest.raises(UsageError, match=r"in the way: it has 'weights/model-extra\.safetensors'"):
        save([first], tmp_path / "out", rank=0, world_size=2)
    assert not (tmp_path / "out").exists()
    assert planted.read_bytes() == b"planted"


def test_a_file_that_is_gone_is_missed(tmp_path):
    first, second = halves(torch.randn(4, 3))
    report = save([second], tmp_path / "out", rank=1, world_size=2)
    (tmp_path / "out.partial" / "weights" / report.files[0]).unlink()
    with pytest.raises(CheckpointError, match=r"safetensors is missing"):
        save([first], tmp_path / "out", rank=0, world_size=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["", "3", "[" * 100_000, '{"files": 3}', '{"files": ["../x"]}', '{"files": ["a.txt"]}']
)
def test_what_a_process_says_that_it_wrote_is_checked(text, tmp_path):
    first, second = halves(torch.randn(4, 3))
    save([second], tmp_path / "out", rank=1, world_size=2)
    (tmp_path / "out.partial" / "state" / "done-00001").write_text(text)
    with pytest.raises(CheckpointError, match=r"done-00001 is not of a save|is not the name of a file|in the way"):
        save([first], tmp_path / "out", rank=0, world_size=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize(
    "text", ["", "3", "[" * 100_000, '"save"', '["save"]', '{"save": 1}', "\ufeff{}", '{"a": NaN}']
)
def test_whatever_a_run_says_of_itself_it_can_be_overwritten(act, text, tmp_path):
    partial, _ = plant(tmp_path)
    (partial / "state" / "run.json").write_text(text)
    (partial / "weights" / "model-00001-of-00009.safetensors").write_bytes(b"old")
    act(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]
    assert "model-00001-of-00009.safetensors" not in os.listdir(tmp_path / "out")


def test_init_goes_on_with_its_own_files_only(tmp_path):
    work = job(1000, scale=5)

    def stop(_):
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        write(work, tmp_path / "out", progress=lambda count: stop(count) if seen else seen.append(count))
    weights = tmp_path / "out.partial" / "weights"
    if not weights.exists():
        weights.mkdir(parents=True)
        pytest.fail("nothing to go on with")
    (weights / "extra.json").write_text("{}")
    with pytest.raises(UsageError, match=r"in the way: it has 'weights/extra\.json'"):
        write(work, tmp_path / "out")
    (weights / "extra.json").unlink()
    write(work, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "name", ["../x.json", "a/b.json", "/x.json", "x.sh", "x.json.tmp", "", "..", "model.safetensors"]
)
def test_init_writes_no_file_of_another_name_than_a_checkpoints(name, tmp_path):
    work = job()
    work.settings["files"][name] = "{}"
    with pytest.raises(CheckpointError, match=r"is not the name of a file|cannot be a file"):
        write(work, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_in_is_not_used(act, mode, tmp_path):
    partial, _ = plant(tmp_path)
    partial.chmod(mode)
    with pytest.raises(UsageError, match="others may write in it"):
        act(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("act", [by_save, by_init])
def test_a_folder_of_another_user_is_not_used(act, tmp_path):
    partial, _ = plant(tmp_path)
    os.chown(partial, 12345, -1)
    with pytest.raises(UsageError, match="others may write in it"):
        act(tmp_path / "out")
    assert not any(name.startswith(".tritonparam") for name in os.listdir(tmp_path))


def test_where_all_files_have_one_owner_folders_are_as_private_as_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr(places.os, "geteuid", lambda: 12345)
    assert places.is_private(tmp_path)
    tmp_path.chmod(0o777)
    assert not places.is_private(tmp_path)


def test_nobody_else_may_look_into_the_folder_of_a_run(tmp_path):
    save([halves(torch.randn(4, 3))[1]], tmp_path / "out", rank=1, world_size=2)
    assert (tmp_path / "out.partial").stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_a_draft_is_in_the_way(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    draft = tmp_path / "w.safetensors.tritonparam-partial"
    draft.symlink_to(tmp_path / "letter.txt")
    with pytest.raises(UsageError, match="in the way"):
        save(WEIGHTS, tmp_path / "w.safetensors")
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "w.safetensors").exists()
    draft.unlink()
    draft.write_bytes(b"of a save that was killed")
    save(WEIGHTS, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == {"w"}
    assert sorted(os.listdir(tmp_path)) == ["letter.txt", "w.safetensors"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("act", [by_save, by_init])
@pytest.mark.parametrize("name", ["weights", "state", "state/run.json", "weights/model.safetensors"])
def test_what_another_user_put_into_a_folder_of_mine_is_in_the_way(act, name, tmp_path):
    partial, _ = plant(tmp_path)
    (partial / "weights" / "model.safetensors").write_bytes(b"planted")
    os.chown(partial / name, 12345, -1)
    with pytest.raises(UsageError, match="in the way: it has"):
        act(tmp_path / "out")
    assert not (tmp_path / "out").exists()
