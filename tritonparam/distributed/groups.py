"""Groups of processes that hold one model together: which they are, and sums of small integers over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._arguments import few
from tritonparam._processes import DEADLINE, Processes, checked_group

Result = TypeVar("Result")
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Groups:
    """Groups along which everything goes in turn, so that it reaches all: one group, or one for each mesh dimension.

    Attributes:
        groups: Of torch.distributed, this process in each; none for a process that is alone.
        ranks: The global ranks of all processes that are reached, in one order everywhere; [0] of one alone.
    """

    groups: tuple[Any, ...] = ()
    ranks: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, group: Any, meshes: Iterable[Any]) -> Groups:
        """Those of `group`; without one, those of the meshes on which tensors are, the largest of which has all.

        Raises:
            TypeError: group is no process group.
            ValueError: This process is not in it; or no mesh has the processes of all others.
        """
        if group is not None:
            return cls.in_group(group)
        distinct = {id(mesh): mesh for mesh in meshes}
        ranks = {number: (frozenset(mesh.mesh.flatten().tolist()), mesh) for number, mesh in distinct.items()}
        largest, mesh = max(ranks.values(), key=lambda each: len(each[0]), default=(frozenset[int](), None))
        if len(largest) <= 1:
            return cls()
        if len(largest) == torch.distributed.get_world_size():
            return cls.in_group(None)
        if any(not each <= largest for each, _ in ranks.values()):
            raise ValueError("group must be given where the tensors' meshes are of different processes, got None")
        if mesh is None or mesh.get_coordinate() is None:  # this process holds nothing
            return cls()
        return cls(tuple(mesh.get_group(dim) for dim in range(mesh.ndim)), tuple(sorted(largest)))

    @classmethod
    def in_group(cls, group: Any) -> Groups:
        """Those of `group`; without one, all that there are.

        Raises:
            TypeError, ValueError: As for `checked_group`.
        """
        if group is None:
            if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
                return cls()
            group = torch.distributed.group.WORLD
        checked = checked_group(group)
        return cls((checked,), tuple(map(int, torch.distributed.get_process_group_ranks(checked))))

    @property
    def alone(self) -> bool:
        """Whether there is nobody to tell."""
        return not self.groups

    @property
    def is_first(self) -> bool:
        """Whether this is the one of them that speaks for what all hold."""
        return all(torch.distributed.get_rank(group) == 0 for group in self.groups)

    def processes(self, deadline: float = DEADLINE) -> Processes:
        """All that are reached, by which they agree before they add up anything."""
        if self.alone:
            return Processes(deadline=deadline)
        if len(self.groups) == 1:
            return Processes.of(self.groups[0], deadline)
        return Processes.among(self.ranks, deadline)

    def telling(self, what: str, deadline: float, call: Callable[[], Result]) -> Result:
        """The result of `call`, an error of which is told to all that are about to meet."""
        try:
            return call()
        except BaseException as error:
            self.processes(deadline).leave(error, what)
            raise

    def add(self, numbers: NDArray[np.uint64]) -> list[list[int]]:
        """The sums over all processes, exact, of numbers of shape [n, k]: that of element (i, j) at [i][j]."""
        if self.alone:
            return [[int(each) for each in row] for row in numbers]
        # As halves, whose sums do not overflow.
        halves = np.stack([numbers & _LOW, numbers >> _HALF]).view(np.int64)
        told = torch.from_numpy(halves.reshape(-1))
        for group in self.groups:
            told = told.to(device_of(group))
            torch.distributed.all_reduce(told, group=group)
        low, high = np.array(told.tolist(), object).reshape(2, *numbers.shape)
        return [[int(each) for each in row] for row in low + (high << 32)]

    def gather(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of every process of the one group, in the order of `ranks`: of shape [processes, *shape]."""
        if self.alone:
            return numbers[None]
        (group,) = self.groups
        own = torch.from_numpy(np.ascontiguousarray(numbers).view(np.int64)).to(device_of(group))
        told = [torch.empty_like(own) for _ in self.ranks]
        torch.distributed.all_gather(told, own, group=group)
        return torch.stack(told).cpu().numpy().view(np.uint64)


def check_alike(ranks: Sequence[int], facts: Sequence[str], about: str) -> None:
    """Let processes go on that say the same.

    Args:
        ranks: Their global ranks.
        facts: What each says.
        about: What it is, for the error.

    Raises:
        ValueError: One says something else than the first, on every process; the error names those.
    """
    others = [rank for rank, each in zip(ranks, facts, strict=True) if each != facts[0]]
    if others:
        raise ValueError(
            f"all processes must have the same {about}, and rank{'s' if len(others) > 1 else ''} {few(others, 8)} "
            f"ha{'ve' if len(others) > 1 else 's'} others than rank {ranks[0]}"
        )


def device_of(group: Any) -> torch.device:
    """Where the tensors are that a group takes: the host if it takes those, else this process's CUDA device."""
    backends = str(torch.distributed.get_backend_config(group))
    if "cpu:" in backends or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
