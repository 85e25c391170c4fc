"""Refusals: what would take a deferred model for one with values, and give it others, or none, says what to do first.

That is torch's wrappers; and running a model, or copying a state dict into it. For these the outermost modules that a
block built have hooks, which go when the module is real.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from tritonparam._arguments import few, warn
from tritonparam.module.blueprint import awaits_values
from tritonparam.module.recording.recorder import recorder
from tritonparam.module.tape import History

_TOLD = 3  # names in a message
_WAYS = "call tritonparam.materialize(model, seed=...), or tritonparam.load(model, path), first"
_made = DistributedDataParallel.__init__
_FSDP1 = "FullyShardedDataParallel"
_IN_A_BLOCK = (
    f"{_FSDP1} was made inside deferred_init(), where it would flatten what has no values: build the model in the "
    "block, and wrap it after it, with param_init_fn=tritonparam.param_init_fn(model, seed=...)"
)


def refuse_wrapping() -> None:
    """Let DistributedDataParallel refuse deferred modules from here on."""
    DistributedDataParallel.__init__ = _init_refused  # type: ignore[method-assign]


@functools.wraps(_made)
def _init_refused(self: DistributedDataParallel, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
    if isinstance(module, torch.nn.Module):
        deferred = _deferred_in(module)
        if deferred:
            raise RuntimeError(
                f"DistributedDataParallel needs values, and these are deferred: {', '.join(deferred)}; materialize the "
                "module first, in every process with the same seed. Then DistributedDataParallel(module, "
                "init_sync=False) has nothing to broadcast"
            )
    _made(self, module, *args, **kwargs)


def refuse_fsdp1(module: torch.nn.Module, replaced: Iterable[str]) -> None:
    """Refuse to be called by FSDP1, which is about to give a module the values of its reset_parameters.

    Args:
        module: Whose `to_empty` is called, by the function that called the caller of this one.
        replaced: The names of what stands in the place of its deferred tensors without values.

    Raises:
        RuntimeError: The module, itself and not in its submodules, has deferred tensors.
    """
    caller = sys._getframe(2)
    if caller.f_code.co_name == "_materialize_meta_module" and "fsdp" in str(caller.f_globals.get("__name__")):
        deferred = [*_deferred_in(module, recurse=False), *replaced]
        if deferred:
            raise RuntimeError(
                f"FullyShardedDataParallel without param_init_fn would give a {type(module).__name__} the values of "
                f"its reset_parameters, and not those that its constructor declared, for {', '.join(deferred)}; give "
                "FullyShardedDataParallel(model, param_init_fn=tritonparam.param_init_fn(model, seed=...))"
            )


def refuse_wrapping_in_blocks() -> None:
    """Let FullyShardedDataParallel, if anybody has imported it, refuse to be made in a block from here on."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), _FSDP1, None)
    if kind is None or hasattr(kind.__init__, "refuses_in_blocks"):
        return
    made = kind.__init__

    @functools.wraps(made)
    def init_refused(self: Any, *args: Any, **kwargs: Any) -> None:
        block = recorder()
        if block is not None and not block.is_paused:
            raise RuntimeError(_IN_A_BLOCK)
        made(self, *args, **kwargs)

    init_refused.refuses_in_blocks = True  # type: ignore[attr-defined]
    kind.__init__ = init_refused


def refuse_in_block(module: torch.nn.Module) -> None:
    """Refuse a module that has no place in a block.

    Raises:
        RuntimeError: `module` is the model that torch.distributed.pipelining makes of another: its stages would count
            as built by the block, and have names of their own. Or it is FSDP1's, imported in the block, too late for
            `refuse_wrapping_in_blocks`: then what it wraps has to be built again.
    """
    kind = type(module)
    if kind.__name__ == _FSDP1 and kind.__module__.startswith("torch.distributed.fsdp"):
        raise RuntimeError(f"{_IN_A_BLOCK}; this model was flattened, build it again")
    if kind.__name__ == "Pipe" and kind.__module__.startswith("torch.distributed.pipelining"):
        raise RuntimeError(
            "pipeline() was called inside deferred_init(), where the names of the model that it cuts would be lost: "
            "build the model in the block, and call pipeline() after it, with example inputs on the meta device"
        )


def _deferred_in(module: torch.nn.Module, recurse: bool = True) -> list[str]:
    named = (*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse))
    return [name for name, tensor in named if not is_lazy(tensor) and History.of(tensor) is not None]


class DeferredWarning(UserWarning):
    """Something was asked of a deferred module that it will only have when it is real."""


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
            module.register_forward_pre_hook(_refuse_forward, prepend=first, with_kwargs=True)
            module.register_state_dict_pre_hook(_warn_of_state_dict)  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(_refuse_load_state_dict)  # type: ignore[no-untyped-call]
            module.register_load_state_dict_post_hook(_unguard_loaded)  # type: ignore[no-untyped-call]


def unguard(module: torch.nn.Module, around: torch.nn.Module | None = None, *, is_real: bool = False) -> None:
    """Take away what `guard` added to `module` and the modules in it, as far as they have values.

    Args:
        module: Some of its tensors have just become real.
        around: The whole that it is in, which is looked at too.
        is_real: Whether all tensors of `module` have.
    """
    if around is not None and around is not module and not _awaits_values(around):
        _take_away(around)
    seen: set[Any] = {None}
    pending: list[Any] = [module]
    for module in pending:
        if _refuse_forward in module._forward_pre_hooks.values() and (is_real or not _awaits_values(module)):
            _take_away(module)
        pending += (parts := set(module._modules.values()) - seen)
        seen |= parts


def _take_away(module: torch.nn.Module) -> None:
    for own, mine in (
        (module._forward_pre_hooks, _refuse_forward),
        (module._state_dict_pre_hooks, _warn_of_state_dict),
        (module._load_state_dict_pre_hooks, _refuse_load_state_dict),
        (module._load_state_dict_post_hooks, _unguard_loaded),
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
    elif not _has_meta((args, kwargs)):
        raise RuntimeError(f"{_said(module, names)}, and cannot be run: {_WAYS}")


def _has_meta(value: Any) -> bool:
    """Whether there is a tensor on the meta device, as those are given that only want to know shapes."""
    if isinstance(value, Mapping):  # also those that pytrees do not look into
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_has_meta, value))
    return any(isinstance(each, torch.Tensor) and each.device.type == "meta" for each in tree_leaves(value))


def _warn_of_state_dict(module: torch.nn.Module, prefix: str, keep_vars: bool) -> None:
    if recorder() is None and (names := _on_meta(module)):
        text = f"{_said(module, names)}; its state dict has tensors on the meta device in their places: {_WAYS}"
        warn(text, DeferredWarning)


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


def _unguard_loaded(module: torch.nn.Module, _: Any) -> None:
    unguard(module)


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
    return [name for name, tensor in _named(module) if _waits(tensor)]


def _awaits_values(module: torch.nn.Module) -> bool:
    """Whether there are such; the first one is enough, and names cost more than tensors."""
    with torch._C.DisableTorchFunction():
        parts = ((*part._parameters.values(), *part._buffers.values()) for part in module.modules())
        return any(each is not None and _waits(each) for own in parts for each in own)


def _waits(tensor: torch.Tensor) -> bool:
    """Whether there are elements without values; an empty tensor has all that it can have."""
    return not is_lazy(tensor) and tensor.numel() > 0 and awaits_values(tensor)


def _named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    with torch._C.DisableTorchFunction():
        return [*module.named_parameters(), *module.named_buffers()]
