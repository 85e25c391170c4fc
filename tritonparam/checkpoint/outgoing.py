"""What a save writes: which process which tensors, in which files, as which bytes, through one staging buffer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tritonparam.checkpoint.files import INDEX_NAME, encode_header, lay_out
from tritonparam.checkpoint.joint import Division, Team
from tritonparam.checkpoint.shards import in_groups, index_text, shard_names
from tritonparam.checkpoint.stored import OFFSETS_KEY, SHAPE_KEY, SHARDING_KEY
from tritonparam.checkpoint.targets import Slot
from tritonparam.checkpoint.units import dtype_name
from tritonparam.plan import Box, Copy, Plan, cut_boxes

STAGING = 1 << 25  # bytes


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A box of a tensor on its way to a file.

    Attributes:
        name: What it is called there.
        dtype: What it is cast to.
        box, shape: Which box of a whole of which shape it is.
        values: Gives the tensor of the box's shape, wherever it is; it is let go of again.
        drawn: Whether `values` makes it, so that it takes memory.
    """

    name: str
    dtype: torch.dtype
    box: Box
    shape: tuple[int, ...]
    values: Callable[[], torch.Tensor]
    drawn: bool = False

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.box.sizes) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """What this process writes.

    Attributes:
        shards: The tensors of each safetensors file, by its name.
        texts: The other files, by name.
        boxes: Whether the headers say which box of which whole each tensor is.
    """

    shards: Mapping[str, Sequence[Outgoing]]
    texts: Mapping[str, str]
    boxes: bool

    @classmethod
    def of(cls, target: object, outgoing: Mapping[Slot, Sequence[Outgoing]], team: Team, limit: int) -> Part:
        """The part of a folder that this process writes, where processes do not talk to each other.

        Args:
            target: What is saved; a module may have a configuration.
            outgoing: All tensors of it that this process holds.
            team: Who saves.
            limit: The most bytes in a file; a larger tensor has a file to itself.
        """
        mine = [each for slot, boxes in outgoing.items() if team.writes(slot) for each in boxes]
        texts = companions(target, outgoing.values()) if team.rank == 0 else {}
        if not team.alone:
            return cls(in_shards(mine, team.rank, limit), texts, True)
        groups = in_groups(mine, limit)
        shards = dict(zip(shard_names(len(groups)), groups, strict=True))
        if len(shards) > 1:
            files = {each.name: name for name, group in shards.items() for each in group}
            count = sum(math.prod(each.box.sizes) for each in mine)
            texts[INDEX_NAME] = index_text(files, count, sum(each.nbytes for each in mine))
        return cls(shards, texts, False)

    @classmethod
    def of_division(
        cls, target: object, outgoing: Mapping[Slot, Sequence[Outgoing]], rank: int, division: Division
    ) -> Part:
        """The part of a folder that process `rank` writes, where all have agreed on a division; else as `of`."""
        texts = companions(target, outgoing.values()) if rank == 0 else {}
        by_name = {boxes[0].name: boxes for boxes in outgoing.values() if boxes}
        if division.files is None:
            mine = [
                each
                for slot, boxes in outgoing.items()
                for each in boxes
                if (slot.numel or 0 in slot.shape) and division.writes(rank, each.name, slot.mine)
            ]
            return cls(in_shards(mine, rank, division.limit), texts, True)
        shards = {
            file.name: [each for name in file.tensors for each in by_name[name]]
            for file in division.files
            if file.writer == rank
        }
        if rank == 0 and len(division.files) > 1:
            texts[INDEX_NAME] = index_text(division.weight_map, division.numel, division.nbytes)
        return cls(shards, texts, False)

    @property
    def tensors(self) -> tuple[Outgoing, ...]:
        """All tensors."""
        return tuple(each for group in self.shards.values() for each in group)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(each.nbytes for each in self.tensors)

    def lay_out(self, kept: Mapping[str, str]) -> dict[str, ShardFile]:
        """The safetensors files, by name; arguments and errors as for `ShardFile.of`."""
        return {name: ShardFile.of(group, kept, self.boxes) for name, group in self.shards.items()}


def in_shards(boxes: Iterable[Outgoing], rank: int, limit: int) -> dict[str, list[Outgoing]]:
    """The files of one process of several that write boxes: the boxes of one tensor are in different ones."""
    layers: list[list[Outgoing]] = []
    counts: dict[str, int] = {}
    for each in boxes:
        layer = counts[each.name] = counts.get(each.name, -1) + 1
        if layer == len(layers):
            layers.append([])
        layers[layer].append(each)
    groups = [group for layer in layers for group in in_groups(layer, limit)]
    return dict(zip(shard_names(len(groups), rank), groups, strict=True))


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


def companions(target: object, tensors: Iterable[Sequence[Outgoing]]) -> dict[str, str]:
    """The configuration of a transformers model, as its own `save_pretrained` writes it."""
    config = getattr(target, "config", None)
    to_json = getattr(config, "to_json_string", None)
    if not isinstance(target, torch.nn.Module) or not callable(to_json):
        return {}
    values = json.loads(to_json())
    values["architectures"] = [type(target).__name__.removeprefix("FSDP")]  # which fully_shard puts before it
    dtypes = {each.dtype for boxes in tensors for each in boxes if each.dtype.is_floating_point}
    if len(dtypes) == 1:
        values["dtype" if "torch_dtype" not in values else "torch_dtype"] = dtype_name(dtypes.pop())
    return {"config.json": json.dumps(values, indent=2, sort_keys=True) + "\n"}


class ByteStream:
    """A staging buffer on the host, and one on every other device that values come from."""

    def __init__(self, size: int = STAGING) -> None:
        self._size = size
        self._host = torch.empty(size, dtype=torch.uint8, device="cpu")
        self._buffers: dict[torch.device, torch.Tensor] = {self._host.device: self._host}

    def parts(self, tensors: Iterable[Outgoing]) -> Iterator[memoryview]:
        """The bytes of all tensors, one after the other; each part lasts until the next is asked for.

        Args:
            tensors: Those of wider dtypes before those of narrower ones.
        """
        copies: list[tuple[int, torch.Tensor, torch.dtype]] = []
        filled = 0
        for each in tensors:
            if each.drawn and copies and filled + each.nbytes > self._size:
                yield self._staged(copies, filled)
                filled = 0
            values = each.values().detach()
            for box in cut_boxes(each.box.sizes, self._size // each.dtype.itemsize):
                nbytes = math.prod(box.sizes) * each.dtype.itemsize
                if copies and filled + nbytes > self._size:
                    yield self._staged(copies, filled)
                    filled = 0
                copies.append((filled, box.of(values), each.dtype))
                filled += nbytes
            del values
        if copies:
            yield self._staged(copies, filled)

    def _staged(self, copies: list[tuple[int, torch.Tensor, torch.dtype]], filled: int) -> memoryview:
        """Cast and copy all to the staging buffer, and forget them."""
        plan = []
        spans = []
        for start, values, dtype in copies:
            buffer = self._buffers.get(values.device)
            if buffer is None:
                buffer = self._buffers[values.device] = torch.empty(self._size, dtype=torch.uint8, device=values.device)
            end = start + values.numel() * dtype.itemsize
            plan.append(Copy(buffer[start:end].view(dtype).view(values.shape), values))
            spans.append((buffer, start, end))
        Plan(plan).run()
        for buffer, start, end in spans:
            if buffer is not self._host:
                self._host[start:end].copy_(buffer[start:end])
        copies.clear()
        return self._host.numpy().data[:filled]
