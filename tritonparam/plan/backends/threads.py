"""Threads of our own for work that holds no lock of Python: they survive a fork, and many callers share them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_MOST = 256  # threads; one is only started where none is idle

_pool: ThreadPoolExecutor | None = None
_LOCK = threading.Lock()


def _forget() -> None:
    """In the child of a fork there are no threads but the one that forked."""
    global _pool, _LOCK
    _pool, _LOCK = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def share(count: int, do: Callable[[int], None], threads: int) -> None:
    """Call do(0), ..., do(count - 1), each once, from at most `threads` threads, of which the caller is one.

    The caller never waits for a thread to become free: what no other one has taken it does itself. It returns when all
    is done. If a call raises, the others that have begun end, no further one begins, and one error is raised.
    """
    if threads == 1 or count == 1:
        for number in range(count):
            do(number)
        return
    numbers = itertools.count()
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            with lock:
                number = next(numbers)
            if number >= count or errors:
                return
            try:
                do(number)
            except BaseException as error:
                errors.append(error)
                raise

    helpers = _called(work, min(threads, count) - 1)
    try:
        work()
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        begun = [each for each in helpers if not each.cancel()]
        for each in begun:
            each.exception()
    if errors:
        raise errors[0]


def _called(work: Callable[[], None], many: int) -> list[Future[None]]:
    """Have `many` threads call `work`, or as many as there are at the end of the process: none."""
    global _pool
    if many < 1:
        return []
    with _LOCK:
        if _pool is None:
            _pool = ThreadPoolExecutor(_MOST, thread_name_prefix="tritonparam")
        pool = _pool
    futures: list[Future[None]] = []
    try:
        for _ in range(many):
            futures.append(pool.submit(work))
    except RuntimeError:  # the interpreter is shutting down
        pass
    return futures
