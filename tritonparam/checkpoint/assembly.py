"""Where several processes put a checkpoint together without talking: the last to finish gives it its name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonparam.checkpoint.disk import SAVE, PartialFolder, close_locks, hold, is_at, lock, shown, write_file
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.json_files import read_json_object

OPTION = "overwrite=True"
_PATIENCE = 30.0  # seconds; others hold the lock for some file names only


class Assembly(PartialFolder):
    """The partial folder of several processes; its `state` says who is at work and who is done with which files.

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
        self._alive: list[int] = []
        self._identity: dict[str, Any] | None = None

    def begin(self, identity: Mapping[str, Any], fresh: bool = False, joining: bool = False) -> None:
        """Take part in the save that the others are at, or begin one; what an earlier, unfinished one left goes.

        Args:
            identity: What all processes of one save have in common.
            fresh: Whether all that is there is of an earlier one.
            joining: Whether another process has begun it for sure, so that nothing is left of an earlier one.

        Raises:
            UsageError: Other work is unfinished here, or another process is at this process's part.
            CheckpointError: There is nothing to join any more.
        """
        mine = {SAVE: self._world_size, **identity}
        begun = self._marker("begun", self._rank)
        with self._locked():
            self.recover()
            earlier = self.read_run()
            fresh = fresh or self._world_size == 1 or begun.exists() or earlier != mine
            if joining:
                if earlier != mine:
                    raise CheckpointError(f"{shown(self.root)}: another process has discarded this save; save again")
            elif fresh or self._is_cut_short():
                self.discard(free=earlier is None or SAVE in earlier)
            self.folder.mkdir(exist_ok=True)
            write_file(self.run, [json.dumps(mine, sort_keys=True).encode()])
            self._identity = mine
            write_file(begun, [])
            hold(begun, self._alive)

    def finish(self, names: Iterable[str]) -> bool:
        """Say that the files `names` of this process are there; whether all are, and the folder has its name.

        Raises:
            UsageError: `out` may not be replaced, or a file is there that no process of this save wrote.
            CheckpointError: Another save has discarded this one, or a file is missing.
            OSError: The disk refuses.
        """
        with self._locked():
            if not self._is_mine():
                self.remove_if_empty()
                raise CheckpointError(
                    f"{shown(self.root)}: another process has discarded what this save wrote; save again"
                )
            write_file(self._marker("done", self._rank), [json.dumps({"files": sorted(names)}).encode()])
            self.release()
            done = [self._marker("done", rank) for rank in range(self._world_size)]
            if not all(each.exists() for each in done):
                return False
            self.publish(name for each in done for name in _files(each))
        return True

    def release(self) -> None:
        """Be at work no more."""
        close_locks(self._alive)

    def abandon(self) -> None:
        """Leave nothing of a save of one process that failed; several may still be at work, or find it cut short."""
        if self._world_size > 1:
            return
        if self._identity is None:
            self.tidy()
            return
        with contextlib.suppress(CheckpointError, OSError), self._locked():
            mine = self._is_mine()
            self.release()
            if mine:
                with contextlib.suppress(UsageError):
                    self.recover()
                self.discard(free=True, mine=True)
            self.remove_if_empty()

    def withdraw(self) -> None:
        """Leave nothing of a save of several that failed, as all of them know; unless one is at work nevertheless."""
        self.release()
        if self._identity is not None:
            with contextlib.suppress(CheckpointError, OSError), self._locked():
                if self._is_mine():
                    self.discard(free=True)
                self.remove_if_empty()

    def _is_mine(self) -> bool:
        """Whether no other save has begun anew meanwhile."""
        begun = self._marker("begun", self._rank)
        there = is_at(self._alive[0], begun) if self._alive else begun.exists()
        return there and self.read_run() == self._identity

    def _marker(self, what: str, rank: int) -> Path:
        return self.state / f"{what}-{rank:05}"

    def _is_cut_short(self) -> bool:
        """Whether a process that had begun is gone without being done, or what is here was being removed."""
        if any(not done.with_name(done.name.replace("done", "begun")).exists() for done in self.state.glob("done-*")):
            return True
        for begun in self.state.glob("begun-*"):
            if not begun.with_name(begun.name.replace("begun", "done")).exists():
                try:
                    held = lock(begun)
                except UsageError:
                    continue
                if held is None:
                    return False  # the system cannot tell
                close_locks([held])
                return True
        return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all others from looking at the folder meanwhile."""
        try:
            self.take(_PATIENCE)
            yield
        finally:
            self.let_go()


def _files(done: Path) -> list[str]:
    """What a process says that it wrote.

    Raises:
        UsageError: It was no process of ours that says so.
    """
    try:
        names = read_json_object(done).get("files")
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(done)} is not of a save: {error}; delete the folder and save again") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{shown(done)} is not of a save: it lists no files; delete the folder and save again")
    return names
