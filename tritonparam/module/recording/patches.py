"""Patches: functions of Python and torch that are replaced while there is a block, because no hook leads into them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tritonparam._locks import across_forks

_lock = across_forks()
_ABSENT = object()


class Patches:
    """Replacements of attributes, there while at least one thread is in `applied`.

    Args:
        wanted: The owner of each attribute, its name, and what makes the replacement of the original.
    """

    def __init__(self, *wanted: tuple[Any, str, Callable[[Any], Any]]) -> None:
        self._wanted = wanted
        self._originals: list[Any] = []
        self._count = 0

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Have them in place."""
        with _lock:
            if not self._count:
                for owner, name, replacement in self._wanted:
                    self._originals.append(vars(owner).get(name, _ABSENT))
                    setattr(owner, name, replacement(getattr(owner, name)))
            self._count += 1
        try:
            yield
        finally:
            with _lock:
                self._count -= 1
                if not self._count:
                    for owner, name, _ in reversed(self._wanted):
                        original = self._originals.pop()
                        if original is _ABSENT:
                            delattr(owner, name)
                        else:
                            setattr(owner, name, original)
