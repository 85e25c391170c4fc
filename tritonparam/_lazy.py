"""What a package shows: its public names, some of which are imported only when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What the package called `package` is to have as its `__getattr__` and `__dir__` (PEP 562).

    Type checkers must not see the assignment: with a `__getattr__` every name would exist to them.

    Args:
        package: The `__name__` of the package.
        names: The module, relative to the package, that has each name which is not imported at once.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise _missing(package, name)
        value = getattr(import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattr_, public_names(package)


def public_names(package: str) -> Callable[[], list[str]]:
    """What the package called `package` is to have as its `__dir__`, so that completion shows its `__all__` alone."""
    return lambda: sorted(sys.modules[package].__all__)


def _missing(package: str, name: str) -> AttributeError:
    """The error for a name that a package does not have, with the one of its names that is most like it."""
    from difflib import get_close_matches  # takes time, which only errors have

    close = [] if name.startswith("_") else get_close_matches(name, sys.modules[package].__all__, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    for inner in ("initializer", "dtype"):
        there = sys.modules.get(f"{package}.{inner}")
        if name in getattr(there, "__all__", ()) or (inner == "dtype" and hasattr(there, name)):
            hint = f"; it is {package}.{inner}.{name}"
    # With `obj` too, Python's traceback would add a guess of its own.
    return AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)
