"""Pieces: what a file's tensors hold, in the order of their bytes, as much at a time as a buffer takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tritonparam.checkpoint import Extent, in_groups, lay_out, shard_names
from tritonparam.cli.init.job import Job
from tritonparam.cli.record import Entry
from tritonparam.plan import Box, Plan, cut_boxes


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint: its name and its tensors."""

    name: str
    entries: tuple[Entry, ...]

    def extents(self) -> dict[str, Extent]:
        """Where its tensors lie in it."""
        return lay_out({entry.name: (entry.dtype, entry.shape) for entry in self.entries})

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(entry.nbytes for entry in self.entries)


def split(entries: tuple[Entry, ...], max_size: int) -> list[Shard]:
    """Distribute `entries`, in order, over files of at most `max_size` bytes; a larger tensor gets its own."""
    groups = in_groups(entries, max_size)
    return [Shard(name, tuple(group)) for name, group in zip(shard_names(len(groups)), groups, strict=True)]


class Part(NamedTuple):
    """Elements of one tensor that follow each other in its file.

    Attributes:
        entry: The tensor.
        box: The elements.
        start, stop: Where in the piece its bytes begin and end.
    """

    entry: Entry
    box: Box
    start: int
    stop: int


def pieces_of(shard: Shard, size: int) -> Iterator[list[Part]]:
    """The pieces of at most `size` bytes that are, one after the other, the tensors of `shard` as its file has them.

    Args:
        shard: Any; tensors without elements are in no piece.
        size: At least that of an element.
    """
    by_name = {entry.name: entry for entry in shard.entries}
    piece: list[Part] = []
    for name in shard.extents():
        entry = by_name[name]
        for box in cut_boxes(entry.shape, size // entry.dtype.itemsize) if entry.count else ():
            start = piece[-1].stop if piece else 0
            nbytes = math.prod(box.sizes) * entry.dtype.itemsize
            if piece and start + nbytes > size:
                yield piece
                piece, start = [], 0
            piece.append(Part(entry, box, start, start + nbytes))
    if piece:
        yield piece


class Source:
    """Where the values of a job's pieces come from. Beside the pieces, it holds one tensor at most.

    That is one that has to be made whole: a tensor that is replayed, or whose numbers are those of another place.

    Args:
        job: What the pieces are of.
        device: Where values are computed. It changes none of them.
        backend: Who computes them; the device's own where None. It changes none of them.
    """

    def __init__(self, job: Job, device: torch.device, backend: str | None) -> None:
        self._job, self._device, self._backend = job, device, backend
        self._whole: Mapping[str, torch.Tensor] = {}

    def write(self, piece: Sequence[Part], out: torch.Tensor) -> None:
        """Write the values of `piece` into `out`, bytes on the device; those with laws in one plan.

        Raises:
            ValueError, ImportError: As for `Plan`.
            RuntimeError: As for a replay.
        """
        fills = []
        for part in piece:
            entry = part.entry
            values = out[part.start : part.stop].view(entry.dtype).view(part.box.sizes)
            if _can_be_cut(entry):
                fills += self._job.fills(entry, values, part.box)
            else:
                values.copy_(part.box.of(self._made_whole(entry)))
        Plan(fills, self._backend).run()

    def _made_whole(self, entry: Entry) -> torch.Tensor:
        if entry.name not in self._whole:
            self._whole = {}  # the one before goes first
            if entry.laws is None:
                made = self._job.replays[entry.name].replay(self._job.seed, self._device)
            else:
                made = torch.empty(entry.shape, dtype=entry.dtype, device=self._device)
                Plan(self._job.fills(entry, made), self._backend).run()
            self._whole = {entry.name: made}
        return self._whole[entry.name]


def _can_be_cut(entry: Entry) -> bool:
    """Whether any box of it can be made without the rest."""
    return entry.laws is not None and not entry.origins
