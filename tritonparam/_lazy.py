"""What a package shows: its public names, some of which are imported only when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from tritonparam._arguments import did_you_mean


def lazily(
    package: str, names: Mapping[str, str], elsewhere: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What the package called `package` is to have as its `__getattr__` and `__dir__` (PEP 562).

    Type checkers must not see the assignment: with a `__getattr__` every name would exist to them.

    Args:
        package: The `__name__` of the package.
        names: The module, relative to the package, that has each name which is not imported at once.
        elsewhere: Modules of the package, imported already, where a name may be that is looked for in the package.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise _missing(package, name, elsewhere)
        value = getattr(import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattr_, public_names(package)


def public_names(package: str) -> Callable[[], list[str]]:
    """What the package called `package` is to have as its `__dir__`, so that completion shows its `__all__` alone."""
    return lambda: sorted(sys.modules[package].__all__)


def _missing(package: str, name: str, elsewhere: Iterable[str]) -> AttributeError:
    """The error for a name that a package does not have, with where it is, or the name that is most like it."""
    hint = "" if name.startswith("_") else did_you_mean(name, sys.modules[package].__all__)
    for inner in elsewhere:
        if name in dir(sys.modules[f"{package}.{inner}"]):
            hint = f"; it is {package}.{inner}.{name}"
    # With `obj` too, Python's traceback would add a guess of its own.
    return AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name)
