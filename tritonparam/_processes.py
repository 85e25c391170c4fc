"""What the processes of a torch.distributed group tell each other before and after they work: small, and by a deadline.

Messages go through the store that the group was made with, and not through its collectives: a store knows who has
come, waits only as long as it is asked to, and is whole after somebody failed. A collective that one process misses
keeps all others until the group's own timeout, if not longer, and the group is of no use then.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tritonparam._arguments import got, shown

DEADLINE = 300.0  # seconds
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1  # seconds from one look at the store to the next
_BEATS = 8  # signs of life in the time of a deadline
_TOLD = 4  # processes, and
_LONGEST = 600  # characters of each, in an error
_VALUE, _ERROR, _NOBODY = b"v", b"e", b"n"

Result = TypeVar("Result")


class ProcessesError(RuntimeError):
    """Another process of the group failed, did not come in time, or is gone."""


def check_deadline(argument: str, seconds: Any) -> float:
    """A number of seconds to wait for other processes.

    Raises:
        TypeError: It is no number.
        ValueError: It is not above 0, or not finite.

    Examples:
        >>> check_deadline("deadline", 5)
        5.0
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{argument} must be a number of seconds, {got(seconds)}")
    if not 0 < seconds <= threading.TIMEOUT_MAX or math.isnan(seconds):
        raise ValueError(f"{argument} must be a number of seconds above 0, got {shown(seconds)}")
    return float(seconds)


