"""Registration: a torch module takes the `.torch` of a Parameter, and refuses the Parameter, which it would not see."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonparam._arguments import shown
from tritonparam._locks import across_forks
from tritonparam.tensor import Tensor

_setattr = torch.nn.Module.__setattr__
_register = torch.nn.Module.register_parameter
_lock = across_forks()
_is_refusing = False


def refuse_in_modules() -> None:
    """Let torch modules refuse Parameters and Tensors from here on, as attributes and by `register_parameter`."""
    global _is_refusing
    if not _is_refusing:
        with _lock:
            torch.nn.Module.__setattr__ = _setattr_refused  # type: ignore[method-assign]
            torch.nn.Module.register_parameter = _register_refused  # type: ignore[method-assign]
            _is_refusing = True


@functools.wraps(_setattr)
def _setattr_refused(self: torch.nn.Module, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        raise _error(name, value)
    _setattr(self, name, value)


@functools.wraps(_register)
def _register_refused(self: torch.nn.Module, name: str, param: Any) -> None:
    if isinstance(param, Tensor):
        raise _error(name, param)
    _register(self, name, param)


def _error(name: str, value: Tensor) -> TypeError:
    kind = type(value).__name__
    return TypeError(
        f"a module's {shown(name)} must be a torch.nn.Parameter, got a tritonparam.{kind}: assign its .torch, which "
        "stays the same object when it becomes real"
    )
