"""Processes that hold one model together: which they are, and what they tell each other, a few integers at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._arguments import got

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_DIGEST_BITS = 62  # of what is compared, which is negated too


class Processes:
    """Groups along which everything goes in turn, so that it reaches all: one group, or one for each mesh dimension.

    Args:
        groups: Of torch.distributed, this process in each; none for a process that is alone.
    """

    def __init__(self, groups: Sequence[Any] = ()) -> None:
        self._groups = tuple(groups)

    @classmethod
    def of(cls, group: Any, meshes: Iterable[Any]) -> Processes:
        """Those of `group`; without one, those of the meshes on which tensors are, the largest of which has all.

        Raises:
            TypeError: group is no process group.
            ValueError: This process is not in it; or no mesh has the processes of all others.
        """
        if group is not None:
            return cls([checked_group(group)])
        ranks = {id(mesh): (frozenset(mesh.mesh.flatten().tolist()), mesh) for mesh in meshes}
        largest, mesh = max(ranks.values(), key=lambda each: len(each[0]), default=(frozenset[int](), None))
        if len(largest) <= 1:
            return cls()
        if len(largest) == torch.distributed.get_world_size():
            return cls([torch.distributed.group.WORLD])
        if any(not each <= largest for each, _ in ranks.values()):
            raise ValueError("group must be given where the tensors' meshes are of different processes, got None")
        if mesh is None or mesh.get_coordinate() is None:  # this process holds nothing
            return cls()
        return cls([mesh.get_group(dim) for dim in range(mesh.ndim)])

    @classmethod
    def in_group(cls, group: Any) -> Processes:
        """Those of `group`; without one, all that there are.

        Raises:
            TypeError, ValueError: As for `checked_group`.
        """
        if group is None:
            has_world = torch.distributed.is_available() and torch.distributed.is_initialized()
            return cls([torch.distributed.group.WORLD] if has_world else ())
        return cls([checked_group(group)])

    @property
    def ranks(self) -> list[int]:
        """The global ranks of one group's processes, in its order; [0] of a process that is alone."""
        if self.alone:
            return [0]
        (group,) = self._groups
        return [int(rank) for rank in torch.distributed.get_process_group_ranks(group)]

    @property
    def alone(self) -> bool:
        """Whether there is nobody to tell."""
        return not self._groups

    @property
    def is_first(self) -> bool:
        """Whether this is the one of them that speaks for what all hold."""
        return all(torch.distributed.get_rank(group) == 0 for group in self._groups)

    def agree(self, about: str, what: bytes, error: BaseException | None) -> None:
        """Go on where every process has the same `what` and no error; else raise, on every process.

        Args:
            about: What has to be the same, for the error.
            what: Whatever it is.
            error: Why this process cannot go on, which is raised here.

        Raises:
            ValueError: They do not have the same.
            RuntimeError: Another process could not go on.
        """
        if self.alone:
            if error is not None:
                raise error
            return
        digest = int.from_bytes(hashlib.blake2b(what, digest_size=8).digest(), "little") >> (64 - _DIGEST_BITS)
        told = self._reduced([digest, -digest, int(error is not None)], "MAX")
        if error is not None:
            raise error
        if told[2]:
            raise RuntimeError("another process of the group could not go on: its own error says why")
        if told[0] != -told[1]:
            raise ValueError(f"all processes of the group must have the same {about}, and some have others")

    def add(self, numbers: NDArray[np.uint64]) -> list[list[int]]:
        """The sums over all processes, exact, of numbers of shape [n, k]: that of element (i, j) at [i][j]."""
        if self.alone:
            return [[int(each) for each in row] for row in numbers]
        # As halves, whose sums do not overflow.
        halves = np.stack([numbers & _LOW, numbers >> _HALF]).view(np.int64)
        low, high = np.array(self._reduced(halves.reshape(-1).tolist(), "SUM"), object).reshape(2, *numbers.shape)
        return [[int(each) for each in row] for row in low + (high << 32)]

    def gather(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of every process of the one group, in the order of `ranks`: of shape [processes, *shape]."""
        if self.alone:
            return numbers[None]
        (group,) = self._groups
        device = device_of(group)
        own = torch.from_numpy(np.ascontiguousarray(numbers).view(np.int64)).to(device)
        told = [torch.empty_like(own) for _ in self.ranks]
        torch.distributed.all_gather(told, own, group=group)
        return torch.stack(told).cpu().numpy().view(np.uint64)

    def _reduced(self, numbers: list[int], operation: str) -> list[int]:
        told = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        for group in self._groups:
            told = told.to(device_of(group))
            torch.distributed.all_reduce(told, getattr(torch.distributed.ReduceOp, operation), group=group)
        return [int(each) for each in told.tolist()]


def checked_group(group: Any) -> Any:
    """`group`, if it is a process group that this process is in.

    Raises:
        TypeError: It is none.
        ValueError: This process is not in it.
    """
    available = torch.distributed.is_available()
    if available and group is torch.distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must have this process in it, got one without it")
    if not available or not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, {got(group)}")
    return group


def device_of(group: Any) -> torch.device:
    """Where the tensors are that a group takes: the host if it takes those, else this process's CUDA device."""
    backends = str(torch.distributed.get_backend_config(group))
    if "cpu:" in backends or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
