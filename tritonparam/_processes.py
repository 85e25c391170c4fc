"""What the processes of a torch.distributed group tell each other before and after they work: small, and by a deadline.

Messages go through the store that the group was made with, and not through its collectives.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch

from tritonparam._arguments import checked_bool, few, got, shown
from tritonparam._meeting import BEATS, ERROR, LONGEST, VALUE, ProcessesError, Result, Round, Session, bounded

DEADLINE = 300.0  # seconds
_TOLD = 4  # processes in an error
_LAST = 10.0  # seconds
_NAMED = 8  # bytes of a message that say what it is for
_LAUNCH = "start all of them with torchrun, or unset WORLD_SIZE for one alone"


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


def checked_group(group: Any) -> Any:
    """`group`, if it is a process group that this process is in.

    Raises:
        TypeError: It is none.
        ValueError: This process is not in it.
    """
    available = torch.distributed.is_available()
    if available and group is torch.distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must have this process in it, got one without it")
    if not available or not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup or None, {got(group)}")
    return group


_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
_sessions_among: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], Session]] = weakref.WeakKeyDictionary()


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
    _session: Session | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, group: Any = None, deadline: float = DEADLINE) -> Processes:
        """The processes of a group.

        Args:
            group: None for all processes of torch.distributed; one alone where it is not initialized.
            deadline: As above.

        Raises:
            TypeError, ValueError: As for `checked_group`.
        """
        distributed = torch.distributed
        if group is None and not (distributed.is_available() and distributed.is_initialized()):
            return cls(deadline=deadline)
        group = distributed.group.WORLD if group is None else checked_group(group)
        rank, size = distributed.get_rank(group), distributed.get_world_size(group)
        session = _sessions.get(group)
        if session is None:
            store = distributed.distributed_c10d._get_process_group_store(group)
            session = _sessions[group] = Session(store, rank, size)
        return cls(rank, size, deadline, session)

    @classmethod
    def comparing(cls, check: bool, group: Any, deadline: float) -> Processes:
        """Those of `group` that compare, if they are to `check`; else this process alone, which says nothing.

        Raises:
            TypeError, ValueError: An argument is none of its kind, or out of range.
        """
        checked_bool("check", check)
        check_deadline("deadline", deadline)
        if group is not None:
            checked_group(group)
        return cls.of(group, deadline) if check else cls()

    @classmethod
    def among(cls, ranks: Sequence[int], deadline: float = DEADLINE) -> Processes:
        """Some of the processes of torch.distributed, of which no group has to be made.

        Args:
            ranks: The global ranks, of this process too.
            deadline: As above.

        Raises:
            ValueError: This process is not among them.
        """
        distributed, members = torch.distributed, tuple(ranks)
        rank = distributed.get_rank()
        if rank not in members:
            raise ValueError(f"ranks must have this process among them, {rank}, got {shown(list(members))}")
        place, sessions = members.index(rank), _sessions_among.setdefault(distributed.group.WORLD, {})
        if members not in sessions:
            prefix = f"tritonparam-{hashlib.sha256(repr(members).encode()).hexdigest()}"
            c10d = distributed.distributed_c10d
            sessions[members] = Session(c10d.PrefixStore(prefix, c10d._get_default_store()), place, len(members))
        return cls(place, len(members), deadline, sessions[members])

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], deadline: float = DEADLINE) -> Processes:
        """The processes that a launcher such as torchrun has started, one alone where none has.

        torch.distributed stays as it is.

        Args:
            environment: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as for `init_process_group`.
            deadline: As above.

        Raises:
            ValueError: Some of them are missing, or no numbers.
            ProcessesError: The other processes have not come before the deadline, or the address is wrong.
        """
        if environment.get("WORLD_SIZE", "1") == "1":
            return cls(deadline=deadline)
        lacking = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        if lacking:
            raise ValueError(f"WORLD_SIZE is set without {', '.join(lacking)}: {_LAUNCH}")
        rank, size = (_number(name, environment[name]) for name in ("RANK", "WORLD_SIZE"))
        _number("MASTER_PORT", environment["MASTER_PORT"])
        if not 0 <= rank < size:
            raise ValueError(f"RANK must be in [0, WORLD_SIZE), got {rank} and {size}: {_LAUNCH}")
        try:
            store, _, _ = bounded(lambda _: next(iter(_rendezvous(deadline))), deadline)
        except ProcessesError as error:
            raise ProcessesError(f"{size} processes of WORLD_SIZE have not met: {error}; {_LAUNCH}") from None
        prefixed = torch.distributed.distributed_c10d.PrefixStore("tritonparam-command", store)
        return cls(rank, size, deadline, Session(prefixed, rank, size))

    @property
    def is_group(self) -> bool:
        """Whether they are of a group, though it may have one process only."""
        return self._session is not None

    def gather(self, payload: bytes, what: str) -> list[bytes]:
        """What all processes have to say, in the order of their ranks; equal texts are sent once.

        Args:
            payload: What this one says: at most some hundred KB.
            what: What they come for, in an error: "save 'model'". Its first word is compared.

        Raises:
            ProcessesError: One of them failed, did not come in time, is gone, or came for something else.
        """
        return self._meet(VALUE + payload, what)

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
            with self.working():
                payload = call()
        except BaseException as error:
            self.leave(error, what)
            raise
        return self._meet(VALUE + payload, what)

    def together(self, call: Callable[[], Result], what: str) -> Result:
        """The result of `call`, once it has succeeded in all processes; arguments and errors are as for `exchange`."""
        results = []

        def kept() -> bytes:
            results.append(call())
            return b""

        self.exchange(kept, what)
        return results[0]

    def part(self, what: str) -> None:
        """Go: process 0, which may keep the store, stays until the others have gone too, for some seconds at most."""
        if self._session is not None and self.size > 1:
            deadline = min(self.deadline, _LAST)
            with suppress(ProcessesError):  # the work is done
                bounded(Round(self._session, VALUE, what, deadline).part, deadline)

    def leave(self, error: BaseException, what: str) -> None:
        """Tell those who meet that this process does not come, and why; returns at once or, if nobody hears, soon."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if self._session is not None and self.size > 1:
            message = ERROR + text.encode(errors="replace")[: 4 * LONGEST]
            with suppress(ProcessesError):  # `error` is the one to raise
                bounded(Round(self._session, message, what, self.deadline).leave, self.deadline)

    def wait(self, what: str) -> None:
        """Wait until all processes are here; arguments and errors are as for `gather`."""
        self._meet(VALUE, what)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the block runs, tell those who wait already that this process is alive."""
        session, done = self._session, threading.Event()
        if self.size == 1 or session is None:
            yield
            return

        def beat() -> None:
            try:
                while not done.wait(self.deadline / BEATS):
                    session.store.add("tritonparam/beats", 1)
            except RuntimeError:
                return  # the store is gone, which the next meeting says

        threading.Thread(target=beat, name="tritonparam-beats", daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _meet(self, message: bytes, what: str) -> list[bytes]:
        if self._session is None or self.size == 1:
            return [message[1:]]
        call = what.split(" ")[0].encode(errors="replace")  # what follows may be each process's own, such as a path
        named = message[:1] + hashlib.sha256(call).digest()[:_NAMED] + message[1:]
        found = bounded(Round(self._session, named, what, self.deadline).meet, self.deadline)
        failed = {rank: each[1:].decode(errors="replace") for rank, each in enumerate(found) if each[:1] == ERROR}
        if failed:
            told = [f"process {rank} of {self.size}: {text[:LONGEST]}" for rank, text in failed.items()]
            more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
            raise ProcessesError(f"{what} failed in {'; '.join(told[:_TOLD])}{more}")
        other = [rank for rank, each in enumerate(found) if each[1 : 1 + _NAMED] != named[1 : 1 + _NAMED]]
        if other:
            raise ProcessesError(
                f"{what}: all processes must make the same calls in the same order, and process "
                f"{few(other, _TOLD)} of {self.size} made another one"
            )
        return [each[1 + _NAMED :] for each in found]


def _rendezvous(deadline: float) -> Any:
    from torch.distributed.rendezvous import rendezvous

    return rendezvous("env://", timeout=timedelta(seconds=deadline))


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f"{name} must be a number, got {shown(text)}: {_LAUNCH}")
    return int(text)
