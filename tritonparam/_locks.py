"""Locks that a fork leaves usable: in the child there is no thread that could release what another thread held."""

from __future__ import annotations

import os
import threading


def across_forks() -> threading.RLock:
    """A reentrant lock that a fork waits for and holds meanwhile, so that the child has it free.

    The child also has what the lock guards whole, and not as a thread that is gone had left it half-way. Locks that one
    thread holds at the same time have to be made in the reverse of the order in which it takes them: a fork takes the
    latest first. The lock and what it guards last as long as the process.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
