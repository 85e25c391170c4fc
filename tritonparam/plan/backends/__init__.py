"""Who writes a plan: Triton kernels on a GPU, compiled loops on a host, the NumPy definition anywhere.

They agree bit for bit.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from tritonparam._arguments import choice, shown
from tritonparam.plan.backends.ahead import CompileStep, kernels_ahead, loops_ahead
from tritonparam.plan.backends.launches import Launches, launches_of
from tritonparam.plan.backends.missing import is_installed, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritonparam.plan.box_sum import Sum
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill
    from tritonparam.plan.fill_columns import FillColumns

__all__ = [
    "BACKENDS",
    "Backend",
    "CompileStep",
    "Launches",
    "RunnablePlan",
    "kernels_ahead",
    "launches_of",
    "loops_ahead",
    "resolve_backend",
]

BACKENDS = ("triton", "cpu", "numpy")
_NEEDS = {"triton": "triton", "cpu": "numba"}


class RunnablePlan(Protocol):
    """Operations checked and laid out for one device."""

    def run(self) -> None:
        """Do them."""


class Backend(Protocol):
    """A module that can lay out and run the operations of one device."""

    __name__: str

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError where it does not write to `device`."""

    def prepare(self, fills: list[Fill] | FillColumns, copies: Sequence[Copy]) -> RunnablePlan:
        """Check and lay out operations, all on one device; at least one.

        The fills are a list, or `FillColumns`, which is read like one.
        """

    def sums(self, operations: Sequence[Sum]) -> NDArray[np.uint64]:
        """What operations, all on one device, add to their sums: uint64 of shape [n, 2]."""


def resolve_backend(device: torch.device, name: str | None = None) -> Backend:
    """The backend called `name`, or the one that `device` has by default.

    Raises:
        ValueError: `name` is not a backend, or it does not write to `device`, or none does.
        ImportError: The backend needs a package that is not installed; the message says which.
    """
    if name is None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be a cpu or cuda device, got {shown(str(device))}")
        name = "triton" if device.type == "cuda" else "cpu" if is_installed("numba") else "numpy"
    choice("backend", name, BACKENDS)
    if name in _NEEDS:
        require(f"backend {name!r} needs", _NEEDS[name])
    module: Backend = importlib.import_module(f"tritonparam.plan.backends.{name}")
    module.check_device(device)
    return module
