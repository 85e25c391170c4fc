"""Who saves a checkpoint, and where several put it together without talking: the last to finish gives it its name."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tritonparam.checkpoint.errors import UsageError
from tritonparam.checkpoint.files import write_file
from tritonparam.checkpoint.partial_folder import PartialFolder, lock
from tritonparam.checkpoint.targets import Slot, listed

OPTION = "overwrite=True"
_KIND = "save"
_PATIENCE = 30.0  # seconds; others hold the lock for some file names only


@dataclass(frozen=True)
class Team:
    """The processes that save one checkpoint.

    Attributes:
        rank, size: This process, and how many there are.
        alone: Whether it writes all there is, so that nothing in its files has to say which box of which whole it is.
        in_step: Whether they wait for each other, at barriers of torch.distributed.
    """

    rank: int = 0
    size: int = 1
    alone: bool = True
    in_step: bool = False

    @classmethod
    def of(cls, slots: Iterable[Slot], rank: int | None, world_size: int | None) -> Team:
        """The team that saves what `slots` say, rank and world_size as for `save`."""
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size go together, got {rank!r} and {world_size!r}")
        in_step = False
        if rank is not None and world_size is not None:
            for argument, value in (("rank", rank), ("world_size", world_size)):
                if type(value) is not int:
                    raise TypeError(f"{argument} must be an int, got {value!r} of type {type(value).__name__}")
            if not 0 <= rank < world_size:
                raise ValueError(f"rank must be in [0, world_size), got {rank} and {world_size}")
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
            in_step = True
        boxes = [slot.name for slot in slots if not slot.is_whole]
        if rank is not None and world_size is not None:
            return cls(rank, world_size, False, in_step) if world_size > 1 or boxes else cls()
        if boxes:
            raise ValueError(
                "rank and world_size must be given where tensors are boxes of larger ones and torch.distributed is not "
                f"initialized; such are {listed(boxes)}"
            )
        return cls()

    def writes(self, slot: Slot) -> bool:
        """Whether this process is to write what it holds of a tensor."""
        if self.alone:
            return True
        mine = slot.mine if slot.mine is not None else self.rank == 0 or not slot.is_whole
        return mine and (bool(math.prod(slot.box.sizes)) or not math.prod(slot.shape))

    def wait(self) -> None:
        """Wait until all are here, if they are in step."""
        if self.in_step:
            torch.distributed.barrier()


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
