"""Clones of parameters, alone or in groups: what they are made of, and their memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tritonparam.dtype import DType, DTypeLike, as_dtype
from tritonparam.parameter.attributes import Attributes
from tritonparam.parameter.clone_buffer import clone_buffer
from tritonparam.parameter.set_data import Values, cloned_data, device_of
from tritonparam.tensor import REALIZING, Tensor, Writes


def fill_clones(pairs: Iterable[tuple[Attributes, Attributes]], init: Any, dtype: DTypeLike | None) -> None:
    """Start the clone that stands beside each parameter; those of real ones in one allocation a device and one plan.

    Args:
        pairs: A parameter, and a clone that has its name and flags and nothing else yet.
        init, dtype: As for `Parameter.clone`.

    Raises:
        TypeError, ValueError: init or dtype goes with none or not with all of them; then no key has been taken.
    """
    wanted = None if dtype is None else as_dtype(dtype)
    with REALIZING, torch.inference_mode(False), torch.no_grad():
        work = []
        for each, clone in pairs:
            before = each.dtype
            own = wanted or before
            work.append((each, clone, own, cloned_data(init, each, before, own)))
        groups: dict[torch.device, list[tuple[Attributes, Attributes, DType, Values]]] = {}
        for each, clone, own, values in work:
            device = device_of(each._torch)
            if isinstance(values.source, Tensor):
                source = clone._own(values.source, own)
                if device is None:
                    clone._start(source)
                    continue
                groups.setdefault(device, []).append((each, clone, own, values.of(source)))
            else:
                groups.setdefault(device or values.device, []).append((each, clone, own, values))
        writes, outs = Writes(), []
        for device, group in groups.items():
            buffers = clone_buffer([(each.shape, own) for each, _, own, _ in group], device)
            for (each, clone, _, values), out in zip(group, buffers, strict=True):
                values.put(writes, out)
                outs.append((each, clone, out))
        writes.run()
        for each, clone, out in outs:
            clone._start(out)
            clone._within = each._within
