"""Where a checkpoint is built: a folder beside the final one, so that a run cut short leaves no half checkpoint."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from tritonparam.checkpoint.errors import UsageError
from tritonparam.checkpoint.files import RECORD_NAME, sync_folder


class PartialFolder:
    """The folder `out` + ".partial": `weights`, what `out` will be, and `state`: whose it is, what is done.

    For a moment in the end it also has `replaced`, what `out` was.

    Args:
        out: The folder to make in the end.
        overwrite: Replace the checkpoint that `out` is now.
        option: What the user calls `overwrite`.

    Attributes:
        out, overwrite: As above, `out` resolved.
        root: The partial folder.
        folder: Its `weights`.
        state: Its `state`.
        run: The file in `state` that says whose it is.

    Raises:
        UsageError: `out` exists and may not be replaced.
    """

    def __init__(self, out: Path, overwrite: bool, option: str) -> None:
        self.out = out.resolve()
        self.overwrite = overwrite
        self.root = self.out.with_name(self.out.name + ".partial")
        self.folder = self.root / "weights"
        self.state = self.root / "state"
        self.run = self.state / "run.json"
        self._replaced = self.root / "replaced"
        self._option = option
        check_target(self.out, overwrite, option)

    def recover(self) -> None:
        """Give `out` back what it was, if a run was killed between the two renames of `publish`.

        Raises:
            UsageError: `out` may not be replaced.
        """
        if self._replaced.exists() and not self.out.exists():
            self._replaced.rename(self.out)
            check_target(self.out, self.overwrite, self._option)

    def clear(self) -> None:
        """Forget the run that is here; `run` goes last, so that a cut leaves a run that can be forgotten again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for file in sorted(self.state.iterdir(), key=lambda path: path == self.run):
            file.unlink()

    def publish(self) -> None:
        """Give the finished folder its name, in place of an earlier one only now, and remove the rest.

        What had the name comes back if that fails.

        Raises:
            UsageError: `out` may not be replaced.
            OSError: The disk refuses.
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
