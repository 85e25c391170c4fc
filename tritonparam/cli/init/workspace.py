"""Where `init` builds a checkpoint, shard by shard, so that a run cut short can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tritonparam.checkpoint import (
    CheckpointError,
    Extent,
    PartialFolder,
    UsageError,
    hash_tensor,
    lock,
    read_header,
    write_file,
)


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
        if self.root.exists() and not self.state.is_dir() and any(self.root.iterdir()):
            raise UsageError(f"{self.root} is in the way and was not made by this command")
        self.state.mkdir(parents=True, exist_ok=True)
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
        self.recover()
        text = json.dumps(identity, sort_keys=True)
        earlier = json.loads(self.run.read_text(encoding="utf-8")) if self.run.is_file() else None
        if earlier is not None and earlier != json.loads(text):
            if not self.overwrite:
                keys = ", ".join(sorted(key for key in identity if earlier.get(key) != identity[key]))
                raise UsageError(
                    f"{self.root} holds an unfinished run with other {keys}; finish it, delete it or use --overwrite"
                )
            self.clear()
            earlier = None
        self.folder.mkdir(exist_ok=True)
        if earlier is None:
            write_file(self.run, [text.encode()])

    def finished(self, name: str, extents: Mapping[str, Extent]) -> dict[str, str] | None:
        """The digests of the tensors in the shard `name` if an earlier run finished it and it is intact."""
        try:
            digests: dict[str, str] = json.loads((self.state / f"{name}.json").read_text(encoding="utf-8"))
            header = read_header(self.folder / name)
            whole = header.extents == extents and digests == {
                tensor: hash_tensor(self.folder / name, header.begin, extent) for tensor, extent in extents.items()
            }
        except (OSError, ValueError, CheckpointError):
            return None
        return digests if whole else None

    def mark_finished(self, name: str, digests: Mapping[str, str]) -> None:
        """Remember that the shard `name` is whole, with these digests of its tensors."""
        write_file(self.state / f"{name}.json", [json.dumps(digests).encode()])
