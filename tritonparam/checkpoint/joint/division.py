"""Who writes what of a checkpoint that several processes save: files as one process makes them, or shards of boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.joint.offer import BOXES, WHOLE, Held, Offer, compared
from tritonparam.checkpoint.shards import in_groups, shard_names


@dataclass(frozen=True)
class File:
    """A safetensors file: its name, its tensors, and the rank that writes it."""

    name: str
    tensors: tuple[str, ...]
    writer: int


@dataclass(frozen=True)
class Division:
    """How the work is divided.

    Attributes:
        files: All files, where every tensor is held whole by somebody; None where some are held in boxes.
        writers: Who writes each tensor that is held whole; others are written by whoever holds boxes of them.
        limit: The most bytes in a file.
        numel, nbytes: Of all tensors.
    """

    files: Sequence[File] | None
    writers: Mapping[str, int]
    limit: int
    numel: int
    nbytes: int

    @property
    def weight_map(self) -> dict[str, str]:
        """The file of each tensor."""
        return {name: file.name for file in self.files or () for name in file.tensors}

    def writes(self, rank: int, name: str, mine: bool | None) -> bool:
        """Whether process `rank` writes what it holds of the tensor `name`.

        Args:
            rank: The process.
            name: As in the checkpoint.
            mine: Whether it is the first of those that hold the same boxes; None where nobody knows.
        """
        return self.writers[name] == rank if name in self.writers else mine is not False


def divide(offers: Sequence[Offer], limit: int) -> Division:
    """The same division in all processes.

    Where all tensors are whole, the files are those that one process would write, each written by one of those that
    hold its tensors, so that they write about as many bytes each. Tensors that other processes hold are in other files.

    Args:
        offers: Those of all processes, in order.
        limit: The most bytes in a file; a larger tensor has a file to itself.

    Raises:
        CheckpointError: The processes disagree, or nobody holds a tensor.
    """
    held = compared(offers)
    holders = {name: tuple(r for r, each in ranks.items() if each.how == WHOLE) for name, ranks in held.items()}
    in_boxes = [name for name, ranks in held.items() if any(each.how == BOXES for each in ranks.values())]
    lost = [name for name, ranks in holders.items() if not ranks and name not in set(in_boxes)]
    if lost:
        raise CheckpointError(f"no process holds values of {', '.join(lost[:5])}")
    tensors = {name: next(iter(ranks.values())) for name, ranks in held.items()}
    numel = sum(math.prod(each.shape) for each in tensors.values())
    nbytes = sum(each.nbytes for each in tensors.values())
    first = {name: ranks[0] for name, ranks in holders.items() if ranks}
    if in_boxes:
        return Division(None, first, limit, numel, nbytes)
    files = _files(tensors, holders, len(offers), limit)
    return Division(files, {name: file.writer for file in files for name in file.tensors}, limit, numel, nbytes)


def _files(
    tensors: Mapping[str, Held], holders: Mapping[str, tuple[int, ...]], world: int, limit: int
) -> Sequence[File]:
    """The files of tensors that are whole, with the ranks that write them."""
    by_holders: dict[tuple[int, ...], list[Held]] = {}
    for name, each in tensors.items():
        by_holders.setdefault(holders[name], []).append(each)
    groups = [(ranks, group) for ranks, rows in by_holders.items() for group in in_groups(rows, limit)]
    groups = groups or [((0,), [])]
    loads = [0] * world
    writers = [0] * len(groups)
    sizes = [sum(each.nbytes for each in group) for _, group in groups]
    for number in sorted(range(len(groups)), key=lambda each: -sizes[each]):
        writers[number] = min(groups[number][0], key=lambda rank: (loads[rank], rank))
        loads[writers[number]] += sizes[number]
    return [
        File(name, tuple(each.name for each in group), writer)
        for name, (_, group), writer in zip(shard_names(len(groups)), groups, writers, strict=True)
    ]
