"""Compiled loops, kept as object files for the next process on such a machine.

A file is taken for what this process would compile itself only if its fingerprint says so: of the sources, of the
compilers' versions, and of the CPU. Files lie in the user's own cache folder, never beside the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding as llvm

_SOURCES = Path(__file__).parent
_DIGEST = 32  # bytes of a fingerprint, and of the checksum that follows it
_VARIABLES = "NUMBA_"  # of the environment, by which people choose another CPU or level of optimization


def folder() -> Path:
    """Where the files are, as the system has it: $XDG_CACHE_HOME/tritonparam or ~/.cache/tritonparam on Linux."""
    if sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        caches = named if named.is_absolute() else Path.home() / ".cache"
    return caches / "tritonparam" / "loops"


def cpu() -> tuple[str, str]:
    """The name and the features of the CPU that is compiled for."""
    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return name, llvm.get_host_cpu_features().flatten() if features is None else features


@cache
def fingerprint() -> bytes:
    """What an object file depends on."""
    digest = hashlib.sha256()
    for path in (*sorted(_SOURCES.glob("*.py")), _SOURCES.parent / "coefficients.py"):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    variables = sorted(item for item in os.environ.items() if item[0].startswith(_VARIABLES))
    machine = (*cpu(), llvm.get_process_triple(), platform.python_version())
    digest.update(repr((version("numba"), version("llvmlite"), machine, variables)).encode())
    return digest.digest()


def read(name: str) -> bytes | None:
    """The object file of the loop `name`, if one is kept that this process would have compiled; else None."""
    try:
        kept = _read_ours(folder(), _name(name))
    except (OSError, RuntimeError):  # as of a user without a home
        return None
    own, checksum, code = kept[:_DIGEST], kept[_DIGEST : 2 * _DIGEST], kept[2 * _DIGEST :]
    return code if own == fingerprint() and checksum == hashlib.sha256(code).digest() else None


def _read_ours(place: Path, name: str) -> bytes:
    """The bytes of a file that only this user can have put there: what is kept there is run.

    Raises:
        OSError: It is not there, or others may write to it or to its folder.
    """
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        return (place / name).read_bytes()
    # Opened once, so that what is looked at is what is read.
    within = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _check_ours(within)
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=within), "rb") as file:
            _check_ours(file.fileno())
            return file.read()
    finally:
        os.close(within)


def _check_ours(opened: int) -> None:
    status = os.fstat(opened)
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("others may write to it")


def keep(name: str, code: bytes) -> None:
    """Keep an object file, whole or not at all; where that cannot be, the next process compiles it again."""
    with contextlib.suppress(OSError, RuntimeError):
        folder().parent.parent.mkdir(parents=True, exist_ok=True)
        for each in (folder().parent, folder()):
            each.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder())
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(fingerprint() + hashlib.sha256(code).digest() + code)
            os.replace(temporary, folder() / _name(name))
        except BaseException:
            os.unlink(temporary)
            raise


def _name(name: str) -> str:
    return f"{name}-{fingerprint().hex()[:16]}.o"
