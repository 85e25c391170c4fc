"""What the options and arguments take: numbers, paths and sizes, checked where they are read, as in Python."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tritonparam._arguments import shown

_MOST_SHOWN = 40  # characters of a number
_LEAST_SIZE = 1000  # bytes, of a size without a unit: smaller ones are meant in another unit


def whole(argument: str, allowed: str, low: int = 0, high: int | None = None) -> Callable[[str], int]:
    """What reads an int for the option or argument `argument`.

    Args:
        argument: What an error calls it.
        allowed: What it must be, for the error.
        low: The least that it may be.
        high: What it must be below; None for no bound.

    Examples:
        >>> whole("--seed", "an int in [0, 2**64)", 0, 2**64)("7")
        7
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _wrong(argument, allowed, text) from None
        if "_" in text or value < low or (high is not None and value >= high):
            raise _wrong(argument, allowed, text)
        return value

    return read


def number(argument: str, allowed: str) -> Callable[[float | str], float]:
    """What reads a finite number above 0 for the option `argument`, which must be what `allowed` says."""

    def read(text: float | str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _wrong(argument, allowed, str(text)) from None
        if not 0 < value < math.inf:
            raise _wrong(argument, allowed, str(text))
        return value

    return read


def path(argument: str) -> Callable[[str], Path]:
    """What reads a path for the option or argument `argument`; `~` is a home folder, as for a shell."""

    def read(text: str) -> Path:
        from tritonparam.checkpoint import UsageError, as_path

        try:
            return as_path(text, argument)
        except ValueError as error:
            raise UsageError(str(error)) from None

    return read


def new_folder(argument: str) -> Callable[[str], Path]:
    """As `path`, for a folder that is made: a name that ends as a file of weights does is a mistake."""
    read = path(argument)

    def read_folder(text: str) -> Path:
        from tritonparam.checkpoint import TORCH_ENDINGS, UsageError

        found = read(text)
        if found.suffix in (".safetensors", *TORCH_ENDINGS):
            raise UsageError(f"{argument} must name a folder, got {text!r}: its files are called model*.safetensors")
        return found

    return read_folder


def size(text: str) -> int:
    """The bytes of --max-shard-size.

    Raises:
        UsageError: It is no size, or so small a number without a unit that bytes cannot be meant.

    Examples:
        >>> size("2GB"), size("3B")
        (2000000000, 3)
    """
    from tritonparam.checkpoint import UsageError, parse_size

    found = parse_size(text, "--max-shard-size")
    if found < _LEAST_SIZE and text.strip()[-1:].isdigit():
        raise UsageError(
            f"--max-shard-size must have a unit, such as {text.strip()}GB, where it is below {_LEAST_SIZE}: "
            f"{text.strip()} means {found} bytes, which give every tensor a file of its own; {found}B takes them"
        )
    return found


def all_of(*checks: Callable[[], Any]) -> list[Any]:
    """What some checks give, all of which are made; what several of them refuse is told together.

    Raises:
        CheckpointError: The only one, or a UsageError that tells all.
    """
    from tritonparam.checkpoint import CheckpointError, UsageError

    found: list[Any] = []
    errors: list[CheckpointError] = []
    for check in checks:
        try:
            found.append(check())
        except CheckpointError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else UsageError("; and ".join(map(str, errors)))
    return found


def _wrong(argument: str, allowed: str, text: str) -> Exception:
    from tritonparam.checkpoint import UsageError

    plain = re.fullmatch(r"[+-]?[\d.]+", text) and len(text) <= _MOST_SHOWN
    return UsageError(f"{argument} must be {allowed}, got {text if plain else shown(text)}")
