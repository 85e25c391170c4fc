"""The process: the command line's looks for no garbage while it imports, and leaves its memory to the system.

Half a million objects come with torch and transformers, and stay. Python looks through them again and again while they
come, and takes them apart one by one in the end: a quarter of the time of `tritonparam init` for a small model.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

from tritonparam._interrupt import is_program, take_sigterm


class _State:
    """Which process is the command line, and what its exit status will be once that is known."""

    process: int | None = None
    status: int | None = None


def begin() -> None:
    """Where this process is the command line, be quick from here on; before torch is imported.

    What others have registered with `atexit` since then is still done, and threads are waited for.
    """
    if is_program(sys.orig_argv, sys.argv):
        _State.process = os.getpid()
        take_sigterm()
        gc.disable()
        atexit.register(_leave)


def imported() -> None:
    """Say that all objects that there are now will stay; from here on garbage is looked for as usual."""
    if _State.process is not None:
        gc.freeze()
        gc.enable()


def ending(status: int) -> None:
    """Say with which exit status the program is about to end."""
    _State.status = status


def _leave() -> None:
    """End the process, with all output written; as Python does it where that fails, or the status is unknown."""
    if _State.status is None or _State.process != os.getpid():
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, full or closed, which Python has its words for
            return
    os._exit(_State.status)


def peak_bytes() -> int | None:
    """The most host memory that the process had at a time; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_peak() -> str:
    """`peak_bytes` in words."""
    found = peak_bytes()
    if found is None:
        return "memory of the process: not told by this system"
    return f"most memory of the process: {found:,} bytes"
