"""Swapping: give a tensor object other contents, so that all who hold the object see them."""

from __future__ import annotations

import copyreg
import functools
from typing import Any, NoReturn

import torch
from torch.utils.hooks import RemovableHandle

_WRITES = "_tritonparam_writes"


def become(mine: torch.Tensor, other: torch.Tensor) -> None:
    """Make `mine` what `other` is; it stays the same object and keeps its attributes and hooks.

    `other` becomes what `mine` was, so that the same call again is the way back.

    Args:
        mine: The tensor that is held elsewhere.
        other: A tensor in nobody else's hands.

    Raises:
        RuntimeError: Autograd holds on to `mine` itself, or code in C++ weakly; nothing is changed then.
    """
    holders = _holders(mine)
    if holders and (holders > 1 or _accumulator(mine) is None):
        raise RuntimeError("autograd holds on to it: drop what was computed from it first")
    exchange(mine, other)


def exchange(mine: torch.Tensor, other: torch.Tensor) -> RemovableHandle | None:
    """`become`, whatever autograd holds on to: graphs that lead to `mine` stay with what it was.

    Their gradients would be lost: asking for them is an error from then on.

    Returns:
        What makes that error; with it removed, the same call again is the way back. None where there is no graph.

    Raises:
        RuntimeError: Code in C++ holds weakly on to `mine`; nothing is changed then.
    """
    node = _accumulator(mine)
    torch._C._swap_tensor_impl(mine, other)
    for name in _slots_of(type(mine)) if type(mine) is type(other) else ():  # what a DTensor has of its own
        one, two = getattr(mine, name), getattr(other, name)
        setattr(mine, name, two)
        setattr(other, name, one)
    if type(mine) is not type(other):
        mine.__class__, other.__class__ = type(other), type(mine)
    # The swap leaves the hooks in Python's half of the tensor; setting them tells autograd's half.
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if getattr(mine, hooks) is not None:
            setattr(mine, hooks, getattr(mine, hooks))
    if mine.grad_fn is not None and mine._backward_hooks:  # then it is this node that calls them
        mine.grad_fn._register_hook_dict(mine)
    return None if node is None else node.register_prehook(_refuse_gradients)


@functools.lru_cache(maxsize=64)
def _slots_of(kind: type[torch.Tensor]) -> tuple[str, ...]:
    """The slots of a class of tensors that is written in Python."""
    own = (name for each in kind.__mro__ if each is not torch.Tensor for name in copyreg._slotnames(each) or ())  # type: ignore[attr-defined]
    return tuple(dict.fromkeys(own))


def _accumulator(tensor: torch.Tensor) -> Any:
    """The node of autograd that would add to `tensor.grad`; None where no graph has one."""
    before = _holders(tensor)
    if not (before and tensor.is_leaf and tensor.requires_grad):
        return None
    node = torch.autograd.graph.get_gradient_edge(tensor).node
    # The node holds on to the tensor: a new one shows in the count.
    return node if _holders(tensor) == before else None


def _holders(tensor: Any) -> int:
    """How many others, beside the tensor object of Python, hold on to what it is."""
    return int(tensor._use_count()) - 1


def _refuse_gradients(_: Any) -> NoReturn:
    raise RuntimeError(
        "gradients were asked for through a graph that leads to what a tensor was before it became real: "
        "compute it again"
    )


def _refuse_copy(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "values cannot be copied into the torch tensor of what is lazy: they would be lost. "
        "Use set_data of the Parameter, which makes it real by them, or init_data() first"
    )


def is_of_lazy(storage: torch.Tensor) -> bool:
    """Whether this is the `.torch` of what is lazy."""
    return _WRITES in vars(storage)


def was_written(storage: torch.Tensor) -> bool:
    """Whether torch wrote into `storage` since `guard`, while it had no values."""
    return storage.is_meta and storage._version != vars(storage).get(_WRITES, storage._version)


def guard(storage: torch.Tensor) -> None:
    """Make `copy_`, with which `load_state_dict` writes, an error while `storage` has no values.

    On the meta device torch's own does nothing, so that what is loaded would be drawn over later.
    """
    if storage.is_meta:
        vars(storage).update({"copy_": _refuse_copy, _WRITES: storage._version})
    elif vars(storage).get("copy_") is _refuse_copy:
        del storage.copy_
        vars(storage).pop(_WRITES, None)
