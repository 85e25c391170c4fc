"""Who writes a plan: the Triton kernels on a GPU, the NumPy definition anywhere. They agree bit for bit."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Protocol

import torch

from tritonparam._arguments import choice, shown

if TYPE_CHECKING:
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill

__all__ = ["BACKENDS", "Backend", "RunnablePlan", "resolve_backend"]

BACKENDS = ("triton", "numpy")


class RunnablePlan(Protocol):
    """Operations checked and laid out for one device."""

    def run(self) -> None:
        """Do them."""


class Backend(Protocol):
    """A module that can lay out and run the operations of one device."""

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError where it does not write to `device`."""

    def prepare(self, fills: list[Fill], copies: list[Copy]) -> RunnablePlan:
        """Check and lay out operations, all on one device; at least one."""


def resolve_backend(device: torch.device, name: str | None = None) -> Backend:
    """The backend called `name`, or the one that `device` has by default.

    Raises:
        ValueError: `name` is not a backend, or it does not write to `device`, or none does.
        ImportError: The backend needs a package that is not installed; the message says which.
    """
    if name is None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be a cpu or cuda device, got {shown(str(device))}")
        name = "triton" if device.type == "cuda" else "numpy"
    choice("backend", name, BACKENDS)
    if name == "triton" and importlib.util.find_spec("triton") is None:
        raise ImportError("backend 'triton' needs the package triton: pip install triton")
    module: Backend = importlib.import_module(f"tritonparam.plan.backends.{name}")
    module.check_device(device)
    return module
