"""What a user gives: how an error shows it, and the checks that every room needs.

Whatever the value does when it is looked at (its `repr`, `len`, iteration or index may raise), the error is a short one
of ours.
"""

from __future__ import annotations

import operator
import reprlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

_LONGEST = 240  # characters of one value: three of them and a sentence stay below 1,000
_LONGEST_NAME = 40  # characters of a name that others are compared with
_LONGEST_INT = 256  # bits, of an int that is written out
_INT = frozenset((int,))
_INNER = frozenset(("tritonparam", "torch", "contextlib", "functools"))


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = self.maxarray = 12
        self.maxstring = 120
        self.maxother = _LONGEST

    def repr1(self, x: object, level: int) -> str:
        if isinstance(x, torch.Tensor):
            return f"{type(x).__name__}(shape={tuple(x.shape)}, dtype={x.dtype}, device={x.device})"
        if isinstance(x, np.ndarray) and x.size > self.maxarray:
            return f"{type(x).__name__}(shape={x.shape}, dtype={x.dtype})"
        if isinstance(x, (bytes, bytearray)) and len(x) > self.maxstring:
            return f"{type(x).__name__} of {len(x)} bytes"
        if type(x) is int and x.bit_length() > _LONGEST_INT:
            return f"{'-' if x < 0 else ''}<int of {x.bit_length()} bits>"
        return super().repr1(x, level)


_REPR = _Repr()


def shown(value: object, longest: int = _LONGEST) -> str:
    """What stands for `value` in an error: its `repr`, of at most `longest` characters.

    Examples:
        >>> shown([1, 2.5]), shown("w")
        ('[1, 2.5]', "'w'")
        >>> len(shown("w" * 10**6)) < 130, shown(10**400), shown(torch.zeros(2, 3))
        (True, '<int of 1329 bits>', 'Tensor(shape=(2, 3), dtype=torch.float32, device=cpu)')
    """
    try:
        text = _REPR.repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def got(value: object) -> str:
    """The end of an error about a value of the wrong type: what it is, and of which type.

    Examples:
        >>> got("w")
        "got 'w' of type str"
    """
    kind = type(value).__name__[:100]
    ours = kind in ("Parameter", "Tensor") and type(value).__module__.startswith("torch")
    return f"got {shown(value)} of type {'torch.' if ours else ''}{kind}"


def few(values: Sequence[object], most: int) -> str:
    """The first `most` of some values, as text, and how many more there are.

    Examples:
        >>> few([0, 1, 2], 3), few(range(100), 2)
        ('0, 1, 2', '0, 1 and 98 more')
    """
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """The end of an error about a name that there is not: the one that is most like it; "" where none is.

    Examples:
        >>> did_you_mean("insepct", ["init", "inspect"]), did_you_mean("x", ["init"])
        ("; did you mean 'inspect'?", '')
    """
    from difflib import get_close_matches  # takes time, which only errors have

    close = get_close_matches(text[:_LONGEST_NAME], list(names), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and name the line of the caller's that is outside this package and torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _INNER:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def entries(argument: str, values: Iterable[Any], allowed: str) -> list[Any]:
    """What an iterable holds.

    Args:
        argument: What it is called.
        values: Anything; of an iterator what is left in it.
        allowed: What it must be, for the error.

    Raises:
        TypeError: It is not iterable, or it is a tensor, whose values nobody has asked for.

    Examples:
        >>> entries("operations", (1, 2), "an iterable")
        [1, 2]
    """
    try:
        if not hasattr(type(values), "__torch_function__"):
            return list(iter(values))
    except Exception as error:
        raise TypeError(f"{argument} must be {allowed}, {got(values)}") from error
    raise TypeError(f"{argument} must be {allowed}, {got(values)}")


def checked_bool(argument: str, value: object) -> bool:
    """`value`, if it is True or False.

    Raises:
        TypeError: It is anything else, a NumPy bool and 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be a bool, {got(value)}")
    return value


def integer(argument: str, value: Any) -> int:
    """An int, or what stands for one, as a Python int; a bool is none.

    Raises:
        TypeError: It is anything else.

    Examples:
        >>> integer("rank", np.int64(3))
        3
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except Exception as error:
        raise TypeError(f"{argument} must be an int, {got(value)}") from error
    raise TypeError(f"{argument} must be an int, {got(value)}")


def integers(argument: str, values: Iterable[Any]) -> tuple[int, ...]:
    """An iterable of ints, or of what stands for them, as a tuple of Python ints.

    Raises:
        TypeError: It is not iterable, or holds anything else, or it is a Tensor, whose values nobody has asked for.

    Examples:
        >>> integers("offsets", [1, np.int64(2)])
        (1, 2)
    """
    if type(values) in (tuple, torch.Size) and _INT.issuperset(map(type, values)):  # as nearly always
        return tuple(values)
    try:
        if isinstance(values, torch.Tensor) or not hasattr(type(values), "__torch_function__"):
            return tuple(map(operator.index, values))
    except Exception as error:
        raise TypeError(f"{argument} must hold ints, {got(values)}") from error
    raise TypeError(f"{argument} must hold ints, {got(values)}")


def choice(argument: str, value: Any, choices: Sequence[str]) -> str:
    """One of `choices`.

    Raises:
        ValueError: It is none of them.

    Examples:
        >>> choice("backend", "numpy", ("triton", "numpy"))
        'numpy'
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument} must be one of {choices}, got {shown(value)}")
    return value
