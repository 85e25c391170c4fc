"""Saving: files that transformers and torch's distributed checkpoint read, through one staging buffer."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tritonparam._arguments import shown as briefly
from tritonparam._meeting import ProcessesError
from tritonparam._processes import DEADLINE, Processes, check_deadline
from tritonparam.checkpoint.assembly import OPTION, Assembly
from tritonparam.checkpoint.disk import as_path, replace_file, shown, write_file
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import TORCH_ENDINGS, is_tensor_name, is_text
from tritonparam.checkpoint.joint import BOXES, NOTHING, WHOLE, Held, Offer, Team, divide
from tritonparam.checkpoint.outgoing import ByteStream, Outgoing, Part, ShardFile
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.stored import SHARDING_KEY
from tritonparam.checkpoint.targets import Renaming, Slot, Target, listed, rename, slots_of
from tritonparam.checkpoint.units import dtype_name, format_size, parse_size
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module import recording_paused
from tritonparam.plan import check_memory
from tritonparam.tensor import REALIZING, Tensor, lazy_like, realize

_RESERVED = ("format", SHARDING_KEY, "DCP_VERSION")


@dataclass(frozen=True)
class SaveReport:
    """What `save` wrote.

    Attributes:
        path: The folder or the file.
        tensors: The names, as in the checkpoint, of what this process wrote.
        files: The names of the safetensors files that this process wrote.
        nbytes: The bytes of its tensors.
        complete: Whether all processes had written their part, so that the folder has its name.

    Examples:
        >>> print(SaveReport(Path("model"), ("weight", "bias"), ("model.safetensors",), 24, True))
        model: 2 tensors, 24 B, 1 file
    """

    path: Path
    tensors: tuple[str, ...]
    files: tuple[str, ...]
    nbytes: int
    complete: bool

    def __str__(self) -> str:
        counts = ((len(self.tensors), "tensor"), (len(self.files), "file"))
        tensors, files = (f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
        rest = "" if self.complete else "; other processes have not written theirs"
        return f"{self.path}: {tensors}, {format_size(self.nbytes)}, {files}{rest}"


def save(
    target: Target,
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    dtype: DTypeLike | None = None,
    mapping: Renaming = None,
    overwrite: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: bool | None = None,
    deadline: float = DEADLINE,
) -> SaveReport:
    """Write `target` to safetensors files that `load`, transformers and torch's distributed checkpoint read.

    The folder or file appears only when all of it is there. Until then the work is in a folder beside it whose name
    ends in ".partial", or in a file whose name ends in ".tritonparam-partial". A save of one process that fails or is
    interrupted removes it; the next save removes what one that was killed has left. What is replaced keeps its mode,
    its owner where the system allows, and the symbolic links that lead to it.

    Beside the tensors, memory holds one staging buffer of 32 MiB. Lazy Parameters stay lazy: they are drawn one after
    the other, on the way.

    Tied tensors are written once, under their first name. A folder also has the `config.json` of a module that has a
    transformers configuration, so that `from_pretrained` takes it.

    Where torch.distributed is initialized, all its processes save together: each calls this with the same path. They
    first compare names, shapes, dtypes and arguments, by small messages through the store of the process group; an
    error in one is an error in all, and nothing appears. Then each writes files of its own, and nothing else is sent.

    - What is whole is written once, by one of the processes that hold it, in the files that one process would write;
      processes may hold different tensors, such as the stages of a pipeline.
    - Where tensors are boxes of larger ones (DTensors, FullyShardedDataParallel), each process writes the boxes that it
      holds, as torch.distributed.checkpoint's HuggingFaceStorageWriter does; what several hold is written once.

    With rank and world_size processes say nothing to each other, and the last to finish gives the folder its name; rank
    0 writes what is whole. If a save was abandoned after every process that had begun was done, the next save cannot
    tell it from its own work, unless `metadata` differs (put the step into it): delete its ".partial" folder.

    Args:
        target: As for `load`; a module that is not deferred.
        path: The folder to make; or, if it ends in ".safetensors", the one file.
        max_shard_size: The most bytes in one file, or a text such as "500MB"; a larger tensor has a file to itself.
        dtype: A floating-point dtype that all floats are cast to; None for their own.
        mapping: From a name here to the name in the checkpoint, as for `load`.
        overwrite: Whether to replace what is there, if it is a checkpoint, once the new one is whole.
        rank, world_size: This process, and how many save together without messages; None for all processes of
            torch.distributed, with messages. With 0 and 1, one process of several saves alone what it holds whole.
        metadata: Strings to keep in the header of every file.
        progress: As for `load`.
        deadline: For how many seconds to wait for a process that gives no sign of life.

    Returns:
        What was written by this process.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: `path` is empty, has a NUL or ends as files of torch.save do (.pt, .pth, .bin, .ckpt), a module is
            deferred (`materialize` it first), mapping gives two tensors one name or one that no file can have, a tensor
            has no strided memory of its own, a size, rank or dtype is out of range, a tensor is a box and rank and
            world_size are unknown, or a module under fully_shard is gathered (`reshard` it first).
        tritonparam.CheckpointError: `path` exists and may not be replaced or cannot be a folder or file,
            another process is writing it, what lies where the work is done is not of a save, safetensors has no such
            dtype, or another process of the save failed, disagrees, did not come before the deadline, or is gone.
        OSError: The disk refuses. Then `path` is as before.

    Examples:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = save(torch.nn.Linear(3, 2), f"{folder}/linear", dtype=torch.bfloat16)
        ...     print(report.files, load_file(f"{folder}/linear/model.safetensors")["bias"].dtype)
        ('model.safetensors',) torch.bfloat16
    """
    processes = Processes() if rank is not None and world_size is not None else Processes.of()
    what = f"save to {briefly(str(path) if isinstance(path, (str, Path)) else path)}"

    def prepared() -> _Work:
        check_deadline("deadline", deadline)
        check_progress(progress)
        if not isinstance(overwrite, bool):
            raise TypeError(f"overwrite must be a bool, got {briefly(overwrite)}")
        out, limit, kept = _out(path), _size(max_shard_size), _strings(metadata)
        cast = float_dtype(dtype)
        with REALIZING:
            slots = [slot for slot in slots_of(target) if slot.expected]
            _check_real(slots)
            outgoing = {slot: _outgoing(slot, names[0], cast) for slot, names in rename(slots, mapping).items()}
        told = rank is None and world_size is None and processes.is_group
        team = Team.of(slots, *((processes.rank, processes.size) if told else (rank, world_size)))
        if out.suffix == ".safetensors" and not team.alone:
            raise ValueError(f"path must be a folder where several processes save together, got {briefly(str(path))}")
        return _Work(target, outgoing, team, out, limit, kept, overwrite)

    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        if processes.size > 1:
            try:
                return _save_together(prepared, processes, what, deadline, progress)
            except ProcessesError as error:
                raise CheckpointError(str(error)) from None
        work = prepared()
        if work.out.suffix == ".safetensors":
            return _save_file(work, progress)
        return _save_folder(work, progress)


@dataclass(frozen=True)
class _Boxes:
    """A tensor as it is in the checkpoint: its name, its dtype, and the boxes of it that are held here."""

    name: str
    dtype: torch.dtype
    tensors: Sequence[Outgoing]

    def held(self, slot: Slot) -> Held:
        """What the others have to know of it."""
        how = WHOLE if slot.is_whole else BOXES if slot.numel else NOTHING
        nbytes = math.prod(slot.shape) * self.dtype.itemsize
        return Held(self.name, dtype_name(self.dtype), slot.shape, nbytes, how)


@dataclass(frozen=True)
class _Work:
    """The checked arguments of a save.

    Attributes:
        target, out, limit, kept, overwrite: What, where, the most bytes of a file, strings for headers, and whether.
        outgoing: The boxes that are held here of each tensor.
        team: Who saves.
    """

    target: object
    outgoing: Mapping[Slot, _Boxes]
    team: Team
    out: Path
    limit: int
    kept: Mapping[str, str]
    overwrite: bool

    def offer(self) -> Offer:
        """What the others have to know of it."""
        settings = {
            "path": str(self.out),
            "max_shard_size": self.limit,
            "metadata": self.kept,
            "overwrite": self.overwrite,
        }
        return Offer(settings, [boxes.held(slot) for slot, boxes in self.outgoing.items()])


def _out(path: str | os.PathLike[str]) -> Path:
    out = as_path(path)
    if out.suffix in TORCH_ENDINGS:
        raise ValueError(
            f"path must be a folder to make, or end in .safetensors, which is what save writes, got "
            f"{briefly(str(path))}: say {out.stem[:100] + '.safetensors'!r}, or write torch's own format by torch.save"
        )
    return out


def _size(max_shard_size: int | str) -> int:
    if isinstance(max_shard_size, bool) or not isinstance(max_shard_size, (int, str)):
        raise TypeError(f"max_shard_size must be an int or a string, got {briefly(max_shard_size)}")
    try:
        return parse_size(str(max_shard_size), "max_shard_size")
    except UsageError as error:
        raise ValueError(str(error)) from None
    except ValueError:  # of an int that Python does not write out
        raise ValueError(f"max_shard_size must be a size in bytes, got {briefly(max_shard_size)}") from None


def _strings(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping) or not all(isinstance(each, str) for row in metadata.items() for each in row):
        raise TypeError(f"metadata must map strings to strings, got {briefly(metadata)}")
    if not all(is_text(each) for row in metadata.items() for each in row):
        raise ValueError(f"metadata must be text, got {briefly(metadata)}")
    if any(key in metadata for key in _RESERVED):
        raise ValueError(f"metadata must not have the keys {', '.join(_RESERVED)}, got {briefly(metadata)}")
    return dict(metadata)


def _check_real(slots: Iterable[Slot]) -> None:
    deferred = [slot.name for slot in slots if slot.declaration is not None]
    if deferred:
        raise ValueError(f"target must have values: materialize it first; deferred are {listed(deferred)}")


def _outgoing(slot: Slot, name: str, cast: torch.dtype | None) -> _Boxes:
    """What a tensor is called in the checkpoint, its dtype there, and the boxes of it that are held here."""
    if not is_tensor_name(name):
        raise ValueError(f"target must have names that a file can have, got {briefly(name)}")
    dtype = cast if cast is not None and slot.dtype.is_floating_point else slot.dtype
    if slot.lazy is not None:
        draft: Tensor = lazy_like(slot.lazy)
        return _Boxes(name, dtype, [Outgoing(name, dtype, slot.box, slot.shape, lambda: _drawn(draft), drawn=True)])
    local = slot.values
    if local is None:
        raise ValueError(f"target must have values, and {briefly(slot.name)} has none")
    try:
        check_memory("target", local)
    except ValueError as error:
        raise ValueError(f"{briefly(slot.name)} cannot be saved: {error}") from None
    pieces = slot.pieces()
    return _Boxes(
        name, dtype, [Outgoing(name, dtype, box, slot.shape, partial(_same, values)) for box, values in pieces]
    )


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def _drawn(draft: Tensor) -> torch.Tensor:
    """The values of a lazy tensor, which stays lazy."""
    once = lazy_like(draft)
    realize([once])
    return once.torch


def _save_file(work: _Work, progress: bool | None) -> SaveReport:
    """Write all to the one file `out`, which is as before until then."""
    tensors = [each for boxes in work.outgoing.values() for each in boxes.tensors]
    part = Part({work.out.name: tensors}, {}, boxes=False)
    with ProgressBar.of("saving", part.nbytes, progress) as bar:
        file = part.lay_out(work.kept)[work.out.name]
        replace_file(work.out, _parts(file), work.overwrite, OPTION, bar.advance)
    return _report(part, work.out, True)


def _save_folder(work: _Work, progress: bool | None) -> SaveReport:
    """Write this process's part, and give the folder its name if all other parts are there."""
    outgoing = {slot: boxes.tensors for slot, boxes in work.outgoing.items()}
    part = Part.of(work.target, outgoing, work.team, work.limit)
    with ProgressBar.of("saving", part.nbytes, progress) as bar:
        assembly = Assembly(work.out, work.overwrite, work.team.rank, work.team.size)
        try:
            files = part.lay_out(work.kept)
            assembly.begin({"metadata": work.kept})
            complete = _write(part, files, assembly, bar)
        except BaseException:
            assembly.abandon()
            raise
        finally:
            assembly.release()
    return _report(part, work.out, complete)


