"""Refusals: wrappers of torch that would take a deferred model for one with values, and give it others, or none."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from tritonparam.module.recording.recorder import recorder
from tritonparam.module.tape import History

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
