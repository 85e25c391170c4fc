"""Replicas: which tensors differ between processes that should hold the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._processes import DEADLINE, check_deadline
from tritonparam.checkpoint import Slot, Target, slots_of
from tritonparam.distributed.fingerprints import ABOUT, check_real, facts_of, sums_of
from tritonparam.distributed.groups import Groups, check_alike
from tritonparam.module import recording_paused
from tritonparam.tensor import REALIZING


@dataclass(frozen=True)
class ReplicaDifference:
    """A tensor that is not the same on all processes that should hold the same of it.

    Attributes:
        name: What it is called.
        ranks: The global ranks of the processes that do not hold what most hold; where as many hold one thing as
            another, what the lowest rank holds counts.

    Examples:
        >>> print(ReplicaDifference("norm.weight", (3, 5)))
        norm.weight: other bits on ranks 3, 5
    """

    name: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.ranks))
        return f"{self.name}: other bits on rank{'' if len(self.ranks) == 1 else 's'} {ranks}"


def check_replicas(
    target: Target, group: Any = None, *, backend: str | None = None, deadline: float = DEADLINE
) -> tuple[ReplicaDifference, ...]:
    """The tensors that differ between processes which should hold the same, by name and rank; empty where all agree.

    Processes should hold the same of what is no DTensor, and of a DTensor where they have the same box of it: along the
    dimensions of the mesh on which it is replicated. All processes of the group call this, and all get the same answer.
    Nothing is changed, and only what is compared bit for bit counts: 0.0 and -0.0 differ.

    Every process reads its tensors once, where they are. All agree that they have the same tensors, and one small
    all-gather has 24 bytes a tensor from each process: cheap enough for every thousand steps.

    Args:
        target: As for `fingerprint`, but for a path. Non-persistent buffers count too.
        group: A torch.distributed process group; None for all processes. Without torch.distributed there is nothing to
            compare.
        backend: As for `Plan`. It changes no answer.
        deadline: Seconds to wait for a process that gives no sign of life.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: A tensor has no values yet, or no memory of its own; this process is not in the group, or its
            processes do not have tensors of the same names, dtypes and shapes.
        RuntimeError: Another process of the group raised an error, or did not come before the deadline.
        ImportError: The backend is not installed.

    Examples:
        >>> check_replicas(torch.nn.Linear(3, 2))
        ()
    """
    check_deadline("deadline", deadline)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        groups, found = Groups.in_group(group), []
        with REALIZING:
            held = groups.telling("check_replicas", deadline, lambda: slots_of(target))
        slots = sorted(held, key=lambda slot: slot.name)
        processes = groups.processes(deadline)

        def own() -> bytes:
            check_real(slots)
            found.append(_held(slots, backend))
            return facts_of(slots).encode()

        told = processes.exchange(own, "check_replicas")
        check_alike(groups.ranks, [each.decode() for each in told], ABOUT)
        return compared([slot.name for slot in slots], groups.gather(found[0]), groups.ranks)


def _held(slots: Sequence[Slot], backend: str | None) -> NDArray[np.uint64]:
    """Which boxes of each tensor are here, as a hash, and the sums of their elements. Shape [n, 3]."""
    found = np.roll(sums_of(slots, backend), 1, axis=1)
    found[:, 0] = [_boxes_hash(slot) for slot in slots]
    return found


def _boxes_hash(slot: Slot) -> int:
    boxes = repr([(box.offsets, box.sizes) for box in slot.boxes if 0 not in box.sizes]).encode()
    return int.from_bytes(hashlib.blake2b(boxes, digest_size=8).digest(), "little")


def compared(names: Sequence[str], held: NDArray[np.uint64], ranks: Sequence[int]) -> tuple[ReplicaDifference, ...]:
    """The differences in what processes hold.

    Args:
        names: Of the n tensors.
        held: A number for the box and two sums of each tensor, of each process: uint64 of shape [processes, n, 3].
        ranks: The global ranks of the processes, ascending or not.
    """
    alike = (held == held[:1]).all(axis=(0, 2))  # as nearly always, of what is not sharded
    found = []
    for number in np.nonzero(~alike)[0].tolist():
        boxes: dict[int, list[tuple[int, tuple[int, int]]]] = {}
        for rank, (box, first, second) in sorted(zip(ranks, held[:, number].tolist(), strict=True)):
            boxes.setdefault(box, []).append((rank, (first, second)))
        wrong: list[int] = []
        for holders in boxes.values():
            counts = Counter(content for _, content in holders)  # in the order of ranks, which decides a tie
            usual = max(counts, key=counts.__getitem__)
            wrong += [rank for rank, content in holders if content != usual]
        if wrong:
            found.append(ReplicaDifference(names[number], tuple(sorted(wrong))))
    return tuple(found)
