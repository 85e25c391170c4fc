"""Where a checkpoint is built: a folder beside the final one, so that a run cut short leaves no half checkpoint."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tritonparam.checkpoint.disk.places import (
    check_target,
    is_checkpoint,
    is_private,
    keep_modes,
    look_at,
    made_parents,
    real_path,
    shown,
)
from tritonparam.checkpoint.disk.writing import TEMPORARY, close_locks, hold, is_at, lock, sync_folder
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.json_files import read_json_object

SAVE = "save"  # the key of the number of processes in what a save writes to `run`
_LOOKS = 1000  # while others make and remove the folder
_WEIGHTS = re.compile(r".+\.(safetensors|json)(\.tmp)?", re.DOTALL)
_STATE = re.compile(r"(run\.json|begun-\d+|done-\d+|.+\.safetensors\.json)(\.tmp)?", re.DOTALL)


class PartialFolder:
    """The folder `out` + ".partial": `weights`, what `out` will be, and `state`: whose it is, what is done.

    For a moment in the end it also has `replaced`, what `out` was, and then `discarded`, which is that on its way out.
    Nobody else may write in the folder, and nothing in it is a link: what is found is checked, and what is not of a
    run of ours is in the way.

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
        UsageError: `out` exists and may not be replaced, or can be no folder.
    """

    def __init__(self, out: Path, overwrite: bool, option: str) -> None:
        self.out = real_path(out)
        self.overwrite = overwrite
        self.root = self.out.with_name(self.out.name + ".partial")
        self.folder = self.root / "weights"
        self.state = self.root / "state"
        self.run = self.state / "run.json"
        self._replaced = self.root / "replaced"
        self._discarded = self.root / "discarded"
        self._option = option
        self._root_locks: list[int] = []
        self._made: list[Path] = []
        try:
            check_target(self.out, overwrite, option)
        except UsageError:
            self.tidy()
            raise
        look_at(self.root)  # whether its name is too long

    def take(self, patience: float = 0.0) -> None:
        """Make the folder, or take what an earlier run left, and keep all others from it until `let_go`.

        Args:
            patience: For how many seconds to wait for others.

        Raises:
            UsageError: Another process has it, or it is in the way.
            OSError: The system refuses.
        """
        self.let_go()  # which an interrupt may have cut short
        deadline = time.monotonic() + patience
        with made_parents(self.root.parent) as made:
            self._made = [*made, *self._made]
            for _ in range(_LOOKS):
                if self._taken(deadline):
                    return
        raise UsageError(f"other processes make and remove {shown(self.root)} all the time; wait until they are done")

    def _taken(self, deadline: float) -> bool:
        made = False
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.root, 0o700)
                made = True
            found = look_at(self.root)
            if found is None:
                return False  # published just now
            if not stat.S_ISDIR(found.st_mode):
                raise UsageError(f"{shown(self.root)} is in the way and is not a folder; move it away")
            try:
                hold(self.root, self._root_locks)
            except FileNotFoundError:
                return False
            except UsageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            break
        try:
            if self._root_locks and not is_at(self._root_locks[0], self.root):
                self.let_go()
                return False
            if not made and not is_private(self.root):
                raise UsageError(f"{shown(self.root)} is in the way: others may write in it; move it away")
            with contextlib.suppress(OSError):
                os.chmod(self.root, 0o700)  # so that what is checked now stays so
            self._check()
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.state)
        except BaseException:
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(self.root)
            self.let_go()
            raise
        return True

    def let_go(self) -> None:
        """Let others have the folder."""
        close_locks(self._root_locks)

    def _check(self) -> None:
        """Refuse what no run of ours leaves, before anything of it is read, written or removed."""
        owner = os.lstat(self.root).st_uid

        def same_owner(entry: os.DirEntry[str]) -> bool:
            return entry.stat(follow_symlinks=False).st_uid == owner

        parts = {each.name for each in (self.folder, self.state, self._replaced, self._discarded)}
        for entry in _entries(self.root):
            if entry.name not in parts or not entry.is_dir(follow_symlinks=False) or not same_owner(entry):
                raise self._in_the_way(Path(entry.path))
        for folder, pattern in ((self.folder, _WEIGHTS), (self.state, _STATE)):
            if folder.is_dir():
                for entry in _entries(folder):
                    known = entry.is_file(follow_symlinks=False) and pattern.fullmatch(entry.name)
                    if not known or not same_owner(entry):
                        raise self._in_the_way(Path(entry.path))
        if not self.run.exists() and self._weights():
            raise self._in_the_way(self.folder / min(self._weights()))

    def _in_the_way(self, path: Path) -> UsageError:
        name = str(path.relative_to(self.root))[:200]
        return UsageError(f"{shown(self.root)} is in the way: it has {name!r}, which is not of a run; move it away")

    def _weights(self) -> set[str]:
        """The names of the files that are there already."""
        try:
            return set(os.listdir(self.folder))
        except FileNotFoundError:
            return set()

    def read_run(self) -> dict[str, Any] | None:
        """What an earlier run wrote to `run`: {} where nobody can read it, None where there is none."""
        try:
            return read_json_object(self.run)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}

    def is_lone_save(self, earlier: Mapping[str, Any] | None) -> bool:
        """Whether a save of one process wrote `earlier` to `run`, or nothing did: nobody will go on with that."""
        return earlier is None or earlier.get(SAVE) == 1

    def recover(self) -> None:
        """Give `out` back what it was, if a run was killed between the two renames of `publish`.

        Raises:
            UsageError: `out` may not be replaced.
        """
        if self._replaced.exists() and look_at(self.out) is None:
            names = os.listdir(self._replaced)
            if self.run.exists() or is_checkpoint(names):
                self._replaced.rename(self.out)
            elif names and not self.overwrite:  # what a run was removing when it was killed, and `out` went since
                raise UsageError(
                    f"{shown(self._replaced)} seems to be a part of a checkpoint that was replaced; delete it or use "
                    f"{self._option}"
                )
        check_target(self.out, self.overwrite, self._option)
        self._drop_replaced()

    def _drop_replaced(self) -> None:
        """Remove what was replaced: at once under another name, so that no half of it is ever put back."""
        shutil.rmtree(self._discarded, ignore_errors=True)
        if self._replaced.exists():
            self._replaced.rename(self._discarded)
            shutil.rmtree(self._discarded, ignore_errors=True)

    def discard(self, free: bool, mine: bool = False) -> None:
        """Remove what an unfinished run left, if nobody is at it.

        Args:
            free: Whether it may go without `overwrite`.
            mine: Whether it is this process's own, so that nobody else is at it.

        Raises:
            UsageError: A process is at it, or it may not go.
        """
        if not mine:
            self.check_nobody_is_at_it()
        if self._weights() and not free and not self.overwrite:
            raise UsageError(f"{shown(self.root)} holds an unfinished run; finish it, delete it or use {self._option}")
        self._clear()

    def check_nobody_is_at_it(self) -> None:
        """Refuse what a process is at that is alive, by the file in `state` that it keeps locked.

        Raises:
            UsageError: There is one.
        """
        for begun in self.state.glob("begun-*"):
            held = lock(begun)  # raises where that process is alive
            if held is not None:
                close_locks([held])

    def _clear(self) -> None:
        """Forget the run that is here; `run` goes last, so that a cut leaves a run that can be forgotten again."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        for file in sorted(self.state.iterdir(), key=lambda path: path == self.run):
            os.unlink(file)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse all files but `names`, and odd names; what was being written when a run was killed goes.

        Raises:
            UsageError: There is another file.
            CheckpointError: A name is not of a file in a checkpoint's folder.
        """
        names = set(names)
        for name in sorted(names):
            if (
                not _WEIGHTS.fullmatch(name)
                or name.endswith(TEMPORARY)
                or "/" in name
                or os.path.basename(name) != name
            ):
                raise CheckpointError(f"{name[:200]!r} is not the name of a file in a checkpoint; it must end in .json")
        for stray in sorted(self._weights() - names):
            if stray.removesuffix(TEMPORARY) not in names:
                raise self._in_the_way(self.folder / stray)
            os.unlink(self.folder / stray)

    def publish(self, names: Iterable[str]) -> None:
        """Give the finished folder its name, in place of an earlier one only now, and remove the rest.

        What had the name comes back if that fails.

        Args:
            names: The files that were written or, of an earlier run, found whole: all that may be there.

        Raises:
            UsageError: `out` may not be replaced, or there is another file.
            CheckpointError: A file is missing.
            OSError: The disk refuses.
        """
        self.recover()
        names = set(names)
        self.check_names(names)
        missing = sorted(names - self._weights())
        if missing:
            raise CheckpointError(
                f"{shown(self.folder / missing[0])} is missing: another program removed it; start again"
            )
        try:
            if look_at(self.out) is not None:
                keep_modes(self.folder, self.out)
                sync_folder(self.folder)
                self.out.rename(self._replaced)
            else:
                sync_folder(self.folder)
            self.folder.rename(self.out)
        except BaseException:
            if self._replaced.exists() and look_at(self.out) is None:
                self._replaced.rename(self.out)
            raise
        sync_folder(self.out.parent)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the folder, which the caller has taken, if nothing in it is worth keeping and nobody is at it."""
        with contextlib.suppress(OSError, UsageError):
            if self._weights() or (self._replaced.exists() and look_at(self.out) is None):
                return
            if self.folder.exists() and any(self.state.glob("done-*")):
                return  # of a process that had nothing to write
            self.check_nobody_is_at_it()
            self._drop_replaced()
            self._clear()
            for each in (self.state, self.root, *self._made):
                os.rmdir(each)

    def tidy(self) -> None:
        """Remove the folder if a run that was done, or had not begun, left it."""
        with contextlib.suppress(OSError, UsageError):
            if look_at(self.root) is not None:
                self.take()
                try:
                    self.remove_if_empty()
                finally:
                    self.let_go()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)
