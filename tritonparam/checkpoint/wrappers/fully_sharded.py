"""Modules under fully_shard: whether their parameters are the shards, which stay, or what was gathered for a while."""

from __future__ import annotations

import sys

import torch

from tritonparam._arguments import shown


def check_sharded(module: torch.nn.Module) -> None:
    """Refuse a module some of whose parameters are gathered just now.

    What is written to these is lost when they are sharded again, and they may be of another dtype.

    Raises:
        ValueError: It is such a module; the error names it and the remedy.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # where nobody has imported it, nothing is wrapped in it
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is None:
        return
    for name, each in module.named_modules():
        if isinstance(each, kind):
            state = each._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            if any(group is not None and not group.is_sharded for group in groups):
                raise ValueError(
                    f"target must be sharded, and the parameters of {shown(name) if name else 'the module itself'} are "
                    "gathered for a forward pass; call reshard() on it first"
                )
