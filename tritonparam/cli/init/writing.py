"""Streaming a checkpoint to disk: one shard in memory at a time, resumable, never half a checkpoint under its name."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from tritonparam.checkpoint import (
    INDEX_NAME,
    RECORD_NAME,
    CheckpointError,
    Extent,
    UsageError,
    encode_header,
    in_groups,
    index_text,
    lay_out,
    shard_names,
    write_file,
)
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.workspace import Workspace
from tritonparam.cli.record import Entry, checkpoint_digest, record_text
from tritonparam.plan import Fill, MissingDeviceError, Plan, checked_device, cut_boxes

PIECE = 1 << 21  # elements: some tenths of a second on a host
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint: its name and its tensors."""

    name: str
    entries: tuple[Entry, ...]

    def extents(self) -> dict[str, Extent]:
        """Where its tensors lie in it."""
        return lay_out({entry.name: (entry.dtype, entry.shape) for entry in self.entries})


@dataclass(frozen=True)
class Written:
    """What a run did.

    Attributes:
        parameters: The number of parameter elements.
        tensors: The number of tensors.
        nbytes: The bytes of all tensors.
        seconds: How long writing took.
        digest: `checkpoint_digest` of the whole.
        shards: The names of the weight files.
        reused: How many of them an earlier, interrupted run had finished.
    """

    parameters: int
    tensors: int
    nbytes: int
    seconds: float
    digest: str
    shards: tuple[str, ...]
    reused: int

    @property
    def gb_per_s(self) -> float:
        """Gigabytes of tensors a second."""
        return self.nbytes / max(self.seconds, 1e-9) / 1e9


def split(entries: tuple[Entry, ...], max_size: int) -> list[Shard]:
    """Distribute `entries`, in order, over files of at most `max_size` bytes; a larger tensor gets its own."""
    groups = in_groups(entries, max_size)
    return [Shard(name, tuple(group)) for name, group in zip(shard_names(len(groups)), groups, strict=True)]


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
        progress: Called with the number of bytes of each piece computed (on a CPU) or written (elsewhere).

    Raises:
        UsageError: `out` exists, or an unfinished run of another job is in its place, and `overwrite` is False; another
            process is at work, or something that is not of a run is in the way.
        CheckpointError: A tensor came out with other bytes than the record promises, or a file beside the weights has a
            name that none of a checkpoint has.
        OSError: The disk refuses.
    """
    begin = time.perf_counter()
    shards = split(job.entries, job.settings["max_shard_size"])
    names = _names(job, shards)
    digests: dict[str, str] = {}
    reused = 0
    with Workspace(out, overwrite) as workspace:
        workspace.open(job.identity(), names)
        for shard in shards:
            found = workspace.finished(shard.name, shard.extents())
            if found is None:
                found = _write_shard(job, shard, workspace, device, backend, progress)
            else:
                reused += 1
                if progress is not None:
                    progress(sum(entry.nbytes for entry in shard.entries))
            try:
                _compare(job, found)
            except CheckpointError:
                workspace.discard(free=True)  # no run of this job could go on with it
                raise
            digests |= found
        _write_companions(job, shards, digests, workspace.folder)
        workspace.publish(names)
    digest = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in job.entries}, digests)
    seconds = time.perf_counter() - begin
    written = tuple(shard.name for shard in shards)
    return Written(job.parameters, len(job.entries), job.nbytes, seconds, digest, written, reused)


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


def _write_shard(
    job: Job, shard: Shard, workspace: Workspace, device: torch.device, backend: str | None, progress: Progress | None
) -> dict[str, str]:
    """Compute one shard, write it and return the digests of its tensors."""
    extents = shard.extents()
    buffer = torch.empty(sum(extent.nbytes for extent in extents.values()), dtype=torch.uint8, device=device)
    # What takes the time is to compute on a host, and to write what a GPU has computed.
    computed, stored = (progress, None) if device.type == "cpu" else (None, progress)
    _compute(job, shard, extents, buffer, backend, computed)
    data = buffer.cpu().numpy().data
    views = {name: data[extent.start : extent.start + extent.nbytes] for name, extent in extents.items()}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        hashed = pool.map(lambda view: hashlib.sha256(view).hexdigest(), views.values())
        write_file(workspace.folder / shard.name, [encode_header(extents), data], stored)
        digests = dict(zip(views, hashed, strict=True))
    workspace.mark_finished(shard.name, digests)
    return digests


def _compute(
    job: Job,
    shard: Shard,
    extents: dict[str, Extent],
    buffer: torch.Tensor,
    backend: str | None,
    progress: Progress | None,
) -> None:
    """Write the values of one shard into `buffer`: tensors with laws in one plan, or step by step to show progress."""
    outs = {}
    for entry in shard.entries:
        extent = extents[entry.name]
        outs[entry.name] = buffer[extent.start : extent.start + extent.nbytes].view(entry.dtype).view(entry.shape)
    fills = [fill for entry in shard.entries for fill in job.fills(entry, outs[entry.name])]
    if progress is None:
        Plan(fills, backend).run()
    else:
        for part in (part for fill in fills for part in _parts(fill)):
            Plan([part], backend).run()
            progress(part.out.nbytes)
    for entry in shard.entries:
        if entry.laws is None:
            outs[entry.name].copy_(job.replays[entry.name].replay(job.seed, buffer.device))
            if progress is not None:
                progress(entry.nbytes)


def _parts(fill: Fill) -> Iterator[Fill]:
    """`fill` as fills of at most PIECE elements each."""
    for box in cut_boxes(fill.out.shape, PIECE):
        offsets = [offset + first for offset, first in zip(fill.offsets, box.offsets, strict=True)]
        yield Fill(box.of(fill.out), fill.law, fill.key, fill.shape, offsets)


def _compare(job: Job, digests: dict[str, str]) -> None:
    """Hold `digests` against those that a record promises."""
    different = [name for name, digest in digests.items() if job.expected and job.expected.get(name) != digest]
    if different:
        names = ", ".join(different[:3]) + (" and others" if len(different) > 3 else "")
        raise CheckpointError(f"{names}: other bytes than the record promises; it was made with other versions")


def _write_companions(job: Job, shards: list[Shard], digests: dict[str, str], folder: Path) -> None:
    """Write all files but the weights; the record, which says that everything is there, last."""
    texts = {}
    if len(shards) > 1:
        weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
        texts[INDEX_NAME] = index_text(weight_map, job.parameters, job.nbytes)
    texts |= job.settings["files"]
    texts[RECORD_NAME] = record_text(job.settings, job.entries, digests)
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
