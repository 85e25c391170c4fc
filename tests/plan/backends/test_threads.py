"""Work is shared once each, by as many threads as asked; an error or an interrupt ends it, and nobody waits in vain."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from tritonparam.plan.backends import threads
from tritonparam.plan.backends.threads import share


@pytest.mark.parametrize("many", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_each_number_is_done_once(count: int, many: int) -> None:
    done: list[int] = []
    share(count, done.append, many)
    assert sorted(done) == list(range(count))


def test_no_more_threads_than_asked_and_the_caller_is_one() -> None:
    names: set[int] = set()
    barrier = threading.Barrier(3)

    def wait(_: int) -> None:
        names.add(threading.get_ident())
        barrier.wait(60)

    share(6, wait, 3)
    assert len(names) == 3
    assert threading.get_ident() in names


def test_one_thread_starts_none() -> None:
    names: set[int] = set()
    share(50, lambda _: names.add(threading.get_ident()), 1)
    assert names == {threading.get_ident()}


@pytest.mark.parametrize("where", ["caller", "helper"])
def test_an_error_ends_the_work_and_is_raised(where: str) -> None:
    caller = threading.get_ident()
    begun: list[int] = []
    met = threading.Barrier(2)

    def fail(number: int) -> None:
        begun.append(number)
        if number < 2:
            met.wait(60)  # both are at work
        if (threading.get_ident() == caller) == (where == "caller"):
            raise KeyError(number)
        time.sleep(0.01)

    with pytest.raises(KeyError):
        share(10_000, fail, 2)
    assert len(begun) < 100
    share(3, lambda _: None, 2)  # and the threads work on


def test_a_caller_does_not_wait_for_threads_that_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_MOST", 1)
    monkeypatch.setattr(threads, "_crew", threads._Crew())
    release, busy = threading.Event(), threading.Event()

    def occupy(_: int) -> None:
        if threading.current_thread() is not threading.main_thread() and not busy.is_set():
            busy.set()
            release.wait(60)

    first = threading.Thread(target=share, args=(2, occupy, 2))
    first.start()
    assert busy.wait(60)
    done: list[int] = []
    share(5, done.append, 2)
    assert sorted(done) == list(range(5))
    release.set()
    first.join(60)


INTERRUPTED = """
import random, signal, sys, time
from tritonparam.plan.backends.threads import share

class Stop(Exception):
    pass

def stop(*_):
    raise Stop

at_work = [0, 0]

def busy(number):
    at_work[0] += 1
    time.sleep(0.0004)
    at_work[1] += 1

signal.signal(signal.SIGALRM, stop)
choose = random.Random(0)
for _ in range(150):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-5, 6e-3))
            share(20, busy, 3)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    before = list(at_work)
    time.sleep(0.002)
    assert at_work == before, "somebody works on"
done = []
share(50, done.append, 3)
print(sorted(done) == list(range(50)))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="for POSIX")
def test_where_it_is_interrupted_it_raises_when_nobody_is_at_work() -> None:
    """By an exception out of a signal handler, wherever it comes."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_where_no_thread_can_be_started_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_crew", threads._Crew())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    share(5, done.append, 3)
    assert done == list(range(5))
    monkeypatch.undo()
    share(5, done.append, 3)
    assert sorted(done[5:]) == list(range(5))
