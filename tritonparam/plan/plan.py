"""The plan: a table of operations on boxes, built once, run by a backend, run again for free.

Whatever the user calls comes down to a plan; nothing else writes values. A `Fill` writes a box of a global tensor's
values into a torch tensor of the box's shape, a `Copy` what another tensor has in a box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tritonparam._arguments import entries
from tritonparam.plan.backends import Backend, RunnablePlan, resolve_backend
from tritonparam.plan.copy import Copy, CopyColumns
from tritonparam.plan.fill import Fill
from tritonparam.plan.fill_columns import FillColumns, outs_of

__all__ = ["Copy", "Fill", "Plan"]


_Group = tuple[list[Fill] | FillColumns, Sequence[Copy]]


class Plan:
    """Operations that run together: on a CUDA device in a number of launches that does not grow with their number.

    The order in which the operations of one plan are done is free: two that write the same memory belong in two plans,
    and so does a copy of what another one writes. A plan keeps the memory that its tensors had when it was built; one
    whose tensors were given other storage since (`set_`, `.data = `) has to be built anew. It may be run on any CUDA
    stream, and in a graph capture if it was built, and run once, before; it must then live as long as the graph, which
    reads its tables and does not keep them.

    Args:
        operations: Fills and Copies; or `FillColumns` or `CopyColumns`, which are never made objects where the
            backend can do without.
        backend: "triton", "cpu", "numpy" or None for the device's own (CUDA: triton; CPU: cpu where Numba is
            installed, else numpy). It changes no value.

    Raises:
        TypeError: There is something else among the operations, or they are in no list.
        ValueError: The backend does not exist, or does not write to the device of an operation.
        ImportError: The backend is not installed.

    Examples:
        >>> from tritonparam import Constant
        >>> bias, copied = torch.empty(3), torch.empty(2)
        >>> plan = Plan([Fill(bias, Constant(0.5)), Copy(copied, torch.tensor([1, 2]))], backend="numpy")
        >>> plan
        Plan(fills=1, copies=1, bytes=20, device=cpu, backend=numpy)
        >>> plan.run()
        >>> bias, copied
        (tensor([0.5000, 0.5000, 0.5000]), tensor([1., 2.]))
    """

    def __init__(self, operations: Iterable[Fill | Copy], backend: str | None = None) -> None:
        groups: dict[torch.device, _Group]
        self.operations: Sequence[Fill | Copy]
        if isinstance(operations, (Fill, Copy)):
            kind = type(operations).__name__
            raise TypeError(
                f"operations must be an iterable of Fills and Copies, got a {kind}; write Plan([{kind}(...)])"
            )
        device = operations.device() if isinstance(operations, FillColumns) else None
        if isinstance(operations, FillColumns) and device is not None:
            self.operations, groups = operations, {device: (operations, [])}
        elif isinstance(operations, CopyColumns):
            device = operations.outs[0].device
            copies = operations if device.type == "cpu" else list(operations)
            self.operations, groups = operations, {device: ([], copies)}
        else:
            self.operations = tuple(entries("operations", operations, "an iterable of Fills and Copies"))
            groups = _by_device(self.operations)
        chosen: list[tuple[Backend, torch.device]] = [(resolve_backend(device, backend), device) for device in groups]
        self._parts: list[RunnablePlan] = [module.prepare(*groups[device]) for module, device in chosen]
        self._chosen = chosen

    def __repr__(self) -> str:
        outs, copies = _columns(self.operations)
        written = sum(out.numel() * out.element_size() for out in outs)
        devices = " and ".join(str(device) for _, device in self._chosen)
        backends = " and ".join(dict.fromkeys(module.__name__.rpartition(".")[2] for module, _ in self._chosen))
        where = f"device={devices or None}, backend={backends or None}"
        return f"Plan(fills={len(outs) - copies}, copies={copies}, bytes={written}, {where})"

    def run(self) -> None:
        """Write every element of every operation. On CUDA, returns before the device is done, as torch does."""
        for part in self._parts:
            part.run()


def _columns(operations: Sequence[Fill | Copy]) -> tuple[list[torch.Tensor], int]:
    """Where the operations write, and how many are copies; of columns none is made an object."""
    if isinstance(operations, FillColumns):
        return outs_of(operations), 0
    if isinstance(operations, CopyColumns):
        return operations.outs, len(operations)
    return [each.out for each in operations], sum(isinstance(each, Copy) for each in operations)


def _by_device(operations: Iterable[Fill | Copy]) -> dict[torch.device, _Group]:
    groups: dict[torch.device, tuple[list[Fill], list[Copy]]] = {}
    for operation in operations:
        if not isinstance(operation, (Fill, Copy)):
            raise TypeError(f"operations must hold Fill and Copy objects, got {type(operation).__name__[:100]}")
        fills, copies = groups.setdefault(operation.out.device, ([], []))
        if isinstance(operation, Fill):
            fills.append(operation)
        else:
            copies.append(operation)
    return {**groups}
