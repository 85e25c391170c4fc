"""Where several processes put a checkpoint together without talking: the last to finish gives it its name."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonparam.checkpoint.errors import UsageError
from tritonparam.checkpoint.files import write_file
from tritonparam.checkpoint.partial_folder import PartialFolder, lock

OPTION = "overwrite=True"
_KIND = "save"
_PATIENCE = 30.0  # seconds; others hold the lock for some file names only


class Assembly(PartialFolder):
    """The partial folder of several processes; its `state` says who is at work and who is done.

    Args:
        out: The folder to make in the end.
        overwrite: Replace the checkpoint that `out` is now, and discard an unfinished run that is no save.
        rank, world_size: This process, and how many take part.

    Raises:
        UsageError: `out` exists and may not be replaced.
    """

    def __init__(self, out: Path, overwrite: bool, rank: int, world_size: int) -> None:
        super().__init__(out, overwrite, OPTION)
        self._rank, self._world_size = rank, world_size
        self._alive: int | None = None

    def begin(self, identity: Mapping[str, Any], fresh: bool = False) -> None:
        """Take part in the save that the others are at, or begin one; what an earlier, unfinished one left goes.

        Args:
            identity: What all processes of one save have in common.
            fresh: Whether all that is there is of an earlier one.

        Raises:
            UsageError: Other work is unfinished here, or another process is at this process's part.
        """
        text = json.dumps({_KIND: self._world_size, **identity}, sort_keys=True)
        with self._locked():
            self.recover()
            earlier = self.run.read_text(encoding="utf-8") if self.run.is_file() else None
            again = self._marker("begun", self._rank).exists()
            if earlier is not None and (fresh or again or earlier != text or self._is_cut_short()):
                self._discard(earlier)
            self.folder.mkdir(exist_ok=True)
            write_file(self.run, [text.encode()])
            begun = self._marker("begun", self._rank)
            begun.touch()
            self._alive = lock(begun)

    def finish(self) -> bool:
        """Say that this process's files are there; whether all are, and the folder has its name."""
        with self._locked():
            self._marker("done", self._rank).touch()
            self.release()
            if not all(self._marker("done", rank).exists() for rank in range(self._world_size)):
                return False
            self.publish()
        return True

    def release(self) -> None:
        """Be at work no more."""
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    def _marker(self, what: str, rank: int) -> Path:
        return self.state / f"{what}-{rank:05}"

    def _is_cut_short(self) -> bool:
        """Whether a process that had begun is gone without being done."""
        for begun in self.state.glob("begun-*"):
            if not begun.with_name(begun.name.replace("begun", "done")).exists():
                try:
                    held = lock(begun)
                except UsageError:
                    continue
                if held is None:
                    return False  # the system cannot tell
                os.close(held)
                return True
        return False

    def _discard(self, earlier: str) -> None:
        """Remove what an unfinished run left, if nobody is at it."""
        try:
            is_save = _KIND in json.loads(earlier)
        except (ValueError, TypeError):
            is_save = False
        if not is_save and not self.overwrite:
            raise UsageError(f"{self.root} holds an unfinished run; finish it, delete it or use {OPTION}")
        for begun in self.state.glob("begun-*"):
            held = lock(begun)  # raises where that process is alive
            if held is not None:
                os.close(held)
        self.clear()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all others from looking at the folder meanwhile."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError):  # one look: it may be published meanwhile
                if not stat.S_ISDIR(self.root.stat().st_mode):
                    raise UsageError(f"{self.root} is in the way and is not a folder")
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                held = lock(self.root)
            except FileNotFoundError:
                continue  # it was published just now
            except UsageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if held is None or _is_at(held, self.root):
                break
            os.close(held)
        try:
            if not self.state.is_dir() and any(self.root.iterdir()):
                raise UsageError(f"{self.root} is in the way and was not made by a save")
            self.state.mkdir(exist_ok=True)
            yield
        finally:
            if held is not None:
                os.close(held)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` is still what was opened as `descriptor`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
