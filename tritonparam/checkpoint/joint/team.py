"""The processes that save one checkpoint without a word to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonparam._arguments import got, shown
from tritonparam.checkpoint.targets import Slot, listed


@dataclass(frozen=True)
class Team:
    """The processes that save one checkpoint.

    Attributes:
        rank, size: This process, and how many there are.
        alone: Whether it writes all there is, so that nothing in its files has to say which box of which whole it is.
    """

    rank: int = 0
    size: int = 1
    alone: bool = True

    @classmethod
    def of(cls, slots: Iterable[Slot], rank: int | None, world_size: int | None) -> Team:
        """The team that saves what `slots` say, rank and world_size as for `save`; None for one that saves alone.

        Raises:
            TypeError, ValueError: As for `save`.
        """
        if (rank is None) != (world_size is None):
            raise ValueError(f"rank and world_size go together, got {shown(rank)} and {shown(world_size)}")
        boxes = [slot.name for slot in slots if not slot.is_whole]
        if rank is not None and world_size is not None:
            for argument, value in (("rank", rank), ("world_size", world_size)):
                if type(value) is not int:
                    raise TypeError(f"{argument} must be an int, {got(value)}")
            if not 0 <= rank < world_size:
                raise ValueError(f"rank must be in [0, world_size), got {rank} and {world_size}")
            return cls(rank, world_size, False) if world_size > 1 or boxes else cls()
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
        return mine and (slot.numel > 0 or 0 in slot.shape)
