"""Where `init` builds a checkpoint, shard by shard, so that a run cut short can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonparam.checkpoint import (
    CheckpointError,
    Extent,
    PartialFolder,
    UsageError,
    close_locks,
    hash_tensor,
    hold,
    read_header,
    read_json_object,
    write_file,
)


class Workspace(PartialFolder):
    """The partial folder of one run, which another run of the same job can continue.

    A context manager: inside, no other run can use it. Leaving it without `publish` keeps what is finished. Where a run
    has several processes, process 0 opens and publishes it; between the two the others `join`.

    Args:
        out: The folder to make in the end.
        overwrite: Replace the checkpoint that `out` is now, and discard the unfinished run of another job.
        rank: Which process of the run this is.

    Raises:
        UsageError: `out` exists and may not be replaced, or another process is at work.
    """

    def __init__(self, out: Path, overwrite: bool, rank: int = 0) -> None:
        super().__init__(out, overwrite, "--overwrite")
        self._rank = rank
        self._begun = False
        self._at_work: list[int] = []

    def __enter__(self) -> Workspace:
        if self._rank == 0:
            self.take()
            try:
                self.check_nobody_is_at_it()  # what is left of a run whose process 0 is gone
            except BaseException:
                self.let_go()
                raise
        return self

    def join(self) -> None:
        """Be at work, until `rest`, in what process 0 has opened; process 0 is anyway."""
        if self._rank:
            begun = self.state / f"begun-{self._rank:05}"
            write_file(begun, [])
            hold(begun, self._at_work)

    def rest(self) -> None:
        """Be at work no more."""
        close_locks(self._at_work)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()
        if self._rank:
            return
        try:
            if not self._begun or not self.folder.exists():
                self.remove_if_empty()
        finally:
            self.let_go()

    def open(self, identity: Mapping[str, Any], names: Iterable[str]) -> None:
        """Continue the unfinished run of the job `identity`, or begin it.

        Args:
            identity: All that the bytes of the job depend on.
            names: The files that the job writes.

        Raises:
            UsageError: There is an unfinished run of another job, or a checkpoint that an unfinished run was replacing,
                and `overwrite` is False; another process is at work, or a file is in the way.
        """
        self.recover()
        wanted = json.loads(json.dumps(identity))
        earlier = self.read_run()
        if earlier != wanted:
            if earlier and self._weights() and not self.overwrite and not self.is_lone_save(earlier):
                keys = ", ".join(sorted(key for key in wanted if earlier.get(key) != wanted[key]))
                raise UsageError(
                    f"{self.root} holds an unfinished run with other {keys}; finish it, delete it or use --overwrite"
                )
            self.discard(free=self.is_lone_save(earlier))
        self.check_names(names)
        self.folder.mkdir(exist_ok=True)
        if earlier != wanted:
            write_file(self.run, [json.dumps(wanted, sort_keys=True).encode()])
        self._begun = True

    def finished(self, name: str, extents: Mapping[str, Extent]) -> dict[str, str] | None:
        """The digests of the tensors in the shard `name` if an earlier run finished it and it is intact."""
        try:
            said = read_json_object(self.state / f"{name}.json")
            digests: dict[str, str] = said["digests"]
            header = read_header(self.folder / name)
            whole = (
                said["file"] == _identity(self.folder / name)
                and header.extents == extents
                and digests
                == {tensor: hash_tensor(self.folder / name, header.begin, extent) for tensor, extent in extents.items()}
            )
        except (OSError, ValueError, KeyError, CheckpointError):
            return None
        return digests if whole else None

    def mark_finished(self, name: str, digests: Mapping[str, str]) -> None:
        """Remember that the shard `name` is whole, with these digests of its tensors."""
        said = {"digests": dict(digests), "file": _identity(self.folder / name)}
        write_file(self.state / f"{name}.json", [json.dumps(said).encode()])


def finished_files(out: Path, names: Iterable[str]) -> int | None:
    """How many of the files `names` a run for the folder `out` has finished; None where it is `out` already."""
    root = Path(os.path.realpath(out))
    partial = root.with_name(f"{root.name}.partial")
    if root.exists() and not (partial / "weights").exists():
        return None
    return sum((partial / "state" / f"{name}.json").exists() for name in names)


def _identity(path: Path) -> list[int]:
    """What a file system gives one file, and no other that has its bytes: one that was unpacked here is not ours."""
    found = os.lstat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
