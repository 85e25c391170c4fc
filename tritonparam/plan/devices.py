"""Devices that a user names: which of them there are, and whether a backend writes to them."""

from __future__ import annotations

import torch

from tritonparam._arguments import got, shown
from tritonparam._errors import TritonParamError
from tritonparam.plan.backends import resolve_backend

_MOST_DEVICES = 128  # that torch can count


class MissingDeviceError(TritonParamError, ValueError):
    """A device that could be, and that this machine does not have."""


def named_device(device: torch.device | str | int) -> torch.device:
    """`device` as torch has it, wherever it is; an int is the index of a CUDA device.

    Raises:
        TypeError: It is neither a string nor an int nor a torch.device.
        ValueError: It is the name of none.

    Examples:
        >>> named_device("cuda:3")
        device(type='cuda', index=3)
    """
    if isinstance(device, int) and not isinstance(device, bool) and 0 <= device < _MOST_DEVICES:
        device = f"cuda:{device}"
    if isinstance(device, int) and not isinstance(device, bool):
        raise ValueError(f"device must be the number of a CUDA device, at least 0, got {shown(device)}")
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a string, an int or a torch.device, {got(device)}")
    try:
        place = torch.device(device)
        index = place.index or 0
        # torch keeps an index in 8 bits and does not say so: "cuda:256" is "cuda:0" to it.
        if index >= 0 and (isinstance(device, torch.device) or int(device.partition(":")[2] or index) == index):
            return place
    except (RuntimeError, ValueError):
        pass
    raise ValueError(f"device must be a cpu or cuda device, got {shown(device)}")


def checked_device(device: torch.device | str | int | None, backend: str | None = None) -> torch.device:
    """`device` as torch has it, if it is there and `backend` writes to it.

    Args:
        device: A CPU or CUDA device, an int being a CUDA device; None for torch's default device.
        backend: As for `Plan`.

    Raises:
        TypeError: device is neither a string nor an int nor a torch.device.
        ValueError: There is no such device (a MissingDeviceError, if other machines have it) or backend, or the two do
            not go together.
        ImportError: The backend is not installed.
        RuntimeError: It is a CUDA device, and this process the fork of one that had used CUDA.

    Examples:
        >>> checked_device("cpu")
        device(type='cpu')
    """
    forked = torch.cuda._is_in_bad_fork()
    try:
        place = torch.get_default_device() if device is None else named_device(device)
    except RuntimeError:
        if not forked:
            raise
        place = torch.device("cuda")  # the default one, if it is CUDA, asks CUDA for its index
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a cpu or cuda device, got {shown(str(place))}")
    if place.type == "cuda":
        if forked:
            raise RuntimeError(
                "device must not be a CUDA device in a process that was forked from one that had used CUDA, got "
                f"{device}: start the process by 'spawn' instead, as torch.multiprocessing.get_context('spawn') does"
            )
        count = torch.cuda.device_count()
        if (place.index or 0) >= count:
            raise MissingDeviceError(
                f"device must be a device of this machine, got {shown(str(place))}: "
                f"this machine has {count} CUDA devices"
            )
    resolve_backend(place, backend)
    return place
