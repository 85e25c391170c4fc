"""Clones of parameters, alone or in groups: what they are made of, and their memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tritonparam.dtype import DType, DTypeLike, as_dtype
from tritonparam.parameter.attributes import Attributes
from tritonparam.parameter.clone_buffer import clone_buffer
from tritonparam.parameter.set_data import Values, check_cast, cloned_data, device_of
from tritonparam.plan import CopyColumns, Plan, check_memory, is_a_run, is_deferred
from tritonparam.tensor import REALIZING, Tensor, TorchTensor, Writes

_Filled = tuple[Attributes, Attributes, DType, Values]
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
        work: list[_Filled] = []
        copied: dict[torch.device, list[_Copied]] = {}
        dtypes: dict[torch.dtype, DType] = {}  # of the clones, for those of parameters
        for each, clone in pairs:
            storage = each._torch
            plain = same and each._law is None
            if plain and not is_a_run(storage):
                plain = not (storage.is_neg() or storage.is_meta)
                storage = check_memory("source", storage) if plain else storage
            if plain:
                own = dtypes.get(storage.dtype)
                if own is None:
                    before = as_dtype(storage.dtype)
                    own = dtypes[storage.dtype] = wanted or before
                    check_cast(before, own)
                copied.setdefault(storage.device, []).append((each, clone, own, storage))
            else:
                before = as_dtype(storage.dtype)
                own = wanted or before
                work.append((each, clone, own, cloned_data(init, each, before, own)))
        for device, group in copied.items():
            # Blocks of `deferred_init` take note of what torch does, tensor by tensor.
            if torch._C._len_torch_function_stack() and is_deferred(torch.empty(1, device=device)):
                work += [(each, clone, own, Values(source)) for each, clone, own, source in group]
            else:
                _copy(group, device)
        _fill(work)


def _copy(group: list[_Copied], device: torch.device) -> None:
    """Start clones that have the values of real parameters: what `_fill` does, in columns, with nothing asked twice."""
    wanted = [(source.shape, own) for _, _, own, source in group]
    outs = clone_buffer(wanted, device, [clone._requires_grad for _, clone, _, _ in group])
    # They are of one shape and device, and all dtypes of parameters can be cast.
    Plan(CopyColumns(outs, [source for _, _, _, source in group])).run()
    for (each, clone, _, _), out in zip(group, outs, strict=True):
        state = clone.__dict__
        state["_torch"], state["_within"] = out, each._within


def _fill(work: list[_Filled]) -> None:
    """Start clones of any kind."""
    groups: dict[torch.device, list[_Filled]] = {}
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
        clone._hold(out, None, 0)
        clone._within = each._within
