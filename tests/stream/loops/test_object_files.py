"""Compiled loops are kept for this version on this CPU, and what is not that, or was changed, is never run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from tritonparam.stream.loops import library, object_files

USE = """
import sys, torch
import tritonparam as tp
assert "llvmlite" not in sys.modules and "numba" not in sys.modules
out = torch.empty(5)
tp.Plan([tp.Fill(out, tp.Uniform(), 7)], backend="cpu").run()
print("numba" in sys.modules, out.tolist())
"""
ROOT = Path(__file__).parents[3]


def use(cache: Path, **variables: str) -> tuple[bool, str]:
    """Whether a new process compiled, and the values that it printed."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    compiled, _, values = done.stdout.partition(" ")
    return compiled == "True", values


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
def test_the_second_process_loads_and_neither_another_cpu_nor_a_stale_file_does(tmp_path: Path) -> None:
    compiled, want = use(tmp_path)
    assert compiled
    assert use(tmp_path) == (False, want)
    # Another CPU: its files stand beside these.
    assert use(tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (True, want)
    assert use(tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == (False, want)
    # A file of an older version under the name of this one.
    folder = tmp_path / "tritonparam" / "loops"
    own, other = sorted(folder.glob("uniform-*.o"))
    own_bytes, other_bytes = own.read_bytes(), other.read_bytes()
    own.write_bytes(other_bytes)
    other.write_bytes(own_bytes)
    assert use(tmp_path) == (True, want)
    assert use(tmp_path) == (False, want)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "loops"
    monkeypatch.setattr(object_files, "folder", lambda: place)
    return place


def test_what_is_kept_is_read(folder: Path) -> None:
    assert object_files.read("words") is None
    object_files.keep("words", b"code")
    assert object_files.read("words") == b"code"
    assert object_files.read("normal") is None
    assert [path.name for path in folder.iterdir() if "words" not in path.name] == []


@pytest.mark.parametrize("at", [0, 31, 32, 63, 64, -1])
def test_a_changed_byte_is_not_read(folder: Path, at: int) -> None:
    object_files.keep("words", b"code of some length")
    (path,) = folder.iterdir()
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)
    assert object_files.read("words") is None


@pytest.mark.parametrize("length", [0, 10, 63, 64, 70])
def test_a_file_cut_short_is_not_read(folder: Path, length: int) -> None:
    object_files.keep("words", b"code of some length")
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:length])
    assert object_files.read("words") is None


@pytest.mark.parametrize("what", ["source", "numba", "cpu", "variable"])
def test_the_fingerprint_follows_all_that_makes_code(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = object_files.fingerprint()
    object_files.fingerprint.cache_clear()
    if what == "source":
        sources = tmp_path / "stream" / "loops"
        sources.mkdir(parents=True)
        for path in object_files._SOURCES.glob("*.py"):
            (sources / path.name).write_bytes(path.read_bytes())
        coefficients = tmp_path / "stream" / "coefficients.py"
        coefficients.write_bytes((object_files._SOURCES.parent / "coefficients.py").read_bytes())
        monkeypatch.setattr(object_files, "_SOURCES", sources)
        assert object_files.fingerprint() == before
        object_files.fingerprint.cache_clear()
        with coefficients.open("a") as file:
            file.write("\n")
    elif what == "numba":
        monkeypatch.setattr(object_files, "version", lambda package: f"{package} of tomorrow")
    elif what == "cpu":
        monkeypatch.setattr(object_files, "cpu", lambda: ("another", ""))
    else:
        monkeypatch.setenv("NUMBA_OPT", "1")
    try:
        assert object_files.fingerprint() != before
    finally:
        object_files.fingerprint.cache_clear()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="for POSIX")
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path) -> None:
    object_files.keep("words", b"code")
    folder.chmod(0o777)
    assert object_files.read("words") is None
    folder.chmod(0o700)
    (path,) = folder.iterdir()
    path.chmod(0o620)
    assert object_files.read("words") is None
    path.chmod(0o600)
    assert object_files.read("words") == b"code"
    moved = folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(moved)
    assert object_files.read("words") is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="for POSIX")
def test_folders_are_the_users_alone_whatever_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        object_files.keep("words", b"code")
    finally:
        os.umask(before)
    own = (tmp_path / "cache" / "tritonparam", tmp_path / "cache" / "tritonparam" / "loops")
    assert [path.stat().st_mode & 0o777 for path in own] == [0o700, 0o700]
    assert object_files.read("words") == b"code"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(object_files, "folder", none)
    object_files.keep("words", b"code")
    assert object_files.read("words") is None


def test_without_a_place_to_keep_files_loops_are_compiled_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(object_files, "folder", lambda: tmp_path / "file" / "loops")
    object_files.keep("float64_bits", b"code")
    assert object_files.read("float64_bits") is None
    monkeypatch.setattr(library, "_loaded", {})
    assert library.address_of("float64_bits")


def test_no_file_stays_behind_where_the_disk_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    object_files.keep("words", b"code")
    assert list(folder.iterdir()) == []
