"""The files of a checkpoint: which tensors go into which, what the files are called, and the texts beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from tritonparam.checkpoint.assembly import Team
from tritonparam.checkpoint.files import INDEX_NAME, WHOLE_NAME, encode_header, lay_out
from tritonparam.checkpoint.outgoing import Outgoing
from tritonparam.checkpoint.stored import OFFSETS_KEY, SHAPE_KEY, SHARDING_KEY
from tritonparam.checkpoint.targets import Slot
from tritonparam.checkpoint.units import dtype_name


class Sized(Protocol):
    """Anything that has a size in bytes."""

    @property
    def nbytes(self) -> int:
        """The size."""


AnySized = TypeVar("AnySized", bound=Sized)


def in_groups(items: Iterable[AnySized], max_size: int) -> list[list[AnySized]]:
    """The items, in order, in groups of at most `max_size` bytes; a larger one gets its own. At least one group."""
    groups: list[list[AnySized]] = [[]]
    filled = 0
    for item in items:
        if groups[-1] and filled + item.nbytes > max_size:
            groups.append([])
            filled = 0
        groups[-1].append(item)
        filled += item.nbytes
    return groups


def shard_names(total: int, rank: int | None = None) -> list[str]:
    """What transformers calls the files of a checkpoint of `total` files.

    Where several processes save together, `rank` has `total` of them, called as torch's distributed checkpoint does.

    Examples:
        >>> shard_names(1), shard_names(2)[0], shard_names(1, rank=3)[0]
        (['model.safetensors'], 'model-00001-of-00002.safetensors', 'shard-00004-model-00001-of-00001.safetensors')
    """
    if total == 1 and rank is None:
        return [WHOLE_NAME]
    prefix = "" if rank is None else f"shard-{rank + 1:05}-"
    return [f"{prefix}model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]


def index_text(files: Mapping[str, str], parameters: int, nbytes: int) -> str:
    """The index of a checkpoint of several files: which file has which tensor."""
    metadata = {"total_parameters": parameters, "total_size": nbytes}
    return json.dumps({"metadata": metadata, "weight_map": dict(files)}, indent=2) + "\n"


@dataclass(frozen=True)
class Part:
    """What this process writes.

    Attributes:
        shards: The tensors of each safetensors file, by its name.
        texts: The other files, by name.
    """

    shards: Mapping[str, Sequence[Outgoing]]
    texts: Mapping[str, str]

    @classmethod
    def of(cls, target: object, outgoing: Mapping[Slot, Outgoing], team: Team, limit: int) -> Part:
        """The part of a folder that this process writes, in safetensors files of at most `limit` bytes.

        Args:
            target: What is saved; a module may have a configuration.
            outgoing: All tensors of it that this process holds.
            team: Who saves.
            limit: A larger tensor has a file to itself.
        """
        mine = [each for slot, each in outgoing.items() if team.writes(slot)]
        groups = in_groups(mine, limit) if mine or team.alone else []
        shards = dict(zip(shard_names(len(groups), None if team.alone else team.rank), groups, strict=True))
        texts = _companions(target, outgoing.values()) if team.rank == 0 else {}
        if team.alone and len(shards) > 1:
            files = {each.name: name for name, group in shards.items() for each in group}
            count = sum(math.prod(each.box.sizes) for each in mine)
            texts[INDEX_NAME] = index_text(files, count, sum(each.nbytes for each in mine))
        return cls(shards, texts)

    @property
    def tensors(self) -> tuple[Outgoing, ...]:
        """All tensors."""
        return tuple(each for group in self.shards.values() for each in group)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(each.nbytes for each in self.tensors)

    def lay_out(self, kept: Mapping[str, str], boxes: bool) -> dict[str, ShardFile]:
        """The safetensors files, by name; arguments and errors as for `ShardFile.of`."""
        return {name: ShardFile.of(group, kept, boxes) for name, group in self.shards.items()}


@dataclass(frozen=True)
class ShardFile:
    """A safetensors file before it is written: its header, and its tensors as they follow each other."""

    header: bytes
    tensors: tuple[Outgoing, ...]

    @classmethod
    def of(cls, tensors: Iterable[Outgoing], kept: Mapping[str, str], boxes: bool) -> ShardFile:
        """Lay out `tensors`.

        Args:
            tensors: Any, of different names.
            kept: Strings for the header.
            boxes: Whether the header says which box of which whole each of them is.

        Raises:
            CheckpointError: safetensors has no such dtype.
        """
        by_name = {each.name: each for each in tensors}
        extents = lay_out({name: (each.dtype, each.box.sizes) for name, each in by_name.items()})
        metadata = dict(kept)
        if boxes:
            rows = {
                name: {OFFSETS_KEY: list(each.box.offsets), SHAPE_KEY: list(each.shape)}
                for name, each in by_name.items()
            }
            metadata |= {SHARDING_KEY: json.dumps(rows), "DCP_VERSION": "1.0"}
        return cls(encode_header(extents, metadata), tuple(by_name[name] for name in extents))


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
