"""The walk through a module: every tensor of it, deferred or real, with all the names that it goes by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.nn.parameter import is_lazy

from tritonparam.module.tape import History
from tritonparam.plan import View


@dataclass
class Found:
    """What a walk through a module finds out about one tensor."""

    history: History | None
    view: View
    kind: str
    names: list[str] = field(default_factory=list)
    saved_names: list[str] = field(default_factory=list)
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)


def _named_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, str, bool]]:
    """Every parameter, then every buffer, under every name: name, tensor, kind, persistent."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, parameter, "parameter", True
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                persistent = name not in owner._non_persistent_buffers_set
                yield f"{prefix}.{name}" if prefix else name, buffer, "buffer", persistent


def walk(module: torch.nn.Module) -> list[Found]:
    found: dict[object, Found] = {}
    lost, unwritten = [], []
    for name, tensor, kind, persistent in _named_tensors(module):
        if is_lazy(tensor):
            unwritten.append(name)
            continue
        history = History.of(tensor)
        if history is None and tensor.is_meta:
            lost.append(name)
            continue
        view = View.of(tensor) if tensor.layout == torch.strided else View(tuple(tensor.shape), (), 0, tensor.dtype)
        key = id(tensor) if history is None else (history.key, view)
        each = found.setdefault(key, Found(history, view, kind))
        each.names.append(name)
        if persistent:
            each.saved_names.append(name)
        each.tensors[id(tensor)] = tensor
    if lost:
        raise ValueError(
            f"tensors on the meta device that do not know their values: {', '.join(lost)}; they were made or copied "
            "outside deferred_init()"
        )
    raise_unwritten(unwritten)
    return list(found.values())


def raise_unwritten(names: list[str]) -> None:
    if names:
        raise ValueError(f"uninitialized tensors, some of whose elements were never written: {', '.join(names)}")
