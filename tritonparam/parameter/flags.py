"""What a Parameter carries besides its data: names and flags, and what they may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from tritonparam._arguments import got, shown

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
        raise ValueError(f"name must be a string or None, {got(name)}")
    stripped = (name or "").strip()
    if len(stripped) > LONGEST_NAME:
        raise ValueError(
            f"name must be of at most {LONGEST_NAME} characters, got {len(stripped)}: {shown(stripped[:40])}..."
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
        raise TypeError(f"prefix must be a string, {got(prefix)}")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"prefix must hold ASCII letters, digits, '_' and '.' and not start with '.', got {shown(prefix)}"
        )
    return prefix


def checked_group(argument: str, value: object) -> int:
    """`value`, if it is an int >= 0.

    Raises:
        TypeError: It is no int, or a bool.
        ValueError: It is negative.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int >= 0, {got(value)}")
    if value < 0:
        raise ValueError(f"{argument} must be an int >= 0, got {shown(value)}")
    return value


T = TypeVar("T")


class Checked(Generic[T]):
    """An attribute that takes only what `check`, given its name and a value, lets through."""

    def __init__(self, check: Callable[[str, object], T]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Checked[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: Any, owner: type) -> Checked[T] | T:
        if instance is None:
            return self
        value: T = instance.__dict__[self._name]
        return value

    def __set__(self, instance: Any, value: T) -> None:
        instance.__dict__[self._name] = self._check(self._name, value)
