"""An interrupt while the command line is still being imported: one line, as later, and no traceback."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = "tritonparam"
INTERRUPTED = "interrupted; run the same command again to continue"
EXIT_CODE = 130  # as a shell has it


@contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Where this process is the command line, end it on an interrupt inside; elsewhere the interrupt goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not is_program(sys.orig_argv, sys.argv):
            raise
        sys.stderr.write(f"error: {INTERRUPTED}\n")
        raise SystemExit(EXIT_CODE) from None


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
