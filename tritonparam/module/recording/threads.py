"""Threads that a constructor starts: what they do to deferred tensors is recorded too."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from tritonparam._locks import across_forks
from tritonparam.module.recording.recorder import Dispatched, recorder
from tritonparam.module.recording.surface import Surface

_start = threading.Thread.start
_lock = across_forks()
_blocks = 0


def _started(self: threading.Thread) -> None:
    block = recorder()
    if block is not None:
        run = self.run

        def recorded() -> None:
            with block.at_work(), Dispatched(), Surface():  # type: ignore[no-untyped-call]
                run()

        self.run = recorded  # type: ignore[method-assign]
    _start(self)


@contextlib.contextmanager
def threads_record() -> Iterator[None]:
    """Let threads that are started by one that records go on recording in the same block, until it is finished.

    Threads that ran before the block, as those of a pool made outside, are not among them: what they make is real.
    """
    global _blocks
    with _lock:
        _blocks += 1
        threading.Thread.start = _started  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                threading.Thread.start = _start  # type: ignore[method-assign]
