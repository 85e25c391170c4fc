"""Streaming a checkpoint to disk: a few pieces in memory at a time, resumable, never half of it under its name."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from tritonparam._meeting import ProcessesError
from tritonparam._processes import Processes
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
ALONE = Processes()


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
    processes: Processes = ALONE,
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
        progress: Called with the number of bytes of each piece that this process has written.
        processes: Those that write it together, each the files that are its `share`. The files are the same. An error
            in one of them is an error in all.

    Raises:
        UsageError: `out` exists, or an unfinished run of another job is in its place, and `overwrite` is False; another
            process is at work, or something that is not of a run is in the way.
        CheckpointError: The disk has no room for it. A tensor came out with other bytes than the record promises, or a
            file beside the weights has a name that none of a checkpoint has. Another process failed, or did not come
            before the deadline.
        OSError: The disk refuses.
    """
    begin = time.perf_counter()
    shards = split(job.entries, job.settings["max_shard_size"])
    names = _names(job, shards)
    what = f"init of {str(out)[-200:]}"
    try:
        with contextlib.ExitStack() as stack:

            def opened() -> Workspace:
                workspace = stack.enter_context(Workspace(out, overwrite, processes.rank))
                if processes.rank == 0:
                    workspace.open(job.identity(), names)
                return workspace

            workspace = processes.together(opened, what)
            run = _Run(job, out, workspace, processes, progress)
            found = run.look(what)
            reused = sum(each is not None for each in found.values())
            made = run.make(found, device, backend, what)
            digests, whole = made.digests, Fingerprint.of(made.fingerprints)

            def published() -> None:
                if processes.rank == 0:
                    _write_companions(job, shards, digests, whole, workspace.folder)
                    workspace.publish(names)

            processes.together(published, what)
    except ProcessesError as error:
        raise CheckpointError(str(error)) from None
    processes.part(what)
    digest = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in job.entries}, digests)
    seconds = time.perf_counter() - begin
    written = tuple(shard.name for shard in shards)
    return Written(job.parameters, len(job.entries), job.nbytes, seconds, digest, whole.total, written, reused)


@dataclass(frozen=True)
class _Made:
    """What is known of tensors that are in files, by their names.

    Attributes:
        digests: The sha256 of each.
        fingerprints: The fingerprint of each.
    """

    digests: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.digests)

    def add(self, other: _Made) -> None:
        """Take over what `other` says."""
        self.digests.update(other.digests)
        self.fingerprints.update(other.fingerprints)


@dataclass(frozen=True)
class _Run:
    """This process's share of a run, in a folder that is open; all processes call its functions at the same time."""

    job: Job
    out: Path
    workspace: Workspace
    processes: Processes
    progress: Progress | None

    def look(self, what: str) -> dict[str, _Made | None]:
        """What is in each file, by its name; None for one that is to be written."""

        def looked() -> bytes:
            self.workspace.join()
            found = {}
            for shard in share(self.job, self.processes):
                digests = self.workspace.finished(shard.name, shard.extents())
                found[shard.name] = None if digests is None else asdict(self._read(shard, digests))
            return json.dumps(found).encode()

        found: dict[str, _Made | None] = {}
        for message in self.processes.exchange(looked, what):
            found |= {name: each and _Made(**each) for name, each in json.loads(message).items()}
        return found

    def _read(self, shard: Shard, digests: dict[str, str]) -> _Made:
        made = _Made(digests, dict(fingerprint(self.workspace.folder / shard.name, progress=False).tensors))
        if self.progress is not None:
            self.progress(shard.nbytes)
        return made

    def make(self, found: dict[str, _Made | None], device: torch.device, backend: str | None, what: str) -> _Made:
        """Write this process's files but those that were `found`; what all files of the checkpoint hold."""
        whole = _Made()
        for each in found.values():
            whole.add(each or _Made())
        shards = split(self.job.entries, self.job.settings["max_shard_size"])
        missing = sum(shard.nbytes for shard in shards if found[shard.name] is None)
        todo = [shard for shard in share(self.job, self.processes) if found[shard.name] is None]

        def made() -> bytes:
            new = _Made()
            try:
                self._compare(whole.digests)
                self._check_room(missing, reused=bool(whole))
                with Making(self.job, todo, device, backend) as making:
                    for shard in todo:
                        write_file(self.workspace.folder / shard.name, _parts(shard, making, self.progress))
                        own = making.digests(shard)
                        self.workspace.mark_finished(shard.name, own)
                        self._compare(own)
                        new.add(_Made(own, making.fingerprints))
            finally:
                self.workspace.rest()
            return json.dumps(asdict(new)).encode()

        for message in self.processes.exchange(made, what):
            whole.add(_Made(**json.loads(message)))
        return whole

    def _check_room(self, nbytes: int, reused: bool) -> None:
        """Refuse to begin what the disk has no room for."""
        free = shutil.disk_usage(self.workspace.folder).free
        if nbytes > free:
            if not reused and self.processes.size == 1:
                self.workspace.discard(free=True)
            raise CheckpointError(
                f"{self.out} needs {format_size(nbytes)} more, and its disk has {format_size(free)} free: "
                "choose another disk, or a narrower --dtype"
            )

    def _compare(self, digests: dict[str, str]) -> None:
        """Hold `digests` against those that a record promises."""
        expected = self.job.expected
        different = [name for name, digest in digests.items() if expected and expected.get(name) != digest]
        if different:
            if self.processes.size == 1:  # else others may be at work
                self.workspace.discard(free=True)  # no run of this job could go on with it
            names = ", ".join(different[:3]) + (" and others" if len(different) > 3 else "")
            raise CheckpointError(f"{names}: other bytes than the record promises; it was made with other versions")


def share(job: Job, processes: Processes) -> list[Shard]:
    """The files that this process writes: the largest first, each by who has the fewest bytes yet."""
    loads = [0] * processes.size
    found = []
    shards = split(job.entries, job.settings["max_shard_size"])
    for number, shard in sorted(enumerate(shards), key=lambda each: -each[1].nbytes):
        writer = min(range(processes.size), key=loads.__getitem__)
        loads[writer] += shard.nbytes
        if writer == processes.rank:
            found.append((number, shard))
    return [shard for _, shard in sorted(found, key=lambda each: each[0])]


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


def _parts(shard: Shard, making: Making, progress: Progress | None) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in order."""
    yield encode_header(shard.extents())
    for part in making.parts(shard):
        yield part
        if progress is not None:
            progress(len(part))


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
    except ImportError as error:
        raise CheckpointError(str(error)) from None
    except MissingDeviceError as error:
        raise CheckpointError(f"--{error}") from None
    except ValueError as error:  # about device or backend
        raise UsageError(f"--{error}") from None
