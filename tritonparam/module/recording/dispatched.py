"""The dispatcher's hook: every operator of a block comes by here, and goes the short way or the general one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tritonparam.module.recording.recorder import recorder
from tritonparam.module.recording.shortcuts import SHORTCUTS


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
            shortcut = SHORTCUTS.get(func)
            # Another mode below, or a type with a dispatcher of its own, is to see what becomes of the call.
            if shortcut is not None and not torch._C._len_torch_dispatch_stack() and all(map(_is_plain, types)):
                out = shortcut(at_work, func, args, kwargs)
                if out is not NotImplemented:
                    return out
            return at_work.dispatch(func, args, kwargs)


def _is_plain(kind: type[torch.Tensor]) -> bool:
    return kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__
