"""Clones of parameters, alone or in groups: what they are made of, and their memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from tritonparam._clone_buffer import clone_buffer
from tritonparam._set_data import Values, cloned_data, device_of
from tritonparam._writes import Writes
from tritonparam.dtype import DType, DTypeLike, as_dtype
from tritonparam.tensor import _REALIZING, Tensor

if TYPE_CHECKING:
    from tritonparam._parameter import Parameter


def clones(members: Iterable[tuple[Parameter, str]], init: Any, dtype: DTypeLike | None) -> list[Parameter]:
    """A clone of each parameter under the name beside it; those of real ones in one allocation a device and one plan.

    Raises:
        TypeError, ValueError: init or dtype goes with none or not with all of them; then no key has been taken.
    """
    wanted = None if dtype is None else as_dtype(dtype)
    with _REALIZING, torch.inference_mode(False), torch.no_grad():
        work = []
        for each, name in members:
            before = each.dtype
            own = wanted or before
            work.append((each, name, own, cloned_data(init, each, before, own)))
        made: list[Parameter] = []
        groups: dict[torch.device, list[tuple[Parameter, Parameter, DType, Values]]] = {}
        for each, name, own, values in work:
            other, device = each._like(name), device_of(each._torch)
            made.append(other)
            if isinstance(values.source, Tensor):
                source = other._own(values.source, own)
                if device is None:
                    other._start(source)
                    continue
                groups.setdefault(device, []).append((each, other, own, values.of(source)))
            else:
                groups.setdefault(device or values.device, []).append((each, other, own, values))
        writes, outs = Writes(), []
        for device, group in groups.items():
            buffers = clone_buffer([(each.shape, own) for each, _, own, _ in group], device)
            for (each, other, _, values), out in zip(group, buffers, strict=True):
                values.put(writes, out)
                outs.append((each, other, out))
        writes.run()
        for each, other, out in outs:
            other._start(out)
            other._place = each._place
    return made
