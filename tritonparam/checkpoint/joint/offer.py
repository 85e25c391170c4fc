"""What each process that saves says to the others first: its settings, and what it holds of which tensors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tritonparam._arguments import shown
from tritonparam.checkpoint.errors import CheckpointError

WHOLE, BOXES, NOTHING = "whole", "boxes", "nothing"


class Held(NamedTuple):
    """What a process holds of a tensor.

    Attributes:
        name: As in the checkpoint.
        dtype: As in the checkpoint, by name.
        shape: Of the whole.
        nbytes: Of the whole.
        how: WHOLE, BOXES of it or NOTHING.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    how: str


@dataclass(frozen=True)
class Offer:
    """What a process is about to save.

    Attributes:
        settings: The arguments that have to be the same everywhere, by name.
        tensors: What it holds, in its order.
    """

    settings: Mapping[str, Any]
    tensors: Sequence[Held]

    def to_bytes(self) -> bytes:
        """As a message: equal offers are equal bytes."""
        return zlib.compress(json.dumps([self.settings, list(self.tensors)], sort_keys=True).encode())

    @classmethod
    def from_bytes(cls, message: bytes) -> Offer:
        """The offer that a message is."""
        settings, tensors = json.loads(zlib.decompress(message))
        return cls(settings, [Held(name, dtype, tuple(shape), size, how) for name, dtype, shape, size, how in tensors])


def compared(offers: Sequence[Offer]) -> dict[str, dict[int, Held]]:
    """What each process holds of each tensor, by name and rank; names in the order of ranks.

    Raises:
        CheckpointError: They disagree about an argument, or about a tensor of one name.
    """
    first = offers[0].settings
    for rank, offer in enumerate(offers):
        for key, value in offer.settings.items():
            if value != first[key]:
                raise CheckpointError(
                    f"processes that save together must give one {key}, got {shown(first[key])} in process 0 and "
                    f"{shown(value)} in process {rank}"
                )
    held: dict[str, dict[int, Held]] = {}
    for rank, offer in enumerate(offers):
        for each in offer.tensors:
            held.setdefault(each.name, {})[rank] = each
    for name, by_rank in held.items():
        one = next(iter(by_rank))
        for rank, each in by_rank.items():
            if (each.dtype, each.shape) != (by_rank[one].dtype, by_rank[one].shape):
                raise CheckpointError(
                    f"processes that save together must hold one tensor of a name: {shown(name)} is "
                    f"{by_rank[one].dtype} of shape {by_rank[one].shape} in process {one}, and {each.dtype} of shape "
                    f"{each.shape} in process {rank}"
                )
        ways = {each.how: rank for rank, each in by_rank.items()}
        if WHOLE in ways and BOXES in ways:
            raise CheckpointError(
                f"processes that save together must hold a tensor in one way: {shown(name)} is whole in process "
                f"{ways[WHOLE]}, and boxes in process {ways[BOXES]}"
            )
    return held
