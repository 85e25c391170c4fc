"""Counting what a call does, and nothing of what other tests have left."""

import contextlib
import gc


@contextlib.contextmanager
def uncollected():
    """A block in which Python collects no garbage, whose finalizers are calls and lines too."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
