"""JSON that others wrote, read strictly: one object, no key twice, not deep, from a regular file of bounded size."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

MAX_JSON = 100_000_000  # bytes
MAX_DEPTH = 64
_MAX_DIGITS = 400
_STRIDE = 1 << 16  # bytes
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def open_regular(path: Path) -> BufferedReader:
    """The file at `path`, open for reading; never a pipe that waits for ever, a device or a folder.

    Raises:
        OSError: There is none, it cannot be read, or it is no regular file; `filename` is `path`.
        ValueError: `path` is no path that a system has, such as one with a NUL.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_json_object(
    path: Path,
    limit: int = MAX_JSON,
    *,
    constant: Callable[[str], Any] | None = None,
    containers: int | None = None,
) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Args:
        path: A regular file.
        limit: The most bytes that it may have.
        constant, containers: As for `parse_json_object`.

    Raises:
        OSError: As for `open_regular`.
        ValueError: It is larger than `limit`, or `parse_json_object` refuses it. The message goes on after the name of
            the file, which it does not have.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > limit else file.read(limit + 1)
    if max(size, len(data)) > limit:
        raise ValueError(f"must have at most {limit} bytes, got {max(size, len(data))}")
    return parse_json_object(data, constant=constant, containers=containers)


def parse_json_object(
    data: bytes,
    *,
    constant: Callable[[str], Any] | None = None,
    depth: int = MAX_DEPTH,
    containers: int | None = None,
) -> dict[str, Any]:
    """The JSON object that `data` is.

    Args:
        data: JSON in UTF-8, without a byte order mark.
        constant: What to make of "Infinity", "-Infinity" and "NaN", which JSON does not have; None to refuse them.
        depth: How many arrays and objects may lie in one another.
        containers: How many of them there may be in all; None for any number.

    Raises:
        ValueError: It is not JSON in UTF-8, not an object, deeper than `depth`, of more than `containers`, has a key
            twice, a number that no float can hold or a string that has no bytes. The message goes on after a name for
            `data`.

    Examples:
        >>> parse_json_object(b'{"a": [1, {"b": null}]}')
        {'a': [1, {'b': None}]}
        >>> parse_json_object(b'{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: has the key 'a' twice
    """
    _check_depth(data, depth, containers)
    try:
        values = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=constant or no_constant,
            parse_float=finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"is not JSON in UTF-8: byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:  # where little of the stack is left
        raise ValueError(f"must not be nested more than {depth} deep") from None
    if not isinstance(values, dict):
        raise ValueError(f"must hold a JSON object, got {type(values).__name__}")
    if _HALF_PAIR.search(data):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("has a string with half of a surrogate pair") from None
    return values


def _check_depth(data: bytes, depth: int, containers: int | None) -> None:
    """Refuse what is nested deeper than `depth`, or is of too many parts, before memory is made for any of it."""
    # Without what is escaped, the quotes are those of strings.
    text = np.frombuffer(data.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    quotes, level, count = np.uint8(0), 0, 0
    for start in range(0, len(text), _STRIDE):
        part = text[start : start + _STRIDE]
        seen = quotes + np.cumsum(part == ord('"'), dtype=np.uint8)  # modulo 256, of which the parity counts
        steps = _STEPS[part]
        steps[seen % 2 == 1] = 0
        levels = level + np.cumsum(steps, dtype=np.int64)
        quotes, level = seen[-1], int(levels[-1])
        count += int((steps > 0).sum())
        if levels.max() > depth:
            raise ValueError(f"must not be nested more than {depth} deep")
        if containers is not None and count > containers:
            raise ValueError(f"must have at most {containers} arrays and objects, and has more")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"has the key {first_repeated(key for key, _ in pairs)[:100]!r} twice")
    return values


def first_repeated(names: Iterable[str]) -> str:
    """The first name that was there before.

    Examples:
        >>> first_repeated(["a", "b", "a"])
        'a'
    """
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def no_constant(text: str) -> None:
    """Refuse what JSON has no number for."""
    raise ValueError(f"is not JSON: {text} is no number there")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"has a number of {len(text)} digits; {_MAX_DIGITS} are allowed")
    return int(text)


def finite(text: str) -> float:
    """A number of JSON, if a float can hold it."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"has a number that no float can hold, {text[:40]}")
    return number
