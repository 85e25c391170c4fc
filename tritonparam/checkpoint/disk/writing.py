"""Files on the disk that hold all that was written, or what they held before; and locks on them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path

from tritonparam.checkpoint.disk.places import check_file_target, keep_mode, look_at, made_parents, real_path, shown
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import CHUNK

TEMPORARY = ".tmp"
DRAFT = ".tritonparam-partial"  # what a save that was killed leaves of a file, until the next save of it
_LOOKS = 100  # while others make and remove what is looked at
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
Parts = Iterable[bytes | memoryview]
Advance = Callable[[int], None]


def write_file(path: Path, parts: Parts, advance: Advance | None = None) -> None:
    """Write `parts` to `path` so that it holds either all of them, safe on the disk, or what it held before.

    What is there goes, and so does what an earlier call that was killed has left beside it; if it is a link, the link
    goes and not what it leads to.

    Args:
        path: The file; its folder exists, and nobody else writes there.
        parts: What to write, in order. Each is written before the next is asked for, so they may be of one buffer.
        advance: Called with the number of bytes of each chunk written.

    Raises:
        OSError: The disk refuses; it names the file.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with open(temporary, "xb", buffering=0) as file:
            _pour(file, parts, advance)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        _name(error, path)
        raise
    sync_folder(path.parent)


def _pour(file: FileIO, parts: Parts, advance: Advance | None) -> None:
    """Write all to the disk."""
    for part in parts:
        view = memoryview(part)
        while view:
            written = os.write(file.fileno(), view[:CHUNK])
            view = view[written:]
            if advance is not None:
                advance(written)
    os.fsync(file.fileno())


def _name(error: BaseException, path: Path) -> None:
    """A refused write does not say what was written."""
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        error.filename = str(path)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` safe on the disk, where the system can."""
    descriptor = -1
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def hold(path: Path, locks: list[int]) -> None:
    """Lock a file or folder against others, until `close_locks` of `locks`, which the descriptor is added to.

    Where the system has no locks nothing is added.

    Raises:
        UsageError: Another process has it.
        OSError: There is none, or it is a link.
    """
    locks.append(os.open(path, _OPEN))  # in one step, so that an interrupt leaves none that nobody knows of
    locked = _is_locked(locks[-1])
    if not locked:
        os.close(locks.pop())
    if locked is False:
        raise UsageError(f"another process is writing {shown(path)}")


def lock(path: Path) -> int | None:
    """A descriptor that locks a file or folder against others until closed; None where the system has no locks.

    Raises:
        UsageError: Another process has it.
        OSError: There is none, or it is a link.
    """
    locks: list[int] = []
    try:
        hold(path, locks)
    except BaseException:
        close_locks(locks)
        raise
    return locks[0] if locks else None


def _is_locked(descriptor: int) -> bool | None:
    """Lock what is open; whether it is locked for us now, None where the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def close_locks(descriptors: list[int]) -> None:
    """Give up locks, and with them those of children that were forked meanwhile and have the descriptors too.

    The list is empty then; where an interrupt cuts this short, it still has what is to be closed.
    """
    while descriptors:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptors[-1], fcntl.LOCK_UN)
        os.close(descriptors.pop())


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still what was opened as `descriptor`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def replace_file(out: Path, parts: Parts, overwrite: bool, option: str, advance: Advance | None = None) -> None:
    """Write `parts` to the file `out`, which is as before until all of them are safe on the disk.

    Meanwhile they are beside it, in a file that the next call for `out` removes if this one is killed. What `out` is a
    link to is replaced; owner and mode stay.

    Args:
        out: The file to make; folders above it are made.
        parts: As for `write_file`.
        overwrite: Whether to replace a file that is there.
        option: What the user calls `overwrite`.
        advance: As for `write_file`.

    Raises:
        UsageError: `out` exists and may not be replaced, cannot be a file, or another process is writing it.
        CheckpointError: Another program removed what was written.
        OSError: The disk refuses; `out` is as before.
    """
    real = real_path(out)
    draft = real.with_name(real.name + DRAFT)
    try:
        old = check_file_target(real, overwrite, option)
    except UsageError:
        _remove_dead(draft)
        raise
    look_at(draft)  # whether its name is too long
    with made_parents(real.parent):
        file = None
        try:
            file = _new_draft(draft)
            if old is not None:
                os.chmod(draft, 0o600)
            _pour(file, parts, advance)
            old = check_file_target(real, overwrite, option)
            if old is not None:
                keep_mode(file.fileno() if os.chmod in os.supports_fd else draft, old)
            if not is_at(file.fileno(), draft):
                raise CheckpointError(f"{shown(draft)} was removed by another program; save again")
            os.replace(draft, real)
        except BaseException as error:
            if file is not None and is_at(file.fileno(), draft):
                with contextlib.suppress(OSError):
                    os.unlink(draft)
            elif file is None:
                _remove_dead(draft)
            _name(error, real)
            raise
        finally:
            if file is not None:
                file.close()
        sync_folder(real.parent)


def _new_draft(draft: Path) -> FileIO:
    """A new, locked file at `draft`; what a killed process left there goes."""
    for _ in range(_LOOKS):
        try:
            file = open(draft, "xb", buffering=0)  # noqa: SIM115
        except FileExistsError:
            if _remove_dead(draft):
                continue
            raise UsageError(
                f"another process is writing {shown(draft)}, or it is in the way; wait, or delete it"
            ) from None
        try:
            if _is_locked(file.fileno()) is not False and is_at(file.fileno(), draft):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # another took it for dead in the moment before it was locked
    raise UsageError(f"other processes make and remove {shown(draft)} all the time; wait until they are done")


def _remove_dead(draft: Path) -> bool:
    """Remove what a killed process left at `draft`; whether nothing is there now."""
    descriptor = -1
    try:
        if not stat.S_ISREG(os.lstat(draft).st_mode):
            return False
        descriptor = os.open(draft, _OPEN)
        if _is_locked(descriptor) is False:
            return not is_at(descriptor, draft)
        if is_at(descriptor, draft):
            os.unlink(draft)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True
