"""Subnormal numbers: values have them, whatever a thread was told to do with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def gradual_underflow() -> Iterator[None]:
    """Let this thread compute with subnormal numbers inside, also after `torch.set_flush_denormal(True)`."""
    smallest = sys.float_info.min
    if smallest / 2:
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)
