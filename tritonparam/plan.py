"""The plan: a table of operations on boxes, built once, run by a backend, run again for free.

Whatever the user calls comes down to a plan; nothing else writes values. A `Fill` writes a box of a global tensor's
values into a torch tensor of the box's shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tritonparam._backends import Backend, RunnablePlan, resolve_backend
from tritonparam._fill import Fill

__all__ = ["Fill", "Plan"]


class Plan:
    """Fills that run together: on a CUDA device in a number of launches that does not grow with the number of fills.

    The order in which the fills of one plan are written is free: two that write the same memory belong in two plans. A
    plan keeps the memory that its tensors had when it was built; one whose tensors were given other storage since
    (`set_`, `.data = `) has to be built anew. It may be run on any CUDA stream, and in a graph capture if it was built,
    and run once, before.

    Args:
        fills: The operations.
        backend: "triton", "numpy" or None for the device's own (CUDA: triton, CPU: numpy). It changes no value.

    Raises:
        ValueError: The backend does not exist, or does not write to the device of a fill.
        ImportError: The backend is not installed.

    Examples:
        >>> from tritonparam import Constant
        >>> bias = torch.empty(3)
        >>> plan = Plan([Fill(bias, Constant(0.5))])
        >>> plan.run()
        >>> bias
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(self, fills: Iterable[Fill], backend: str | None = None) -> None:
        self.fills: tuple[Fill, ...] = tuple(fills)
        groups: dict[torch.device, list[Fill]] = {}
        for fill in self.fills:
            if not isinstance(fill, Fill):
                raise TypeError(f"fills must hold Fill objects, got {type(fill).__name__}")
            groups.setdefault(fill.out.device, []).append(fill)
        chosen: list[tuple[Backend, torch.device]] = [(resolve_backend(device, backend), device) for device in groups]
        self._parts: list[RunnablePlan] = [module.prepare(groups[device]) for module, device in chosen]

    def run(self) -> None:
        """Write every element of every fill. On CUDA, returns before the device is done, like any torch operation."""
        for part in self._parts:
            part.run()
