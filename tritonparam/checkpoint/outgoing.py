"""What a save writes: which process which tensors, in which files, as which bytes, through one staging buffer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tritonparam._arguments import got, shown
from tritonparam.checkpoint.files import INDEX_NAME, encode_header, lay_out
from tritonparam.checkpoint.shards import in_groups, index_text, shard_names
from tritonparam.checkpoint.stored import OFFSETS_KEY, SHAPE_KEY, SHARDING_KEY
from tritonparam.checkpoint.targets import Slot, listed
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
class Team:
    """The processes that save one checkpoint.

    Attributes:
        rank, size: This process, and how many there are.
        alone: Whether it writes all there is, so that nothing in its files has to say which box of which whole it is.
        in_step: Whether they wait for each other, at barriers of torch.distributed.
    """

    rank: int = 0
    size: int = 1
    alone: bool = True
    in_step: bool = False

    @classmethod
    def of(cls, slots: Iterable[Slot], rank: int | None, world_size: int | None) -> Team:
        """The team that saves what `slots` say, rank and world_size as for `save`."""
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size go together, got {shown(rank)} and {shown(world_size)}")
        in_step = False
        if rank is not None and world_size is not None:
            for argument, value in (("rank", rank), ("world_size", world_size)):
                if type(value) is not int:
                    raise TypeError(f"{argument} must be an int, {got(value)}")
            if not 0 <= rank < world_size:
                raise ValueError(f"rank must be in [0, world_size), got {rank} and {world_size}")
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
            in_step = True
        boxes = [slot.name for slot in slots if not slot.is_whole]
        if rank is not None and world_size is not None:
            return cls(rank, world_size, False, in_step) if world_size > 1 or boxes else cls()
        if boxes:
            raise ValueError(
                "rank and world_size must be given where tensors are boxes of larger ones and torch.distributed is not "
                f"initialized; such are {listed(boxes)}"
            )
        return cls()

    def writes(self, slot: Slot) -> bool:
        """Whether this process is to write what it holds of a tensor."""
        if self.alone:
            return True
        mine = slot.mine if slot.mine is not None else self.rank == 0 or not slot.is_whole
        return mine and (bool(math.prod(slot.box.sizes)) or not math.prod(slot.shape))

    def wait(self) -> None:
        """Wait until all are here, if they are in step."""
        if self.in_step:
            torch.distributed.barrier()


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