def _save_together(
    prepared: Callable[[], _Work], processes: Processes, what: str, deadline: Any, progress: bool | None
) -> SaveReport:
    """Write this process's part in step with the others: compare, make the folder, write, and see that all have."""
    works: list[tuple[_Work, Assembly]] = []

    def offered() -> bytes:
        work = prepared()
        works.append((work, Assembly(work.out, work.overwrite, work.team.rank, work.team.size)))
        return work.offer().to_bytes()

    with contextlib.suppress(TypeError, ValueError):  # which `prepared` raises, and is told to all
        processes = replace(processes, deadline=check_deadline("deadline", deadline))
    offers = [Offer.from_bytes(each) for each in processes.exchange(offered, what)]
    work, assembly = works[0]
    identity = {"metadata": work.kept}

    def begun() -> tuple[Part, dict[str, ShardFile]]:
        outgoing = {slot: boxes.tensors for slot, boxes in work.outgoing.items()}
        part = Part.of_division(work.target, outgoing, processes.rank, divide(offers, work.limit))
        files = part.lay_out(work.kept)
        if processes.rank == 0:
            assembly.begin(identity, fresh=True)
        return part, files

    def written() -> bytes:
        try:
            with ProgressBar.of("saving", part.nbytes, progress) as bar:
                if processes.rank != 0:
                    assembly.begin(identity, joining=True)
                return b"complete" if _write(part, files, assembly, bar) else b""
        finally:
            assembly.release()  # before the others hear of it, so that process 0 can remove what is there

    try:
        part, files = processes.together(begun, what)
        if b"complete" not in processes.exchange(written, what):
            raise CheckpointError(f"{shown(assembly.out)} is not whole: the processes do not see each other's files")
    except BaseException:
        if processes.rank == 0:
            assembly.withdraw()
        raise
    return _report(part, work.out, True)


def _write(part: Part, files: Mapping[str, ShardFile], assembly: Assembly, bar: ProgressBar) -> bool:
    """Write all files of this process; whether those of all are there, and the folder has its name."""
    for name, file in files.items():
        write_file(assembly.folder / name, _parts(file), bar.advance)
    for name, text in part.texts.items():
        write_file(assembly.folder / name, [text.encode()])
    return assembly.finish([*files, *part.texts])


def _parts(file: ShardFile) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in order."""
    yield file.header
    yield from ByteStream().parts(file.tensors)


def _report(part: Part, out: Path, complete: bool) -> SaveReport:
    return SaveReport(out, tuple(each.name for each in part.tensors), tuple(part.shards), part.nbytes, complete)