class _Session:
    """The messages of one group in its store: where they are, and how many rounds there were.

    A store may outlive a group, so the rounds of a later one are counted apart.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store = store
        self.rounds = 0
        self.keys: list[str] = []  # of the round before, which all have read when the next one is complete
        self._rank = rank
        self._begun = 0

    def prefix(self) -> str:
        """Where the next round is."""
        if not self._begun:
            clone = getattr(self.store, "clone", None)
            kind = type(getattr(self.store, "_underlying_non_prefix_store", self.store)).__name__
            if clone is not None and kind == "TCPStore":
                self.store = clone()  # a connection of its own: others may wait on theirs
            self._begun = self.store.add(f"tritonparam/{self._rank}", 1)
        self.rounds += 1
        return f"tritonparam/{self._begun}/{self.rounds}"


_sessions: weakref.WeakKeyDictionary[Any, _Session] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Processes:
    """The processes of a group, as one of them sees them. One alone agrees with itself at once.

    All of them have to make the same calls in the same order.

    Attributes:
        rank, size: This process, and how many there are.
        deadline: For how many seconds to wait for one that gives no sign of life.
    """

    rank: int = 0
    size: int = 1
    deadline: float = DEADLINE
    _session: _Session | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, group: Any = None, deadline: float = DEADLINE) -> Processes:
        """The processes of a group.

        Args:
            group: None for all processes of torch.distributed; one alone where it is not initialized.
            deadline: As above.

        Raises:
            ValueError: This process is not in the group.
        """
        distributed = torch.distributed
        if group is None and not (distributed.is_available() and distributed.is_initialized()):
            return cls(deadline=deadline)
        group = distributed.group.WORLD if group is None else group
        rank, size = distributed.get_rank(group), distributed.get_world_size(group)
        if rank < 0:
            raise ValueError("group must have this process in it")
        session = _sessions.get(group)
        if session is None:
            store = distributed.distributed_c10d._get_process_group_store(group)
            session = _sessions[group] = _Session(store, rank)
        return cls(rank, size, deadline, session)

    @property
    def is_group(self) -> bool:
        """Whether they are of a group, though it may have one process only."""
        return self._session is not None

    def gather(self, payload: bytes, what: str) -> list[bytes]:
        """What all processes have to say, in the order of their ranks; equal texts are sent once.

        Args:
            payload: What this one says: at most some hundred KB.
            what: What they come for, in an error: "save 'model'".

        Raises:
            ProcessesError: One of them failed, did not come in time, or is gone.
        """
        return self._meet(_VALUE + payload, what)

    def exchange(self, call: Callable[[], bytes], what: str) -> list[bytes]:
        """`gather` of what `call` gives; where it raises, all others raise too.

        Args:
            call: It communicates nothing.
            what: As for `gather`.

        Raises:
            BaseException: What `call` raised here.
            ProcessesError: As for `gather`; `call` raised elsewhere, and the error says where and what.
        """
        try:
            payload = call()
        except BaseException as error:
            self.leave(error, what)
            raise
        return self._meet(_VALUE + payload, what)

    def together(self, call: Callable[[], Result], what: str) -> Result:
        """The result of `call`, once it has succeeded in all processes; arguments and errors are as for `exchange`."""
        results = []

        def kept() -> bytes:
            results.append(call())
            return b""

        self.exchange(kept, what)
        return results[0]

    def leave(self, error: BaseException, what: str) -> None:
        """Tell those who meet that this process does not come, and why; returns at once or, if nobody hears, soon."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if self.size > 1:
            try:
                self._bounded(_Round(self, _ERROR + text.encode(errors="replace")[: 4 * _LONGEST], what).leave)
            except ProcessesError:
                return  # `error` is the one to raise

    def wait(self, what: str) -> None:
        """Wait until all processes are here; arguments and errors are as for `gather`."""
        self._meet(_VALUE, what)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the block runs, tell those who wait already that this process is alive."""
        session, done = self._session, threading.Event()
        if self.size == 1 or session is None:
            yield
            return

        def beat() -> None:
            try:
                while not done.wait(self.deadline / _BEATS):
                    session.store.add("tritonparam/beats", 1)
            except RuntimeError:
                return  # the store is gone, which the next meeting says

        threading.Thread(target=beat, name="tritonparam-beats", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _meet(self, message: bytes, what: str) -> list[bytes]:
        if self.size == 1:
            return [message[1:]]
        found = self._bounded(_Round(self, message, what).meet)
        failed = {rank: each[1:].decode(errors="replace") for rank, each in enumerate(found) if each[:1] == _ERROR}
        if failed:
            told = [f"process {rank} of {self.size}: {text[:_LONGEST]}" for rank, text in failed.items()]
            more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            raise ProcessesError(f"{what} failed in {'; '.join(told[:_TOLD])}{more}")
        return [each[1:] for each in found]

    def _bounded(self, call: Callable[[_Watch], Result]) -> Result:
        """`call`, in a thread of its own: where the store does not answer, no call to it ever ends."""
        watch, done = _Watch(), threading.Event()
        results: list[Result] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(call(watch))
            except BaseException as error:
                errors.append(error)
            done.set()

        threading.Thread(target=run, name="tritonparam-meeting", daemon=True).start()
        while not done.wait(min(1.0, self.deadline / _BEATS)):
            if time.monotonic() - watch.answered > self.deadline:
                raise ProcessesError(
                    f"the store of the process group has not answered for {self.deadline:g} s: the process that keeps "
                    "it, rank 0 or the launcher, is stopped or cannot be reached"
                )
        if errors:
            if isinstance(errors[0], RuntimeError) and not isinstance(errors[0], ProcessesError):
                raise ProcessesError(
                    "the store of the process group cannot be used: the process that keeps it, rank 0 or the launcher, "
                    f"is gone, or the group has none ({str(errors[0]).splitlines()[0][:200]})"
                ) from None
            raise errors[0]
        return results[0]


class _Watch:
    """When a store answered last."""

    def __init__(self) -> None:
        self.answered = time.monotonic()

    def note(self) -> None:
        """It answered just now."""
        self.answered = time.monotonic()


class _Round:
    """One meeting of all: each says which message it has, rank 0 puts together who has which, and all read them."""

    def __init__(self, processes: Processes, message: bytes, what: str) -> None:
        if processes._session is None:
            raise ValueError("processes must be those of a group")
        self._all, self._session = processes, processes._session
        self._message, self._what = message, what
        self._prefix = ""

    def meet(self, watch: _Watch) -> list[bytes]:
        """The messages of all."""
        store = self._begin()
        here = [f"{self._prefix}/{rank}" for rank in range(self._all.size)]
        if self._all.rank == 0:
            missing = self._wait(here, watch)
            said = b"".join(_get(store, here)) if not missing else _NOBODY + self._told(missing).encode()
            store.set(self._key("all"), said)
        elif self._wait([self._key("all")], watch):
            missing = [rank for rank, key in enumerate(here) if not store.check([key])]
            raise ProcessesError(self._told(missing or [0]))
        else:
            said = store.get(self._key("all"))
        if said[:1] == _NOBODY:  # which no digit is
            raise ProcessesError(said[1:].decode())
        names = [said[start : start + 32].decode() for start in range(0, len(said), 32)]
        distinct = list(dict.fromkeys(names))
        if late := self._wait([self._key(name) for name in distinct], watch):
            raise ProcessesError(self._told([names.index(distinct[place]) for place in late]))
        messages = dict(zip(distinct, _get(store, [self._key(name) for name in distinct]), strict=True))
        if self._all.rank == 0:
            read = [self._key(f"{name}{end}") for name in distinct for end in ("", "+")]
            self._clear([*here, self._key("all"), *read])
        return [messages[name] for name in names]

    def leave(self, watch: _Watch) -> None:
        """Say the message, and hear nobody."""
        store = self._begin()
        watch.note()
        if self._all.rank == 0:  # who puts it together for the others, that they need not wait
            told = f"{self._what} failed in process 0 of {self._all.size}: {self._message[1:].decode()[:_LONGEST]}"
            store.set(self._key("all"), _NOBODY + told.encode())

    def _begin(self) -> Any:
        """Say the message; returns the store."""
        self._prefix = self._session.prefix()
        store = self._session.store
        name = hashlib.sha256(self._message).hexdigest()[:32]
        if store.add(self._key(f"{name}+"), 1) == 1:  # else another process says the same
            store.set(self._key(name), self._message)
        store.set(f"{self._prefix}/{self._all.rank}", name)
        return store

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _wait(self, keys: Sequence[str], watch: _Watch) -> list[int]:
        """Wait until all keys are there; the places of those that are not when nobody has shown life for too long."""
        store, look = self._session.store, _FIRST_LOOK
        heard, beats = time.monotonic(), 0
        while not store.check(list(keys)):
            watch.note()
            if look == _LAST_LOOK and (counted := store.add("tritonparam/beats", 0)) != beats:
                heard, beats = time.monotonic(), counted
            if time.monotonic() - heard > self._all.deadline:
                return [place for place, key in enumerate(keys) if not store.check([key])]
            time.sleep(look)
            look = min(2 * look, _LAST_LOOK)
        watch.note()
        return []

    def _told(self, missing: Sequence[int]) -> str:
        named = ", ".join(map(str, missing[:16])) + (f" and {len(missing) - 16} more" if len(missing) > 16 else "")
        are = ("process", "has", "it is") if len(missing) == 1 else ("processes", "have", "they are")
        return (
            f"{self._what}: {are[0]} {named} of {self._all.size} {are[1]} not come for {self._all.deadline:g} s: "
            f"{are[2]} gone, stopped, or busy with something else"
        )

    def _clear(self, keys: list[str]) -> None:
        """Forget the round before."""
        for key in self._session.keys:
            self._session.store.delete_key(key)
        self._session.keys = keys


def _get(store: Any, keys: Sequence[str]) -> list[bytes]:
    if store.has_extended_api():
        found: list[bytes] = store.multi_get(list(keys))
        return found
    return [store.get(key) for key in keys]
