"""Saving: files that transformers and torch's distributed checkpoint read, through one staging buffer."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tritonparam.checkpoint.assembly import OPTION, Assembly
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import INDEX_NAME, METADATA_KEY, encode_header, lay_out, sync_folder, write_file
from tritonparam.checkpoint.outgoing import ByteStream, Outgoing
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.shards import in_groups, index_text, shard_names
from tritonparam.checkpoint.stored import OFFSETS_KEY, SHAPE_KEY, SHARDING_KEY
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
) -> SaveReport:
    """Write `target` to safetensors files that `load`, transformers and torch's distributed checkpoint read.

    The folder appears only when all of it is there; a save that is cut short leaves a folder beside it whose name ends
    in ".partial", which the next one discards. Beside the tensors, memory holds one staging buffer of 32 MiB. Lazy
    Parameters stay lazy: they are drawn one after the other, on the way.

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
        ValueError: A module is deferred (`materialize` it first), mapping gives two tensors one name or one that no
            file can have, a tensor has no strided memory of its own, a size, rank or dtype is out of range, or a tensor
            is a box and rank and world_size are unknown.
        tritonparam.checkpoint.CheckpointError: `path` exists and may not be replaced, another process is writing
            it, or safetensors has no such dtype.
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
        raise TypeError(f"overwrite must be a bool, got {overwrite!r}")
    out, limit, kept = Path(path), _size(max_shard_size), _strings(metadata)
    cast = float_dtype(dtype)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        with REALIZING:
            slots = [slot for slot in slots_of(target) if slot.expected]
            _check_real(slots)
            outgoing = {slot: _outgoing(slot, names[0], cast) for slot, names in rename(slots, mapping).items()}
        team = _team(slots, rank, world_size)
        if team is None:
            mine = list(outgoing.values())
        elif out.suffix == ".safetensors":
            raise ValueError(f"path must be a folder where several processes save together, got {str(path)!r}")
        else:
            mine = [each for slot, each in outgoing.items() if _is_mine(slot, team[0])]
        with ProgressBar.of("saving", sum(each.nbytes for each in mine), progress) as bar:
            if out.suffix == ".safetensors":
                return _save_file(mine, out, kept, overwrite, bar.advance)
            rank_here, processes = team or (0, 1)
            first = rank_here == 0
            texts = _companions(target, mine if team is None else outgoing.values()) if first else {}
            shards = _shards(mine, limit, None if team is None else rank_here)
            if team is None and len(shards) > 1:
                files = {each.name: name for name, group in shards.items() for each in group}
                count = sum(math.prod(each.box.sizes) for each in mine)
                texts[INDEX_NAME] = index_text(files, count, sum(each.nbytes for each in mine))
            together = team is not None and rank is None and world_size is None
            assembly = Assembly(out, overwrite, rank_here, processes)

            def laid_out() -> dict[str, _File]:
                return {name: _File.of(group, kept, team is not None) for name, group in shards.items()}

            def write(files: Mapping[str, _File]) -> None:
                for name, file in files.items():
                    write_file(assembly.folder / name, file.parts(), bar.advance)
                for name, text in texts.items():
                    write_file(assembly.folder / name, [text.encode()])

            complete = _assemble(assembly, {"metadata": kept}, laid_out, write, first, together)
    names = tuple(each.name for group in shards.values() for each in group)
    return SaveReport(out, names, tuple(shards), sum(each.nbytes for each in mine), complete)


def _size(max_shard_size: int | str) -> int:
    if isinstance(max_shard_size, bool) or not isinstance(max_shard_size, (int, str)):
        raise TypeError(f"max_shard_size must be an int or a string, got {max_shard_size!r}")
    try:
        return parse_size(str(max_shard_size), "max_shard_size")
    except UsageError as error:
        raise ValueError(str(error)) from None


def _strings(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping) or not all(isinstance(each, str) for row in metadata.items() for each in row):
        raise TypeError(f"metadata must map strings to strings, got {metadata!r}")
    if not all(_is_text(each) for row in metadata.items() for each in row):
        raise ValueError(f"metadata must be text, got {metadata!r}")
    if any(key in metadata for key in _RESERVED):
        raise ValueError(f"metadata must not have the keys {', '.join(_RESERVED)}, got {metadata!r}")
    return dict(metadata)


def _is_text(string: str) -> bool:
    """Whether there are bytes for it: there are none for half a surrogate pair."""
    return string.encode(errors="ignore").decode() == string


def _check_real(slots: Iterable[Slot]) -> None:
    deferred = [slot.name for slot in slots if slot.declaration is not None]
    if deferred:
        raise ValueError(f"target must have values: materialize it first; deferred are {listed(deferred)}")


def _outgoing(slot: Slot, name: str, cast: torch.dtype | None) -> Outgoing:
    if name == METADATA_KEY or not _is_text(name):
        raise ValueError(f"target must have names that a file can have, got {name!r}")
    dtype = cast if cast is not None and slot.dtype.is_floating_point else slot.dtype
    if slot.lazy is None:
        local = slot.values
        if local is None:
            raise ValueError(f"target must have values, and {slot.name!r} has none")
        try:
            check_memory("target", local)
        except ValueError as error:
            raise ValueError(f"{slot.name!r} cannot be saved: {error}") from None
        return Outgoing(name, dtype, slot.box, slot.shape, lambda: local)
    draft: Tensor = lazy_like(slot.lazy)
    return Outgoing(name, dtype, slot.box, slot.shape, lambda: _drawn(draft), drawn=True)


