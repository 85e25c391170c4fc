"""The dispatcher's hook: every operator of a block comes by here, and goes the short way or the general one.

A tensor that wraps others (`_make_wrapper_subclass`) has no memory: its class says, in a `__torch_dispatch__` of its
own, which operators are done to those within. That is asked first, and what it does comes by here again.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from tritonparam.module.operators import bind, tensors_in
from tritonparam.module.recording.notes import where
from tritonparam.module.recording.recorder import recorder
from tritonparam.module.recording.shortcuts import SHORTCUTS
from tritonparam.module.recording.surface import Surface
from tritonparam.module.tape import History
from tritonparam.tensor import dtensor_type


class Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends every operator to the recorder at work, whichever block it is of: so any of them may be left first."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        at_work = recorder()
        if at_work is None or at_work.is_paused:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            is_plain = all(map(_is_plain, types))
            if is_plain or not _wraps(func, tensors_in((args, kwargs))):
                shortcut = SHORTCUTS.get(func)
                # Another mode below, or a type with a dispatcher of its own, is to see what becomes of the call.
                if shortcut is not None and is_plain and not torch._C._len_torch_dispatch_stack():
                    out = shortcut(at_work, func, args, kwargs)
                    if out is not NotImplemented:
                        return out
                with contextlib.ExitStack() as around:
                    if not is_plain:
                        around.enter_context(_Faithful())
                    if func.namespace == "c10d":
                        # On the meta device these communicate nothing, but draw a number for what they return.
                        around.callback(random.setstate, random.getstate())
                    return at_work.dispatch(func, args, kwargs)
        return _unwrapped(func, types, args, kwargs)


class _Faithful(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Holds a class with a dispatcher of its own, and memory of its own, to the operator that is noted of a call."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._asked: list[tuple[Any, list[Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = func, _numbers(func, args, kwargs)
        if not all(map(_is_plain, types)) and FakeTensor not in types:
            self._asked.append(call)
            try:
                with self:
                    return _of_classes(func, types, args, kwargs)
            finally:
                self._asked.pop()
        is_other = self._asked and not func.is_view and call != self._asked[-1]
        if is_other and any(History.of(each) is not None for each in tensors_in((args, kwargs))):
            raise RuntimeError(
                f"{self._asked[-1][0]._schema.name} of a class of tensors whose __torch_dispatch__ does "
                f"{func._schema.name} with other arguments cannot be followed inside deferred_init(){where()}: do it "
                "after materialize"
            )
        return func(*args, **kwargs)


def _numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What a call was given that is no tensor."""
    bound = bind(func, args, kwargs)
    return [(name, repr(value)) for name, value in bound.items() if not tensors_in((value,)) and name != "device"]


def _is_plain(kind: type[torch.Tensor]) -> bool:
    return kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _wraps(func: Any, tensors: Iterable[torch.Tensor]) -> bool:
    """Whether any of these arguments is of a class that has the call in hand, and not its own deferred memory.

    Raises:
        RuntimeError: Another one is deferred and of such a class too, which may do with its memory what it likes.
    """
    others = [each for each in tensors if not _is_plain(type(each)) and not isinstance(each, FakeTensor)]
    wrapping = [each for each in others if History.of(each) is None]
    if wrapping and len(wrapping) < len(others):
        names = sorted({type(each).__name__ for each in others})
        raise RuntimeError(
            f"{func._schema.name} of tensors of the classes {', '.join(names)}, which have dispatchers of their own, "
            f"cannot be followed inside deferred_init(){where()}: do it "
            "after materialize"
        )
    return bool(wrapping)


def _unwrapped(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the classes of the arguments make of a call, by operators on what these wrap, which are recorded."""
    if dtensor_type() in types:
        return NotImplemented  # whose dispatcher is in C++, and is asked by torch alone
    with Dispatched(), Surface():  # type: ignore[no-untyped-call]
        return _of_classes(func, types, args, kwargs)


def _of_classes(func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the first class that has a call makes of it; NotImplemented, of which torch makes an error, if none has."""
    for kind in types:
        if not _is_plain(kind):
            out = kind.__torch_dispatch__(func, types, args, kwargs)
            if out is not NotImplemented:
                return out
    return NotImplemented
