"""Where a checkpoint may go: a new name, or that of an earlier checkpoint; and what must stay as it is there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tritonparam.checkpoint.errors import UsageError
from tritonparam.checkpoint.files import RECORD_NAME

_SHOWN = 200  # characters
_LOOKS = 100  # while others rename the folder


def as_path(path: str | os.PathLike[str], argument: str = "path") -> Path:
    """`path` as the user gave it, where a leading `~` or `~user` is that home folder, as for a shell.

    Args:
        path: A string or a path.
        argument: What an error calls it.

    Raises:
        TypeError: It is no string and no path.
        ValueError: It is empty, or no system has such a path.
    """
    try:
        text = os.fspath(path)
    except Exception:  # what is no path, or a path of the user's that raises
        text = None
    if not isinstance(text, str):
        swapped = "; the model goes before the path" if hasattr(path, "parameters") else ""
        raise TypeError(f"{argument} must be a string or a pathlib.Path, got a {type(path).__name__[:100]}{swapped}")
    if not text:
        raise ValueError(f"{argument} must name a folder or a file, got ''")
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{argument} must be text that a file system can hold, got {_short(text)}") from None
    if b"\0" in data:
        raise ValueError(f"{argument} must have no NUL, got {_short(text)}")
    return Path(os.path.expanduser(text))  # which leaves a user alone that there is not, where pathlib raises


def real_path(path: Path) -> Path:
    """`path` without symbolic links: what it leads to is replaced, and the links stay.

    Raises:
        UsageError: It is the root of the file system, it is too long, its links run in a circle, or what should be a
            folder on the way is none.
    """
    real = Path(os.path.realpath(path))
    if not real.name:
        raise UsageError(f"{shown(path)} is the root of a file system; name a folder or a file in it")
    found = look_at(real)
    if found is not None and stat.S_ISLNK(found.st_mode):
        raise UsageError(f"{shown(path)} is a symbolic link that leads to itself; remove it or choose another name")
    return real


def look_at(path: Path) -> os.stat_result | None:
    """What is at `path` itself, be it a link; None where nothing is.

    Raises:
        UsageError: It is too long, or what should be a folder on the way is none.
    """
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        above = next((each for each in path.parents if os.path.lexists(each)), path.parent)
        raise UsageError(f"{shown(path)}: {shown(above)} is not a folder") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"path is no path here: {error.strerror}; got {_short(str(path))}") from None
        raise


def shown(path: Path) -> str:
    """`path` for a message, the end of it if it is long."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"


def _short(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... of {len(text)} characters"


def check_target(out: Path, overwrite: bool, option: str = "--overwrite") -> None:
    """Refuse to replace what is not a checkpoint, and anything at all without `overwrite`, which is called `option`.

    Raises:
        UsageError: `out` exists and may not be replaced, or cannot be a folder.
    """
    real = real_path(out)
    for _ in range(_LOOKS):
        found = look_at(real)
        if found is None:
            return
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{shown(out)} exists and is not a folder")
        if not overwrite:
            raise UsageError(f"{shown(out)} exists; use {option} to replace it")
        names = _names(real)
        if names is not None and (not names or is_checkpoint(names)):
            break
        again = look_at(real)
        if names is not None and again is not None and os.path.samestat(found, again):
            raise UsageError(f"{shown(out)} is not a checkpoint, so {option} does not replace it")
    with contextlib.suppress(OSError):
        here = Path(os.path.realpath(os.getcwd()))
        if real == here or real in here.parents:
            raise UsageError(f"{shown(out)} is the current folder or above it; change to another folder to replace it")


def check_file_target(out: Path, overwrite: bool, option: str) -> os.stat_result | None:
    """What the file `out` is now, None where there is none.

    Args:
        out: A `real_path`.
        overwrite: Whether it may be replaced.
        option: What the user calls `overwrite`.

    Raises:
        UsageError: It exists and may not be replaced.
    """
    found = look_at(out)
    if found is None:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{shown(out)} exists and is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{shown(out)} exists and is not a regular file; choose another name")
    if not overwrite:
        raise UsageError(f"{shown(out)} exists; use {option} to replace it")
    return found


def is_checkpoint(names: Iterable[str]) -> bool:
    """Whether a folder with these names in it is a checkpoint."""
    names = list(names)
    weights = [name for name in names if name.endswith(".safetensors")]
    return RECORD_NAME in names or any(
        name.startswith("model") or (name.startswith("shard-") and "-model-" in name) for name in weights
    )


def _names(folder: Path) -> list[str] | None:
    """What is in a folder that others may rename meanwhile; None where it is gone."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def made_parents(folder: Path) -> Iterator[list[Path]]:
    """Make `folder` and those above it, and list what was made; it goes again, if empty, where the block raises.

    Raises:
        UsageError: Something on the way is not a folder.
        OSError: The system refuses.
    """
    missing = [each for each in (folder, *folder.parents) if look_at(each) is None]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UsageError(f"{shown(folder)} is not a folder") from None
        yield missing
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):
                os.rmdir(each)
        raise


def is_private(folder: Path) -> bool:
    """Whether nobody else may have put things into `folder`: as far as its file system can tell."""
    found = os.lstat(folder)
    if not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022):
        return True
    try:  # some file systems give all that is made in them to one user, or have no modes
        made = Path(tempfile.mkdtemp(prefix=".tritonparam-", dir=folder.parent))
    except OSError:
        return False
    try:
        mine = os.lstat(made)
    finally:
        os.rmdir(made)
    return found.st_uid == mine.st_uid and not found.st_mode & ~mine.st_mode & 0o022


def keep_modes(folder: Path, old: Path) -> None:
    """Give `folder` and the files in it owners and modes as `old` has them, which it is to replace.

    A file that `old` has not gets no more rights than all those there of its kind.
    """
    had: dict[str, os.stat_result] = {}
    for name in os.listdir(old):
        with contextlib.suppress(OSError):
            found = os.stat(old / name)
            if stat.S_ISREG(found.st_mode):
                had[name] = found
    for name in os.listdir(folder):
        path = folder / name
        alike = [had[name]] if name in had else [had[each] for each in had if Path(each).suffix == path.suffix]
        if alike:
            mode = alike[0].st_mode if name in had else os.lstat(path).st_mode
            for each in alike:
                mode &= each.st_mode
            _own(path, alike[0].st_uid, alike[0].st_gid, mode)
    keep_mode(folder, os.stat(old))


def keep_mode(new: Path | int, old: os.stat_result) -> None:
    """Give a file or folder the owner, as far as the system lets us, and the mode that `old` had."""
    _own(new, old.st_uid, old.st_gid, old.st_mode)


def _own(new: Path | int, user: int, group: int, mode: int) -> None:
    mode = stat.S_IMODE(mode)
    with contextlib.suppress(OSError):
        made = os.stat(new)
        if hasattr(os, "chown") and (made.st_uid, made.st_gid) != (user, group):
            for owner in ((user, group), (-1, group)):
                with contextlib.suppress(OSError):
                    os.chown(new, *owner)
                    break
            made = os.stat(new)
        if made.st_gid != group:  # another group gets what all others get
            mode = mode & ~0o070 | (mode & 0o007) << 3
        os.chmod(new, mode)
