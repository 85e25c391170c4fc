"""Saving: files that transformers and torch's distributed checkpoint read, through one staging buffer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tritonparam._arguments import shown as briefly
from tritonparam.checkpoint.assembly import OPTION, Assembly
from tritonparam.checkpoint.disk import as_path, replace_file, shown, write_file
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import is_tensor_name, is_text
from tritonparam.checkpoint.outgoing import ByteStream, Outgoing, Part, ShardFile, Team
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.stored import SHARDING_KEY
from tritonparam.checkpoint.targets import Renaming, Slot, Target, listed, rename, slots_of
from tritonparam.checkpoint.units import format_size, parse_size
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

    Where tensors are only boxes of larger ones, several processes save together: each calls this with the same path,
    and writes the boxes that it holds to files of its own, as torch.distributed.checkpoint's HuggingFaceStorageWriter
    does. What a process holds whole is written by rank 0 alone, and what several hold of one DTensor by one of them.
    Processes do not talk to each other, but for three barriers if torch.distributed is initialized and rank is None;
    the last to finish gives the folder its name. (Without barriers, a save of which only some processes had begun, and
    were done, cannot be told from the next one, unless `metadata` differs, say by the step: delete its ".partial"
    folder.)

    Args:
        target: As for `load`; a module that is not deferred.
        path: The folder to make; or, if it ends in ".safetensors", the one file.
        max_shard_size: The most bytes in one file, or a text such as "500MB"; a larger tensor has a file to itself.
        dtype: A floating-point dtype that all floats are cast to; None for their own.
        mapping: From a name here to the name in the checkpoint, as for `load`.
        overwrite: Whether to replace what is there, if it is a checkpoint, once the new one is whole.
        rank, world_size: This process, and how many save together; None for what torch.distributed says. With 0 and 1,
            one process of several saves alone what it holds whole.
        metadata: Strings to keep in the header of every file.
        progress: As for `load`.

    Returns:
        What was written by this process.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: `path` is empty or has a NUL, a module is deferred (`materialize` it first), mapping gives two
            tensors one name or one that no file can have, a tensor has no strided memory of its own, a size, rank or
            dtype is out of range, or a tensor is a box and rank and world_size are unknown.
        tritonparam.checkpoint.CheckpointError: `path` exists and may not be replaced or cannot be a folder or file,
            another process is writing it, what lies where the work is done is not of a save, or safetensors has no
            such dtype.
        OSError: The disk refuses. Then `path` is as before.

    Examples:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = save(torch.nn.Linear(3, 2), f"{folder}/linear", dtype=torch.bfloat16)
        ...     print(report.files, load_file(f"{folder}/linear/model.safetensors")["bias"].dtype)
        ('model.safetensors',) torch.bfloat16
    """
    check_progress(progress)
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite must be a bool, got {briefly(overwrite)}")
    out, limit, kept = as_path(path), _size(max_shard_size), _strings(metadata)
    cast = float_dtype(dtype)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        with REALIZING:
            slots = [slot for slot in slots_of(target) if slot.expected]
            _check_real(slots)
            outgoing = {slot: _outgoing(slot, names[0], cast) for slot, names in rename(slots, mapping).items()}
        team = Team.of(slots, rank, world_size)
        one_file = out.suffix == ".safetensors"
        if one_file and not team.alone:
            raise ValueError(f"path must be a folder where several processes save together, got {briefly(str(path))}")
        part = Part({out.name: list(outgoing.values())}, {}) if one_file else Part.of(target, outgoing, team, limit)
        with ProgressBar.of("saving", part.nbytes, progress) as bar:
            if one_file:
                return _save_file(part, out, kept, overwrite, bar.advance)
            return _save_folder(part, out, team, kept, overwrite, bar.advance)


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


def _outgoing(slot: Slot, name: str, cast: torch.dtype | None) -> Outgoing:
    if not is_tensor_name(name):
        raise ValueError(f"target must have names that a file can have, got {briefly(name)}")
    dtype = cast if cast is not None and slot.dtype.is_floating_point else slot.dtype
    if slot.lazy is None:
        local = slot.values
        if local is None:
            raise ValueError(f"target must have values, and {briefly(slot.name)} has none")
        try:
            check_memory("target", local)
        except ValueError as error:
            raise ValueError(f"{briefly(slot.name)} cannot be saved: {error}") from None
        return Outgoing(name, dtype, slot.box, slot.shape, lambda: local)
    draft: Tensor = lazy_like(slot.lazy)
    return Outgoing(name, dtype, slot.box, slot.shape, lambda: _drawn(draft), drawn=True)


def _drawn(draft: Tensor) -> torch.Tensor:
    """The values of a lazy tensor, which stays lazy."""
    once = lazy_like(draft)
    realize([once])
    return once.torch


def _save_file(
    part: Part, out: Path, kept: Mapping[str, str], overwrite: bool, advance: Callable[[int], None]
) -> SaveReport:
    """Write the one file of `part` to `out`, which is as before until then."""
    file = part.lay_out(kept, boxes=False)[out.name]
    replace_file(out, _parts(file), overwrite, OPTION, advance)
    return _report(part, out, True)


def _save_folder(
    part: Part, out: Path, team: Team, kept: Mapping[str, str], overwrite: bool, advance: Callable[[int], None]
) -> SaveReport:
    """Write `part`, and give the folder its name if all other parts are there; between barriers where there are any."""
    assembly = Assembly(out, overwrite, team.rank, team.size)
    identity = {"metadata": kept}
    complete = False
    try:
        try:
            files = part.lay_out(kept, boxes=not team.alone)
            if team.rank == 0 or not team.in_step:
                assembly.begin(identity, fresh=team.in_step)
        finally:
            team.wait()
        if team.rank != 0 and team.in_step:
            assembly.begin(identity)
        for name, file in files.items():
            write_file(assembly.folder / name, _parts(file), advance)
        for name, text in part.texts.items():
            write_file(assembly.folder / name, [text.encode()])
        complete = assembly.finish([*files, *part.texts])
    except BaseException:
        assembly.abandon()
        raise
    finally:
        assembly.release()
        team.wait()
        complete = not assembly.folder.exists() if team.in_step else complete
        team.wait()  # only now may one of them begin the next save
    if team.in_step and not complete:
        raise CheckpointError(f"{shown(assembly.out)} is not whole: another process could not write its part")
    return _report(part, out, complete)


def _parts(file: ShardFile) -> Iterator[bytes | memoryview]:
    """The bytes of a file, in order."""
    yield file.header
    yield from ByteStream().parts(file.tensors)


def _report(part: Part, out: Path, complete: bool) -> SaveReport:
    return SaveReport(out, tuple(each.name for each in part.tensors), tuple(part.shards), part.nbytes, complete)
