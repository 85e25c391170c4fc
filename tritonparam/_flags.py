"""What a Parameter carries besides its data: names and flags, and what they may be."""

from __future__ import annotations

import re
from typing import Any, overload

DEFAULT_NAME = "Parameter"
LONGEST_NAME = 1024
# The tables of sparse operators, which alone may be made on a server or be cached.
TABLE = "embedding_table"
_PREFIX = re.compile(r"\w[\w.]*", re.ASCII)


def checked_name(name: object) -> str:
    """The name without blanks at its ends; the default one for None and for blanks.

    Raises:
        ValueError: It is too long, or no string (a ValueError because it is one in MindSpore).
    """
    if name is not None and not isinstance(name, str):
        raise ValueError(f"name must be a string or None, got {name!r} of type {type(name).__name__}")
    stripped = (name or "").strip()
    if len(stripped) > LONGEST_NAME:
        raise ValueError(
            f"name must be of at most {LONGEST_NAME} characters, got {len(stripped)}: {stripped[:40]!r}..."
        )
    return stripped or DEFAULT_NAME


def checked_prefix(prefix: object) -> str:
    """`prefix`, if it can stand before names: ASCII letters, digits, "_" and ".", the first of them not ".".

    Raises:
        TypeError: It is no string.
        ValueError: It is empty or has other characters. (In MindSpore a newline at the end slips through.)

    Examples:
        >>> checked_prefix("12_moments.a_")
        '12_moments.a_'
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {prefix!r} of type {type(prefix).__name__}")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix must hold ASCII letters, digits, '_' and '.' and not start with '.', got {prefix!r}")
    return prefix


def checked_bool(argument: str, value: object) -> bool:
    """`value`, if it is True or False.

    Raises:
        TypeError: It is anything else, a NumPy bool and 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be a bool, got {value!r} of type {type(value).__name__}")
    return value


class Flag:
    """An attribute that takes bools only."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Flag: ...

    @overload
    def __get__(self, instance: object, owner: type) -> bool: ...

    def __get__(self, instance: Any, owner: type) -> Flag | bool:
        if instance is None:
            return self
        value: bool = instance.__dict__[self._name]
        return value

    def __set__(self, instance: Any, value: bool) -> None:
        instance.__dict__[self._name] = checked_bool(self._name, value)


class Group:
    """An attribute that takes ints >= 0 only."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Group: ...

    @overload
    def __get__(self, instance: object, owner: type) -> int: ...

    def __get__(self, instance: Any, owner: type) -> Group | int:
        if instance is None:
            return self
        value: int = instance.__dict__[self._name]
        return value

    def __set__(self, instance: Any, value: int) -> None:
        given: object = value
        if isinstance(given, bool) or not isinstance(given, int):
            raise TypeError(f"{self._name} must be an int >= 0, got {value!r} of type {type(value).__name__}")
        if value < 0:
            raise ValueError(f"{self._name} must be an int >= 0, got {value!r}")
        instance.__dict__[self._name] = value
