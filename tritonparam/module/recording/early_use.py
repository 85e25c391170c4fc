"""Early use: what needs values, of a module that has none yet, is an error or a warning that says what to do first.

The outermost modules that a block built have hooks for it, which go when the module is real.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from tritonparam._arguments import few
from tritonparam.module.blueprint import awaits_values
from tritonparam.module.recording.recorder import recorder

_TOLD = 3  # names in a message
_FEW = 64  # modules to look at one by one
_WAYS = "call tritonparam.materialize(model, seed=...), or tritonparam.load(model, path), first"


class DeferredWarning(UserWarning):
    """Something was asked of a deferred module that it will only have when it is real."""


_guarded: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def guard(modules: Iterable[torch.nn.Module], *, first: bool = False) -> None:
    """Let `modules` say what is missing where they are used before they have values.

    Args:
        modules: Outermost ones.
        first: Whether to do so before hooks that are there already, as that of fully_shard, which gathers tensors.
    """
    for module in modules:
        if first:
            _take_away(module)
        if _refuse_forward not in module._forward_pre_hooks.values() and not isinstance(module, torch.jit.ScriptModule):
            _guarded.add(module)
            module.register_forward_pre_hook(_refuse_forward, prepend=first, with_kwargs=True)
            module.register_state_dict_pre_hook(_warn_of_state_dict)  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(_refuse_load_state_dict)  # type: ignore[no-untyped-call]


def unguard(module: torch.nn.Module, *, is_real: bool = False) -> None:
    """Take away what `guard` added, from `module` and the modules in or around it that have values now.

    Args:
        module: One whose tensors have just become real, or some of them.
        is_real: Whether all of them have.
    """
    if is_real or not _awaits_values(module):
        _take_away(module)
    others = list(_guarded) if len(_guarded) <= _FEW else [each for each in module.modules() if each in _guarded]
    for each in others:
        if not _awaits_values(each):
            _take_away(each)


def _take_away(module: torch.nn.Module) -> None:
    _guarded.discard(module)
    for own, mine in (
        (module._forward_pre_hooks, _refuse_forward),
        (module._state_dict_pre_hooks, _warn_of_state_dict),
        (module._load_state_dict_pre_hooks, _refuse_load_state_dict),
    ):
        for number in [number for number, hook in own.items() if getattr(hook, "hook", hook) is mine]:
            del own[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)


def _refuse_forward(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling() or recorder() is not None:
        return
    names = _without_values(module)
    if not names:
        _take_away(module)
    elif not any(isinstance(each, torch.Tensor) and each.device.type == "meta" for each in tree_leaves((args, kwargs))):
        raise RuntimeError(f"{_said(module, names)}, and cannot be run: {_WAYS}")


def _warn_of_state_dict(module: torch.nn.Module, prefix: str, keep_vars: bool) -> None:
    if recorder() is None and (names := _on_meta(module)):
        text = f"{_said(module, names)}; its state dict has tensors on the meta device in their places: {_WAYS}"
        warnings.warn(text, DeferredWarning, stacklevel=3)


def _refuse_load_state_dict(
    module: torch.nn.Module, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *_: Any
) -> None:
    if recorder() is not None or local_metadata.get("assign_to_params_buffers"):
        return
    lost = [name for name in _on_meta(module) if not _is_meta(state_dict.get(prefix + name))]
    if lost:
        raise RuntimeError(
            f"{_said(module, lost)}, so load_state_dict has nothing to copy into: call load_state_dict(..., "
            "assign=True), or tritonparam.load(model, path), or tritonparam.materialize(model, seed=...) first"
        )


def _is_meta(value: Any) -> bool:
    return value is None or (isinstance(value, torch.Tensor) and value.is_meta)


def _said(module: torch.nn.Module, names: list[str]) -> str:
    many = "tensor" if len(names) == 1 else "tensors"
    return (
        f"{type(module).__name__} was built in deferred_init() and has {len(names)} {many} without values "
        f"({few(names, _TOLD)})"
    )


def _on_meta(module: torch.nn.Module) -> list[str]:
    """The names of parameters and buffers that have neither values nor memory."""
    return [name for name, tensor in _named(module) if tensor.is_meta]


def _without_values(module: torch.nn.Module) -> list[str]:
    """The names of parameters and buffers that have no values; memory that `to_empty` made has none yet."""
    return [name for name, tensor in _named(module) if awaits_values(tensor)]


def _awaits_values(module: torch.nn.Module) -> bool:
    with torch._C.DisableTorchFunction():
        own = (each for part in module.modules() for each in (*part._parameters.values(), *part._buffers.values()))
        return any(each is not None and (each.is_meta or awaits_values(each)) for each in own)


def _named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    with torch._C.DisableTorchFunction():
        return [*module.named_parameters(), *module.named_buffers()]