def _drawn(draft: Tensor) -> torch.Tensor:
    """The values of a lazy tensor, which stays lazy."""
    once = lazy_like(draft)
    realize([once])
    return once.torch


def _team(slots: Sequence[Slot], rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """This process and how many there are; None where it saves alone."""
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size go together, got {rank!r} and {world_size!r}")
    if rank is not None and world_size is not None:
        for argument, value in (("rank", rank), ("world_size", world_size)):
            if type(value) is not int:
                raise TypeError(f"{argument} must be an int, got {value!r} of type {type(value).__name__}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size), got {rank} and {world_size}")
    elif torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    boxes = [slot.name for slot in slots if not slot.is_whole]
    if rank is not None and world_size is not None:
        return (rank, world_size) if world_size > 1 or boxes else None
    if boxes:
        raise ValueError(
            "rank and world_size must be given where tensors are boxes of larger ones and torch.distributed is not "
            f"initialized; such are {listed(boxes)}"
        )
    return None


def _is_mine(slot: Slot, rank: int) -> bool:
    """Whether process `rank` is to write what it holds of a tensor."""
    mine = slot.mine if slot.mine is not None else rank == 0 or not slot.is_whole
    return mine and (bool(math.prod(slot.box.sizes)) or not math.prod(slot.shape))


def _shards(mine: Sequence[Outgoing], limit: int, rank: int | None) -> dict[str, list[Outgoing]]:
    """The files of this process, by name."""
    if rank is not None and not mine:
        return {}
    groups = in_groups(mine, limit)
    if rank is None:
        return dict(zip(shard_names(len(groups)), groups, strict=True))
    total = len(groups)
    names = (f"shard-{rank + 1:05}-model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1))
    return dict(zip(names, groups, strict=True))


@dataclass(frozen=True)
class _File:
    """A file that can be written: its header, and its tensors as they follow each other."""

    header: bytes
    tensors: tuple[Outgoing, ...]

    @classmethod
    def of(cls, tensors: Iterable[Outgoing], kept: Mapping[str, str], sharded: bool) -> _File:
        """Lay out `tensors`.

        Raises:
            CheckpointError: safetensors has no such dtype.
        """
        by_name = {each.name: each for each in tensors}
        extents = lay_out({name: (each.dtype, each.box.sizes) for name, each in by_name.items()})
        metadata = dict(kept)
        if sharded:
            rows = {
                name: {OFFSETS_KEY: list(each.box.offsets), SHAPE_KEY: list(each.shape)}
                for name, each in by_name.items()
            }
            metadata |= {SHARDING_KEY: json.dumps(rows), "DCP_VERSION": "1.0"}
        return cls(encode_header(extents, metadata), tuple(by_name[name] for name in extents))

    def parts(self) -> Iterator[bytes | memoryview]:
        """Its bytes, in order."""
        yield self.header
        yield from ByteStream().parts(self.tensors)


def _save_file(
    mine: Sequence[Outgoing], out: Path, kept: Mapping[str, str], overwrite: bool, advance: Callable[[int], None]
) -> SaveReport:
    """Write everything to the file `out`, which is as before until then."""
    if out.is_dir():
        raise UsageError(f"{out} exists and is a folder")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; use {OPTION} to replace it")
    file = _File.of(mine, kept, False)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f"{out.name}.{uuid.uuid4().hex}")
    write_file(draft, file.parts(), advance)
    draft.replace(out)
    sync_folder(out.parent)
    return SaveReport(out, tuple(each.name for each in mine), (out.name,), sum(each.nbytes for each in mine), True)


def _assemble(
    assembly: Assembly,
    identity: Mapping[str, Any],
    laid_out: Callable[[], Mapping[str, _File]],
    write: Callable[[Mapping[str, _File]], None],
    first: bool,
    together: bool,
) -> bool:
    """Write this process's part, and publish all parts if it is the last; between barriers where there is a group."""
    barrier: Callable[[], object] = torch.distributed.barrier if together else lambda: None
    complete = False
    try:
        try:
            files = laid_out()
            if first or not together:
                assembly.begin(identity, fresh=together)
        finally:
            barrier()
        if not first and together:
            assembly.begin(identity)
        write(files)
        complete = assembly.finish()
    finally:
        assembly.release()
        barrier()
        complete = not assembly.root.exists() if together else complete
        barrier()  # only now may one of them begin the next save
    if together and not complete:
        raise CheckpointError(f"{assembly.out} is not whole: another process could not write its part")
    return complete


def _companions(target: object, tensors: Iterable[Outgoing]) -> dict[str, str]:
    """The configuration of a transformers model, as its own `save_pretrained` writes it."""
    config = getattr(target, "config", None)
    to_json = getattr(config, "to_json_string", None)
    if not isinstance(target, torch.nn.Module) or not callable(to_json):
        return {}
    values = json.loads(to_json())
    values["architectures"] = [type(target).__name__.removeprefix("FSDP")]  # which fully_shard puts before it
    dtypes = {each.dtype for each in tensors if each.dtype.is_floating_point}
    if len(dtypes) == 1:
        values["dtype" if "torch_dtype" not in values else "torch_dtype"] = dtype_name(dtypes.pop())
    return {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}
