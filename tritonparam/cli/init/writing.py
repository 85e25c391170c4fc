"""Streaming a checkpoint to disk: a few pieces in memory at a time, resumable, never half of it under its name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tritonparam.checkpoint import (
    INDEX_NAME,
    RECORD_NAME,
    CheckpointError,
    UsageError,
    encode_header,
    format_size,
    index_text,
    write_file,
)
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.making import Making
from tritonparam.cli.init.pieces import Shard, split
from tritonparam.cli.init.workspace import Workspace
from tritonparam.cli.record import checkpoint_digest, record_text
from tritonparam.distributed import Fingerprint, fingerprint
from tritonparam.plan import MissingDeviceError, checked_device

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Written:
    """What a run did.

    Attributes:
        parameters: The number of parameter elements.
        tensors: The number of tensors.
        nbytes: The bytes of all tensors.
        seconds: How long writing took.
        digest: `checkpoint_digest` of the whole.
        fingerprint: That of the whole.
        shards: The names of the weight files.
        reused: How many of them an earlier, interrupted run had finished.
    """

    parameters: int
    tensors: int
    nbytes: int
    seconds: float
    digest: str
    fingerprint: str
    shards: tuple[str, ...]
    reused: int

    @property
    def gb_per_s(self) -> float:
        """Gigabytes of tensors a second."""
        return self.nbytes / max(self.seconds, 1e-9) / 1e9


def write_checkpoint(
    job: Job,
    out: Path,
    *,
    device: torch.device,
    backend: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write `job` to the folder `out`, which appears only when all of it is there.

    The work is done in the folder `out` + ".partial", in which nobody else may write. A run cut short leaves it, and
    the next run of the same job continues with the first shard whose bytes are not all there. Only files that this run
    wrote, or found whole, become part of `out`.

    Args:
        job: What to write.
        out: The folder to make.
        device: Where the values are computed. It changes none of them.
        backend: Who computes them; the device's own where None. It changes none of them.
        overwrite: Replace the checkpoint that `out` is now, and discard the unfinished run of another job.
        progress: Called with the number of bytes of each piece that has been written.

    Raises:
        UsageError: `out` exists, or an unfinished run of another job is in its place, and `overwrite` is False; another
            process is at work, or something that is not of a run is in the way.
        CheckpointError: The disk has no room for it. A tensor came out with other bytes than the record promises, or a
            file beside the weights has a name that none of a checkpoint has.
        OSError: The disk refuses.
    """
    begin = time.perf_counter()
    shards = split(job.entries, job.settings["max_shard_size"])
    names = _names(job, shards)
    digests: dict[str, str] = {}
    fingerprints: dict[str, str] = {}
    reused = 0
    with Workspace(out, overwrite) as workspace:
        workspace.open(job.identity(), names)
        todo = []
        for shard in shards:
            found = workspace.finished(shard.name, shard.extents())
            if found is None:
                todo.append(shard)
                continue
            reused += 1
            fingerprints |= fingerprint(workspace.folder / shard.name, progress=False).tensors
            if progress is not None:
                progress(shard.nbytes)
            _compare(job, found, workspace)
            digests |= found
        _check_room(out, workspace, sum(shard.nbytes for shard in todo), reused)
        with Making(job, todo, device, backend) as making:
            for shard in todo:
                write_file(workspace.folder / shard.name, _parts(shard, making, progress))
                made = making.digests(shard)
                workspace.mark_finished(shard.name, made)
                _compare(job, made, workspace)
                digests |= made
            fingerprints |= making.fingerprints
        whole = Fingerprint.of(fingerprints)
        _write_companions(job, shards, digests, whole, workspace.folder)
        workspace.publish(names)
    digest = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in job.entries}, digests)
    seconds = time.perf_counter() - begin
    written = tuple(shard.name for shard in shards)
    return Written(job.parameters, len(job.entries), job.nbytes, seconds, digest, whole.total, written, reused)


def _names(job: Job, shards: list[Shard]) -> list[str]:
    """All files of the checkpoint.

    Raises:
        CheckpointError: Two have one name.
    """
    names = [*(shard.name for shard in shards), INDEX_NAME, *job.settings["files"], RECORD_NAME]
    taken = {INDEX_NAME, RECORD_NAME, *(shard.name for shard in shards)} & set(job.settings["files"])
    if taken:
        raise CheckpointError(f"{min(taken)!r} cannot be a file beside the weights; it is one that is written anyway")
    if len(shards) == 1:
        names.remove(INDEX_NAME)
    return names


def _check_room(out: Path, workspace: Workspace, nbytes: int, reused: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        CheckpointError: It has not.
    """
    free = shutil.disk_usage(workspace.folder).free
    if nbytes > free:
        if not reused:
            workspace.discard(free=True)
        raise CheckpointError(
            f"{out} needs {format_size(nbytes)} more, and its disk has {format_size(free)} free: "
            "choose another disk, or a narrower --dtype"
        )


def _parts(shard: Shard, making: Making, progress: Progress | None) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in order."""
    yield encode_header(shard.extents())
    for part in making.parts(shard):
        yield part
        if progress is not None:
            progress(len(part))


def _compare(job: Job, digests: dict[str, str], workspace: Workspace) -> None:
    """Hold `digests` against those that a record promises."""
    different = [name for name, digest in digests.items() if job.expected and job.expected.get(name) != digest]
    if different:
        workspace.discard(free=True)  # no run of this job could go on with it
        names = ", ".join(different[:3]) + (" and others" if len(different) > 3 else "")
        raise CheckpointError(f"{names}: other bytes than the record promises; it was made with other versions")


def _write_companions(
    job: Job, shards: list[Shard], digests: dict[str, str], fingerprint: Fingerprint, folder: Path
) -> None:
    """Write all files but the weights; the record, which says that everything is there, last."""
    texts = {}
    if len(shards) > 1:
        weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
        texts[INDEX_NAME] = index_text(weight_map, job.parameters, job.nbytes)
    texts |= job.settings["files"]
    texts[RECORD_NAME] = record_text(job.settings, job.entries, digests, fingerprint)
    for name, text in texts.items():
        write_file(folder / name, [text.encode()])


def check_device(name: str | None, backend: str | None) -> torch.device:
    """The device called `name`, CUDA where there is one if None, after checking that `backend` writes to it.

    Raises:
        UsageError: It is no device, there is no such backend, or the two do not go together.
        CheckpointError: The machine has no such device, or a package is missing.
    """
    try:
        return checked_device(name or ("cuda" if torch.cuda.is_available() else "cpu"), backend)
    except (MissingDeviceError, ImportError) as error:
        raise CheckpointError(str(error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
