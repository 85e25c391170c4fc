"""Generators: which key the next tensor of a given name draws with.

A generator holds a seed and how often each name was asked for; it draws nothing itself and touches no other random
state.
"""

from __future__ import annotations

from contextvars import ContextVar
from numbers import Integral
from types import TracebackType
from typing import Any

from tritonparam._arguments import got, shown
from tritonparam._locks import across_forks
from tritonparam.stream.key import derive_key

# One for all generators: it is held for microseconds, and a fork can wait for it.
_COUNTING = across_forks()


def _checked_seed(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an int, {got(seed)}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {shown(seed)}")
    return int(seed)


class Generator:
    """Keys that depend on the seed, the name and how often this generator was asked for that name, and on nothing else.

    They do not depend on the order in which different names come, on threads, on devices or on any global random state.
    In a `with` block it is the generator that new lazy tensors take their keys from: in this thread or asyncio task
    only, innermost block first.

    A copy, deep or not, and what is pickled go on from the same counts, each by itself.

    Args:
        seed: 0 <= seed < 2**64.

    Raises:
        TypeError: seed is not an integer, or is a bool.
        ValueError: seed is out of range.

    Examples:
        >>> generator = Generator(7)
        >>> first, second = generator.key("w"), generator.key("w")
        >>> first != second, Generator(7).key("w") == first
        (True, True)
        >>> with generator:
        ...     get_generator() is generator
        True
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = _checked_seed(seed)
        self._occurrences: dict[str, int] = {}

    @property
    def seed(self) -> int:
        """The seed it was made with."""
        return self._seed

    def key(self, name: str) -> int:
        """The 64-bit key of the next tensor called `name`; counts it.

        Raises:
            TypeError: name is not a string.
            ValueError: name cannot be encoded in UTF-8.

        Examples:
            >>> from tritonparam import derive_key
            >>> generator = Generator(7)
            >>> [generator.key("w") == derive_key(7, "w", occurrence) for occurrence in range(3)]
            [True, True, True]
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, {got(name)}")
        with _COUNTING:
            occurrence = self._occurrences.get(name, 0)
            key = derive_key(self._seed, name, occurrence)
            self._occurrences[name] = occurrence + 1
        return key

    def __getstate__(self) -> dict[str, Any]:
        with _COUNTING:
            return self.__dict__ | {"_occurrences": dict(self._occurrences)}

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed})"

    def __enter__(self) -> Generator:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _entered.set(_entered.get()[:-1])


_entered: ContextVar[tuple[Generator, ...]] = ContextVar("tritonparam_generators", default=())
_default = Generator(0)
_seed: int | None = None


def get_generator() -> Generator:
    """The generator of the innermost `with` block of this thread, or the default one.

    Examples:
        >>> get_generator()
        Generator(seed=0)
    """
    entered = _entered.get()
    return entered[-1] if entered else _default


def seed_or_default(seed: int | None) -> int:
    """`seed`, or that of `get_generator()` where it is None.

    Raises:
        TypeError, ValueError: As for `Generator`.

    Examples:
        >>> with Generator(7):
        ...     seed_or_default(None), seed_or_default(3)
        (7, 3)
    """
    return get_generator().seed if seed is None else _checked_seed(seed)


def set_seed(seed: int) -> None:
    """Make the default generator a fresh one, with no name counted; tensors that exist keep their keys.

    The seeds of torch, NumPy and Python are left alone (MindSpore's `set_seed` sets NumPy's). Inside `with generator:`
    that generator stays in use.

    Args:
        seed: 0 <= seed < 2**64; 0 until this is called.

    Raises:
        TypeError: seed is not an integer, or is a bool.
        ValueError: seed is out of range.

    Examples:
        >>> set_seed(0)
        >>> get_seed()
        0
    """
    global _default, _seed
    generator = Generator(seed)
    _default, _seed = generator, generator.seed


def get_seed() -> int | None:
    """What `set_seed` set last; None before its first call.

    Examples:
        >>> set_seed(0)
        >>> get_seed()
        0
    """
    return _seed
