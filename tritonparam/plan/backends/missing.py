"""Packages that backends need, and what is said where they are not installed."""

from __future__ import annotations

import functools
import importlib.util
import logging

_SLOW_FROM = 1 << 24  # random elements, which the definition makes in a second or two

_log = logging.getLogger("tritonparam")


@functools.cache
def is_installed(package: str) -> bool:
    """Whether `package` can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # somebody forbids it, or it is half there
        return False


def require(what: str, package: str) -> None:
    """Refuse to go on without a package: `what` needs it, as in "backend 'cpu' needs".

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    if not is_installed(package):
        raise ImportError(f"{what} the package {package}: pip install {package}")


def tell_of_compiled_loops(elements: int) -> None:
    """Say once, if NumPy is to make so many random values because Numba is not installed, what to install."""
    if elements >= _SLOW_FROM and not is_installed("numba"):
        _tell()


@functools.cache
def tell_of_compiler(error: str) -> None:
    """Say once that Numba cannot compile."""
    _log.warning("NumPy makes the values, which is slow: Numba cannot compile (%s)", error)


@functools.cache
def _tell() -> None:
    _log.warning("NumPy makes the values, which is slow: pip install numba for compiled loops")
