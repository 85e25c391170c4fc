"""Swapping: give a tensor object other contents, so that all who hold the object see them."""

from __future__ import annotations

from typing import Any, NoReturn

import torch


def become(mine: torch.Tensor, other: torch.Tensor) -> None:
    """Make `mine` what `other` is; it stays the same object and keeps its attributes and hooks.

    `other` becomes what `mine` was, so that the same call again is the way back.

    Args:
        mine: The tensor that is held elsewhere.
        other: A tensor of the same type, in nobody else's hands.

    Raises:
        RuntimeError: Weak references or autograd hold on to `mine` itself; nothing is changed then.
    """
    own = dict(other.__dict__)
    other.__dict__.update(mine.__dict__)
    try:
        torch.utils.swap_tensors(mine, other)  # type: ignore[no-untyped-call]
    except RuntimeError:
        other.__dict__.clear()
        other.__dict__.update(own)
        raise
    # The swap leaves the hooks in Python's half of the tensor; setting them tells autograd's half.
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if getattr(mine, hooks) is not None:
            setattr(mine, hooks, getattr(mine, hooks))


def _refuse_copy(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "values cannot be copied into the torch tensor of what is lazy: they would be lost. "
        "Use set_data of the Parameter, which makes it real by them, or init_data() first"
    )


def guard(storage: torch.Tensor) -> None:
    """Make `copy_`, with which `load_state_dict` writes, an error while `storage` has no values.

    On the meta device torch's own does nothing, so that what is loaded would be drawn over later.
    """
    if storage.is_meta:
        storage.copy_ = _refuse_copy  # type: ignore[method-assign]
    elif vars(storage).get("copy_") is _refuse_copy:
        del storage.copy_
