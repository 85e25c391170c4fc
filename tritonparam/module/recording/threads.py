"""Threads that a constructor has work for: what they do to deferred tensors is recorded too."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

from tritonparam.module.recording.dispatched import Dispatched
from tritonparam.module.recording.patches import Patches
from tritonparam.module.recording.recorder import Recorder, recorder
from tritonparam.module.recording.surface import Surface


def _recorded(block: Recorder, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, as a part of the block, whichever thread calls it; once the block is finished, as it is."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if recorder() is block:  # as a thread that was started in it, and is handed more
            return function(*args, **kwargs)
        with block.at_work(), Dispatched(), Surface():  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    return call


def _starting(start: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(start)
    def started(self: threading.Thread) -> None:
        block = recorder()
        if block is not None:
            self.run = _recorded(block, self.run)  # type: ignore[method-assign]
        start(self)

    return started


def _handing(hand: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hand)
    def handed(self: Any, *args: Any, **kwargs: Any) -> Any:
        block = recorder()
        if block is not None and args:
            args = (_recorded(block, args[0]), *args[1:])
        elif block is not None and "func" in kwargs:
            kwargs["func"] = _recorded(block, kwargs["func"])
        return hand(self, *args, **kwargs)

    return handed


_patches = Patches(
    (threading.Thread, "start", _starting),
    (ThreadPoolExecutor, "submit", _handing),
    *((ThreadPool, name, _handing) for name in ("apply_async", "_map_async", "imap", "imap_unordered")),
)


def threads_record() -> contextlib.AbstractContextManager[None]:
    """Let threads go on recording in the same block, until it is finished, in what one that records has them do.

    These are threads that it starts, and those of a `ThreadPoolExecutor` or `ThreadPool`, also one made before. Threads
    that take their work in another way, from a queue of their own, are not among them: what they make is real.
    """
    return _patches.applied()
