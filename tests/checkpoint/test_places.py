"""Where a save may write: a new name or a checkpoint's; what is there keeps its links, its modes and its owner."""

import os
import socket
import stat
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.checkpoint.test_replacing import tree
from tests.cli.jobs import job, write
from tritonparam import save
from tritonparam.checkpoint.disk.writing import replace_file
from tritonparam.checkpoint.errors import CheckpointError, UsageError

OLD, NEW = {"w": torch.ones(3)}, {"w": torch.zeros(3)}
LONG = "n" * 300


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("", ValueError, "path must name"),
        ("a\0b", ValueError, "path must have no NUL"),
        ("\ud800", ValueError, "path must be text"),
        (b"out", TypeError, "path must be a string"),
        (3, TypeError, "path must be a string"),
        (None, TypeError, "path must be a string"),
        (LONG, UsageError, "name too long"),
        (f"{LONG}.safetensors", UsageError, "name too long"),
        ("n" * 250, UsageError, "name too long"),
        ("n" * 240 + ".safetensors", UsageError, "name too long"),
        ("a/" * 3000, UsageError, "name too long"),
        ("/", UsageError, "root of a file system"),
        (".", UsageError, "exists; use|not a checkpoint"),
        ("..", UsageError, "exists; use|not a checkpoint"),
        ("file/out", UsageError, "file is not a folder"),
        ("file/out.safetensors", UsageError, "file is not a folder"),
        ("file/deep/er/out", UsageError, "file is not a folder"),
        ("file", UsageError, "not a folder"),
        ("/dev/null", UsageError, "not a folder"),
        ("pipe", UsageError, "not a folder"),
        ("pipe.safetensors", UsageError, "not a regular file"),
        ("socket.safetensors", UsageError, "not a regular file"),
        ("null.safetensors", UsageError, "not a regular file"),
        ("loop", UsageError, "leads to itself"),
        ("loop.safetensors", UsageError, "leads to itself"),
        ("loop/out", UsageError, "symbolic links"),
        ("/proc/out", OSError, "/proc/out"),
        ("/proc/out.safetensors", OSError, "/proc/out"),
        ("/proc/deep/out", OSError, "/proc/deep"),
    ],
)
def test_a_place_that_cannot_be_is_refused_at_once(path, error, text, overwrite, here):
    Path("file").write_text("mine")
    os.mkfifo("pipe")
    os.mkfifo("pipe.safetensors")
    os.symlink("/dev/null", "null.safetensors")
    for name in ("loop", "loop.safetensors"):
        os.symlink(name, name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.safetensors")
        before = sorted(os.listdir())
        with pytest.raises(error, match=text) as caught:
            save(NEW, path, overwrite=overwrite)
    assert len(str(caught.value)) < 1000
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("name", ["out", "out.safetensors", "deep/er/out"])
def test_a_folder_that_may_not_be_written_in_is_refused(name, here):
    here.chmod(0o500)
    with pytest.raises(PermissionError, match=r"out|deep"):
        save(NEW, name)
    here.chmod(0o700)
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_folders_made_for_nothing_are_removed(name, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(NEW, here / "deep" / "er" / name)
    assert os.listdir() == []


@pytest.mark.parametrize("at", [".", ".."])
def test_the_current_folder_is_not_pulled_away(at, here, monkeypatch):
    save(OLD, "out")
    (here / "out" / "deep").mkdir()
    monkeypatch.chdir("out" if at == "." else "out/deep")
    with pytest.raises(UsageError, match="current folder or above it"):
        save(NEW, at, overwrite=True)
    assert load_file(here / "out" / "model.safetensors")["w"].all()
    assert os.listdir(here) == ["out"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(here):
    for name in ("out", "out.safetensors"):
        (here / "store").mkdir(exist_ok=True)
        save(OLD, f"store/{name}")
        os.symlink(f"store/{name}", name)
        os.symlink(name, f"second.{name}")
        save(NEW, f"second.{name}", overwrite=True)
        assert os.readlink(name) == f"store/{name}"
        assert os.readlink(f"second.{name}") == name
        file = here / "store" / name
        assert not load_file(file / "model.safetensors" if file.is_dir() else file)["w"].any()
    assert sorted(os.listdir("store")) == ["out", "out.safetensors"]


def test_what_a_link_leads_to_is_made(here):
    os.mkdir("store")
    for name in ("out", "out.safetensors"):
        os.symlink(f"store/{name}", name)
        save(NEW, name)
        assert os.readlink(name) == f"store/{name}"
    assert sorted(os.listdir("store")) == ["out", "out.safetensors"]


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("asked", [0o600, 0o640, 0o444, 0o666])
def test_a_file_keeps_its_mode(asked, here):
    save(OLD, "w.safetensors")
    os.chmod("w.safetensors", asked)
    save(NEW, "w.safetensors", overwrite=True)
    assert mode("w.safetensors") == asked


@pytest.mark.parametrize(
    "act", [lambda out: save(NEW, out, overwrite=True), lambda out: write(job(), out, overwrite=True)]
)
@pytest.mark.parametrize("folder", [0o700, 0o750, 0o777])
def test_a_folder_and_its_files_keep_their_modes(act, folder, here):
    save(OLD, "out")
    os.chmod("out/model.safetensors", 0o600)
    os.chmod("out", folder)
    act(here / "out")
    assert (mode("out"), mode("out/model.safetensors")) == (folder, 0o600)


def test_new_files_may_be_read_by_no_more_than_those_of_their_kind(here):
    save({"a": torch.ones(3), "b": torch.ones(3)}, "out", max_shard_size=12)
    os.chmod("out/model-00001-of-00002.safetensors", 0o640)
    os.chmod("out/model-00002-of-00002.safetensors", 0o604)
    save(NEW, "out", overwrite=True)
    assert mode("out/model.safetensors") == 0o600


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_have_the_modes_that_the_user_asks_for(mask, here):
    before = os.umask(mask)
    try:
        save(NEW, "out")
        save(NEW, "out.safetensors")
        write(job(), here / "made")
    finally:
        os.umask(before)
    for folder in ("out", "made"):
        assert mode(folder) == 0o777 & ~mask
        assert {mode(path) for path in Path(folder).iterdir()} == {0o666 & ~mask}
    assert mode("out.safetensors") == 0o666 & ~mask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_replaced_keeps_its_owner(here):
    for name in ("out", "out.safetensors"):
        save(OLD, name)
        os.chown(name, 12345, 23456)
        save(NEW, name, overwrite=True)
        assert (os.stat(name).st_uid, os.stat(name).st_gid) == (12345, 23456)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_new_files_belong_to_the_owner_of_those_of_their_kind(here):
    save({"a": torch.ones(3), "b": torch.ones(3)}, "out", max_shard_size=12)
    for path in Path("out").iterdir():
        path.chmod(0o600)
        os.chown(path, 12345, -1)
    save(NEW, "out", overwrite=True)
    assert (os.stat("out/model.safetensors").st_uid, mode("out/model.safetensors")) == (12345, 0o600)


def test_a_file_that_another_process_writes_is_not_written_meanwhile(here):
    caught = []

    def parts():
        with pytest.raises(UsageError, match="another process is writing") as error:
            save(OLD, "w.safetensors", overwrite=True)
        caught.append(error)
        yield b"data"

    replace_file(here / "w.safetensors", parts(), True, "overwrite=True")
    assert len(caught) == 1
    assert tree(here) == {"w.safetensors": b"data"}


def test_a_draft_that_is_removed_meanwhile_is_an_error(here):
    def parts():
        yield b"data"
        os.unlink("w.safetensors.tritonparam-partial")

    with pytest.raises(CheckpointError, match="was removed by another program"):
        replace_file(here / "w.safetensors", parts(), True, "overwrite=True")
    assert os.listdir() == []
