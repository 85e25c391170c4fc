"""One meeting of the processes of a group, in the store of the group: who has come, with which message.

A store knows who has come, waits only as long as it is asked to, and is whole after somebody failed. A collective that
one process misses keeps all others until the group's own timeout, if not longer, and the group is of no use then.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tritonparam._arguments import few
from tritonparam._errors import TritonParamError

_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1  # seconds from one look at the store to the next
BEATS = 8  # signs of life in the time of a deadline
LONGEST = 600  # characters of an error that others hear of
_GRACE = 1.0  # seconds, in which who hears nobody says who is missing
VALUE, ERROR, _NOBODY = b"v", b"e", b"n"

Result = TypeVar("Result")


class ProcessesError(TritonParamError, RuntimeError):
    """Another process of the group failed, did not come in time, or is gone."""


class Session:
    """The messages of one group in its store: where they are, and how many rounds there were.

    A store may outlive a group, so the rounds of a later one are counted apart.

    Args:
        store: Of torch.distributed.
        rank, size: This process, and how many there are.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store = store
        self.rank, self.size = rank, size
        self.rounds = 0
        self.keys: list[str] = []  # of the round before, which all have read when the next one is complete
        self._begun = 0

    def prefix(self) -> str:
        """Where the next round is."""
        if not self._begun:
            clone = getattr(self.store, "clone", None)
            kind = type(getattr(self.store, "_underlying_non_prefix_store", self.store)).__name__
            if clone is not None and kind == "TCPStore":
                self.store = clone()  # a connection of its own: others may wait on theirs
            self._begun = self.store.add(f"tritonparam/{self.rank}", 1)
        self.rounds += 1
        return f"tritonparam/{self._begun}/{self.rounds}"


class Watch:
    """When a store answered last."""

    def __init__(self) -> None:
        self.answered = time.monotonic()

    def note(self) -> None:
        """It answered just now."""
        self.answered = time.monotonic()


class Round:
    """One meeting of all: each says which message it has, rank 0 puts together who has which, and all read them."""

    def __init__(self, session: Session, message: bytes, what: str, deadline: float) -> None:
        self._session, self._deadline = session, deadline
        self._message, self._what = message, what
        self._prefix = ""

    def meet(self, watch: Watch) -> list[bytes]:
        """The messages of all."""
        store = self._begin()
        here = [f"{self._prefix}/{rank}" for rank in range(self._session.size)]
        if self._session.rank == 0:
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
        if self._session.rank == 0:
            read = [self._key(f"{name}{end}") for name in distinct for end in ("", "+")]
            self._clear([*here, self._key("all"), *read])
        return [messages[name] for name in names]

    def leave(self, watch: Watch) -> None:
        """Say the message, and hear nobody."""
        store = self._begin()
        watch.note()
        if self._session.rank == 0:  # who puts it together for the others, that they need not wait
            told = f"{self._what} failed in process 0 of {self._session.size}: {self._message[1:].decode()[:LONGEST]}"
            store.set(self._key("all"), _NOBODY + told.encode())

    def part(self, watch: Watch) -> None:
        """Say the message; process 0 waits for all."""
        self._begin()
        if self._session.rank == 0:
            self._wait([f"{self._prefix}/{rank}" for rank in range(self._session.size)], watch)

    def _begin(self) -> Any:
        """Say the message; returns the store."""
        self._prefix = self._session.prefix()
        store = self._session.store
        name = hashlib.sha256(self._message).hexdigest()[:32]
        if store.add(self._key(f"{name}+"), 1) == 1:  # else another process says the same
            store.set(self._key(name), self._message)
        store.set(f"{self._prefix}/{self._session.rank}", name)
        return store

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _wait(self, keys: Sequence[str], watch: Watch) -> list[int]:
        """Wait until all keys are there; the places of those that are not when nobody has shown life for too long."""
        store, look = self._session.store, _FIRST_LOOK
        heard, beats = time.monotonic(), 0
        while not store.check(list(keys)):
            watch.note()
            if look == _LAST_LOOK and (counted := store.add("tritonparam/beats", 0)) != beats:
                heard, beats = time.monotonic(), counted
            if time.monotonic() - heard > self._deadline:
                return [place for place, key in enumerate(keys) if not store.check([key])]
            time.sleep(look)
            look = min(2 * look, _LAST_LOOK)
        watch.note()
        return []

    def _told(self, missing: Sequence[int]) -> str:
        are = ("process", "has", "it is") if len(missing) == 1 else ("processes", "have", "they are")
        return (
            f"{self._what}: {are[0]} {few(missing, 16)} of {self._session.size} {are[1]} not come for "
            f"{self._deadline:g} s: {are[2]} gone, stopped, or busy with something else"
        )

    def _clear(self, keys: list[str]) -> None:
        """Forget the round before."""
        for key in self._session.keys:
            self._session.store.delete_key(key)
        self._session.keys = keys


def bounded(call: Callable[[Watch], Result], deadline: float) -> Result:
    """`call`, in a thread of its own: where the store does not answer, no call to it ever ends."""
    watch, done = Watch(), threading.Event()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call(watch))
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=run, name="tritonparam-meeting", daemon=True).start()
    while not done.wait(min(1.0, deadline / BEATS)):
        if time.monotonic() - watch.answered > deadline + _GRACE:
            raise ProcessesError(
                f"the store of the process group has not answered for {deadline:g} s: the process that keeps it, rank "
                "0 or the launcher, is stopped or cannot be reached"
            )
    if errors:
        if isinstance(errors[0], RuntimeError) and not isinstance(errors[0], ProcessesError):
            raise ProcessesError(
                "the store of the process group cannot be used: the process that keeps it, rank 0 or the launcher, is "
                f"gone, or the group has none ({str(errors[0]).splitlines()[0][:200]})"
            ) from None
        raise errors[0]
    return results[0]


def _get(store: Any, keys: Sequence[str]) -> list[bytes]:
    if store.has_extended_api():
        found: list[bytes] = store.multi_get(list(keys))
        return found
    return [store.get(key) for key in keys]
