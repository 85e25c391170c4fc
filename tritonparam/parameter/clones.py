"""Clones of parameters, alone or in groups: what they are made of, and their memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tritonparam.dtype import DType, DTypeLike, as_dtype
from tritonparam.parameter.attributes import Attributes
from tritonparam.parameter.clone_buffer import clone_buffer
from tritonparam.parameter.set_data import Values, check_cast, cloned_data, device_of
from tritonparam.plan import Copy, Plan, check_memory, is_deferred
from tritonparam.tensor import REALIZING, Tensor, TorchTensor, Writes

_Copied = tuple[Attributes, Attributes, DType, TorchTensor]  # a real parameter, its clone, the clone's dtype, values


def fill_clones(pairs: Iterable[tuple[Attributes, Attributes]], init: Any, dtype: DTypeLike | None) -> None:
    """Start the clone that stands beside each parameter; those of real ones in one allocation a device and one plan.

    Args:
        pairs: A parameter, and a clone that has its name and flags and nothing else yet.
        init, dtype: As for `Parameter.clone`.

    Raises:
        TypeError, ValueError: init or dtype goes with none or not with all of them; then no key has been taken.
    """
    wanted = None if dtype is None else as_dtype(dtype)
    same = isinstance(init, str) and init == "same"
    with REALIZING, torch.inference_mode(False), torch.no_grad():
        work: list[tuple[Attributes, Attributes, DType, Values]] = []
        copied: dict[torch.device, list[_Copied]] = {}
        for each, clone in pairs:
            storage = each._torch
            before = as_dtype(storage.dtype)
            own = wanted or before
            if not same or each._law is not None or storage.is_neg() or storage.is_meta:
                work.append((each, clone, own, cloned_data(init, each, before, own)))
                continue
            if own is not before:
                check_cast(before, own)
            copied.setdefault(storage.device, []).append((each, clone, own, storage))
        _fill(work)
        _copy(copied)


def _copy(copied: dict[torch.device, list[_Copied]]) -> None:
    """Start clones that have the values of real parameters: what `_fill` does, with nothing asked twice."""
    copies, outs = [], []
    for device, group in copied.items():
        buffers = clone_buffer([(tuple(source.shape), own) for _, _, own, source in group], device)
        if any(map(is_deferred, buffers)):  # which takes note of what torch does
            _fill([(each, clone, own, Values(source)) for each, clone, own, source in group])
            continue
        for (each, clone, _, source), out in zip(group, buffers, strict=True):
            # They are of one shape and device, and all dtypes of parameters can be cast.
            copies.append(Copy._checked(out, check_memory("source", source)))
            outs.append((each, clone, out))
    if copies:
        Plan(copies).run()
    for each, clone, out in outs:
        clone._start_real(out, each._within)


def _fill(work: list[tuple[Attributes, Attributes, DType, Values]]) -> None:
    """Start clones of any kind."""
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
        clone._start_real(out, each._within)
