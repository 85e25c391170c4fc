"""Threads of our own for work that holds no lock of Python: they survive a fork, and many callers share them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

_MOST = 256  # threads


class _Crew:
    """Threads that wait for work, and end with the process."""

    def __init__(self) -> None:
        # Its methods are of C: an exception that a signal raises leaves it as it is.
        self._wanted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = 0

    def ask(self, work: Callable[[], None], many: int) -> None:
        """Have `work` called by so many threads, some time, as soon as they are free."""
        while self._started < min(many, _MOST):
            try:
                threading.Thread(target=self._serve, name="tritonparam", daemon=True).start()
            except RuntimeError:  # the system allows no more, or the interpreter is shutting down
                break
            self._started += 1
        for _ in range(min(many, self._started)):
            self._wanted.put(work)

    def _serve(self) -> None:
        while True:
            self._wanted.get()()


_crew = _Crew()


def _hire() -> None:
    """In the child of a fork there are no threads but the one that forked."""
    global _crew
    _crew = _Crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hire)


def share(count: int, do: Callable[[int], None], threads: int) -> None:
    """Call do(0), ..., do(count - 1), each once, from at most `threads` threads, of which the caller is one.

    The caller never waits for a thread to become free: what no other one has taken it does itself. It returns when all
    is done. If a call raises, or an exception interrupts the caller, no further one begins, those that have begun end,
    and that error is raised; only where a second exception interrupts this end may others still be at work.
    """
    if threads == 1 or count == 1:
        for number in range(count):
            do(number)
        return
    shared = _Shared(count, do)
    try:
        _crew.ask(shared.help, min(threads, count) - 1)
        shared.work()
    except BaseException:
        shared.is_over = True
        raise
    finally:
        shared.end()
    if shared.errors:
        raise shared.errors[0]


class _Shared:
    """The numbers that are still to be done, and who is at work on them."""

    def __init__(self, count: int, do: Callable[[int], None]) -> None:
        self.errors: list[BaseException] = []
        self._count, self._do = count, do
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._helpers: list[threading.Lock] = []
        self.is_over = False

    def work(self) -> None:
        """Do what there is."""
        while True:
            with self._lock:
                number = next(self._numbers)
            if number >= self._count or self.is_over or self.errors:
                return
            self._do(number)

    def help(self) -> None:
        """Do what there is, if it is not over."""
        at_work = threading.Lock()
        at_work.acquire()
        with self._lock:
            if self.is_over:
                return
            self._helpers.append(at_work)
        try:
            self.work()
        except BaseException as error:
            self.errors.append(error)
        finally:
            at_work.release()

    def end(self) -> None:
        """Let no further number begin, and wait for those that are at work."""
        interrupt: BaseException | None = None
        waiting: list[threading.Lock] | None = None
        while waiting is None or waiting:
            try:
                if waiting is None:
                    self.is_over = True
                    with self._lock:  # whoever is no helper by now will not become one
                        waiting = list(self._helpers)
                else:
                    with waiting[-1]:
                        pass
                    waiting.pop()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
