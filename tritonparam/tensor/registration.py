"""Registration: a torch module takes the `.torch` of a Parameter, and refuses the Parameter, which it would not see."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonparam._arguments import shown
from tritonparam._locks import across_forks

_MARK = "refuses_tritonparam"
_lock = across_forks()


def refuse_in_modules(kind: type) -> None:
    """Let torch modules refuse instances of `kind` from here on, as attributes and where they are registered.

    What others have put in the place of torch's methods stays, within ours.
    """
    if hasattr(torch.nn.Module.__setattr__, _MARK):
        return
    with _lock:
        for name, refusing in _REFUSING.items():
            method = getattr(torch.nn.Module, name)
            if not hasattr(method, _MARK):
                refused = functools.wraps(method)(refusing(method, kind))
                setattr(refused, _MARK, True)
                setattr(torch.nn.Module, name, refused)


# Each has code of its own: by it torch's compiler tells `__setattr__` from the methods that it does not run.
def _attribute(method: Any, kind: type) -> Any:
    def refused(self: torch.nn.Module, name: str, value: Any) -> None:
        if isinstance(value, kind):
            raise _error(name, value)
        method(self, name, value)

    return refused


def _parameter(method: Any, kind: type) -> Any:
    def refused(self: torch.nn.Module, name: str, param: Any) -> None:
        if isinstance(param, kind):
            raise _error(name, param)
        method(self, name, param)

    return refused


def _buffer(method: Any, kind: type) -> Any:
    def refused(self: torch.nn.Module, name: str, tensor: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(tensor, kind):
            raise _error(name, tensor)
        method(self, name, tensor, *args, **kwargs)

    return refused


def _error(name: str, value: object) -> TypeError:
    return TypeError(
        f"a module's {shown(name)} must be a torch.nn.Parameter or torch.Tensor, got a tritonparam."
        f"{type(value).__name__}: give its .torch, which stays the same object when it becomes real"
    )


_REFUSING = {"__setattr__": _attribute, "register_parameter": _parameter, "register_buffer": _buffer}
