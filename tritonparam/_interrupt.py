"""An interrupt, or SIGTERM, of the command line: one line that says what is kept, and no traceback, however early."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PROGRAM = "tritonparam"
EXIT_CODE = 130  # of an interrupt, as a shell has it
_AGAIN = "; run the same command again to continue"


class _Stop:
    """By which signal this process is ended, and the rest of the line about it."""

    number: int = signal.SIGINT
    kept: str = _AGAIN


def take_sigterm() -> None:
    """Treat SIGTERM as an interrupt from here on, unless somebody has said otherwise."""
    with contextlib.suppress(ValueError):  # in another thread than the main one
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    _Stop.number = number
    raise KeyboardInterrupt


def stopped() -> tuple[str, int]:
    """The line about the interrupt that has come, and the exit status."""
    word = "terminated" if _Stop.number == signal.SIGTERM else "interrupted"
    line, code = word + _Stop.kept, 128 + _Stop.number
    _Stop.number, _Stop.kept = signal.SIGINT, _AGAIN
    return line, code


@contextmanager
def keeping(kept: Callable[[], str] | str) -> Iterator[None]:
    """Have the line about an interrupt inside end with `kept`, or with what it gives then.

    Examples:
        >>> try:
        ...     with keeping(": 3 of 11 files are in gpt2.partial"):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     print(stopped())
        ('interrupted: 3 of 11 files are in gpt2.partial', 130)
    """
    try:
        yield
    except KeyboardInterrupt:
        _Stop.kept = kept if isinstance(kept, str) else kept()
        raise


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Where this process is the command line, end it on an interrupt inside; elsewhere the interrupt goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_program(sys.orig_argv, sys.argv):
            raise
        line, code = stopped()
        sys.stderr.write(f"{line}\n")
        raise SystemExit(code) from None


def is_program(original: list[str], arguments: list[str]) -> bool:
    """Whether these are the arguments of the command line, as a script or by `python -m`.

    Args:
        original: `sys.orig_argv`.
        arguments: `sys.argv`.

    Examples:
        >>> is_program(["python", "-m", "tritonparam", "init"], ["-m", "init"])
        True
        >>> is_program(["python", "train.py"], ["train.py"])
        False
    """
    if any(pair == ("-m", PROGRAM) for pair in itertools.pairwise(original)):
        return True
    name = os.path.basename(arguments[0]) if arguments else ""
    return name.removesuffix(".exe") == PROGRAM
