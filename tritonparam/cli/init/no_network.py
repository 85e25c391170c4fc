"""No network while a model is built from a configuration: what would connect gets an error that says why."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")


class _State(threading.local):
    closed = False
    hooked = False


_STATE = _State()
_HOOK = threading.Lock()


@contextmanager
def no_network() -> Iterator[None]:
    """Let this thread reach no other machine: what tries gets an OSError.

    Examples:
        >>> import socket
        >>> with no_network():
        ...     try:
        ...         socket.create_connection(("localhost", 1))
        ...     except OSError as error:
        ...         print(error.strerror)
        a config must not ask the network for anything; give the values of its parts, such as backbone_config
    """
    _install()
    before, _STATE.closed = _STATE.closed, True
    try:
        yield
    finally:
        _STATE.closed = before


def _install() -> None:
    """Add the hook, which no one can take away again, once."""
    with _HOOK:
        if not _State.hooked:
            sys.addaudithook(_refuse)
            _State.hooked = True


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS and _STATE.closed and not _is_local(event, arguments):
        raise ConnectionRefusedError(
            errno.ECONNREFUSED,
            "a config must not ask the network for anything; give the values of its parts, such as backbone_config",
        )


def _is_local(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether it is a socket in the file system of this machine."""
    return event not in ("socket.getaddrinfo", "socket.gethostbyname") and isinstance(arguments[-1], (str, bytes))
