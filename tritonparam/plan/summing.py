"""Sums of many boxes, each where it is: by the backend of its device, those of a CUDA device in one launch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from tritonparam._arguments import entries
from tritonparam.plan.backends import resolve_backend
from tritonparam.plan.box_sum import Sum

if TYPE_CHECKING:
    from numpy.typing import NDArray


def sums(operations: Iterable[Sum], backend: str | None = None) -> NDArray[np.uint64]:
    """What each operation adds to the two sums of its tensor; returns when all is read.

    Args:
        operations: On any devices; those of one CUDA device are one launch.
        backend: As for `Plan`. It changes no sum.

    Returns:
        uint64 of shape [n, 2].

    Raises:
        TypeError: There is something else among the operations.
        ValueError: The backend does not exist, or does not work on the device of an operation.
        ImportError: The backend is not installed.

    Examples:
        >>> x = torch.tensor([1, 2, 3])
        >>> (sums([Sum(x, key=1)]) == sums([Sum(x, key=1)], "numpy")).all()
        np.True_
    """
    rows: list[Sum] = entries("operations", operations, "an iterable of Sums")
    groups: dict[torch.device, list[int]] = {}
    for number, each in enumerate(rows):
        if not isinstance(each, Sum):
            raise TypeError(f"operations must hold Sum objects, got {type(each).__name__[:100]}")
        groups.setdefault(each.source.device, []).append(number)
    chosen = [(resolve_backend(device, backend), numbers) for device, numbers in groups.items()]
    found = np.zeros((len(rows), 2), np.uint64)
    for module, numbers in chosen:
        found[numbers] = module.sums([rows[number] for number in numbers])
    return found
