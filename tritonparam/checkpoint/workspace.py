"""Where a checkpoint is built: a folder beside the final one, so that a run cut short leaves no half checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import Extent, hash_tensor, read_header, sync_folder, write_file
from tritonparam.checkpoint.record import RECORD_NAME


class PartialFolder:
    """The folder `out` + ".partial": `weights`, what `out` will be, and `state`: whose it is, what is done.

    For a moment in the end it also has `replaced`, what `out` was.

    Args:
        out: The folder to make in the end.
        overwrite: Replace the checkpoint that `out` is now.
        option: What the user calls `overwrite`.

    Raises:
        UsageError: `out` exists and may not be replaced.
    """

    def __init__(self, out: Path, overwrite: bool, option: str) -> None:
        self.out = out.resolve()
        self.overwrite = overwrite
        self.root = self.out.with_name(self.out.name + ".partial")
        self.folder = self.root / "weights"
        self._state = self.root / "state"
        self._replaced = self.root / "replaced"
        self._option = option
        check_target(self.out, overwrite, option)

    def _recover(self) -> None:
        """Give `out` back what it was, if a run was killed between the two renames of `_put_in_place`."""
        if self._replaced.exists() and not self.out.exists():
            self._replaced.rename(self.out)
            check_target(self.out, self.overwrite, self._option)

    def _clear(self) -> None:
        """Forget the run that is here; its marker goes last, so that a cut leaves a run that can be forgotten again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for file in sorted(self._state.iterdir(), key=lambda path: path.name == "run.json"):
            file.unlink()

    def _put_in_place(self) -> None:
        """Give the finished folder its name, in place of an earlier one only now, and remove the rest.

        What had the name comes back if that fails.
        """
        check_target(self.out, self.overwrite, self._option)
        sync_folder(self.folder)
        shutil.rmtree(self._replaced, ignore_errors=True)
        if self.out.exists():
            self.out.rename(self._replaced)
        try:
            self.folder.rename(self.out)
        except OSError:
            if self._replaced.exists():
                self._replaced.rename(self.out)
            raise
        sync_folder(self.out.parent)
        shutil.rmtree(self.root, ignore_errors=True)


class Workspace(PartialFolder):
    """The partial folder of one process, which another run of the same job can continue.

    A context manager: inside, no other process can use it. Leaving it without `publish` keeps what is finished.

    Args:
        out: The folder to make in the end.
        overwrite: Replace the checkpoint that `out` is now, and discard the unfinished run of another job.

    Raises:
        UsageError: `out` exists and may not be replaced, or another process is at work.
    """

    def __init__(self, out: Path, overwrite: bool) -> None:
        super().__init__(out, overwrite, "--overwrite")
        self._lock: int | None = None

    def __enter__(self) -> Workspace:
        if self.root.exists() and not self._state.is_dir() and any(self.root.iterdir()):
            raise UsageError(f"{self.root} is in the way and was not made by this command")
        self._state.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open(self, identity: Mapping[str, Any]) -> None:
        """Continue the unfinished run of the job `identity`, or begin it.

        Raises:
            UsageError: There is an unfinished run of another job, or a checkpoint that an unfinished run was replacing,
                and `overwrite` is False.
        """
        self._recover()
        marker = self._state / "run.json"
        text = json.dumps(identity, sort_keys=True)
        earlier = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
        if earlier is not None and earlier != json.loads(text):
            if not self.overwrite:
                keys = ", ".join(sorted(key for key in identity if earlier.get(key) != identity[key]))
                raise UsageError(
                    f"{self.root} holds an unfinished run with other {keys}; finish it, delete it or use --overwrite"
                )
            self._clear()
            earlier = None
        self.folder.mkdir(exist_ok=True)
        if earlier is None:
            write_file(marker, [text.encode()])

    def finished(self, name: str, extents: Mapping[str, Extent]) -> dict[str, str] | None:
        """The digests of the tensors in the shard `name` if an earlier run finished it and it is intact."""
        try:
            digests: dict[str, str] = json.loads((self._state / f"{name}.json").read_text(encoding="utf-8"))
            header = read_header(self.folder / name)
            whole = header.extents == extents and digests == {
                tensor: hash_tensor(self.folder / name, header.begin, extent) for tensor, extent in extents.items()
            }
        except (OSError, ValueError, CheckpointError):
            return None
        return digests if whole else None

    def mark_finished(self, name: str, digests: Mapping[str, str]) -> None:
        """Remember that the shard `name` is whole, with these digests of its tensors."""
        write_file(self._state / f"{name}.json", [json.dumps(digests).encode()])

    def publish(self) -> None:
        """Give the finished folder its name, in place of an earlier one only now, and remove the rest."""
        self._put_in_place()


def check_target(out: Path, overwrite: bool, option: str = "--overwrite") -> None:
    """Refuse to replace what is not a checkpoint, and anything at all without `overwrite`, which is called `option`.

    Raises:
        UsageError: `out` exists and may not be replaced.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} exists and is not a folder")
    if not overwrite:
        raise UsageError(f"{out} exists; use {option} to replace it")
    patterns = ("model*.safetensors", "shard-*-model-*.safetensors")
    checkpoint = (out / RECORD_NAME).is_file() or any(any(out.glob(pattern)) for pattern in patterns)
    if any(out.iterdir()) and not checkpoint:
        raise UsageError(f"{out} is not a checkpoint, so {option} does not replace it")


def lock(path: Path) -> int | None:
    """A descriptor that locks a file or folder against others until closed; None where the system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another process is writing {path}") from None
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return None
    return descriptor
