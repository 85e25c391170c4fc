"""The JSON of a safetensors header, read so that no more is made of it than its rows, whatever it holds."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from tritonparam._arguments import shown
from tritonparam.checkpoint.json_files import finite, no_constant

METADATA_KEY = "__metadata__"
_SPACE = r"[ \t\n\r]*"
_NUMBER = r"(?:0|[1-9][0-9]{0,19})"
_MAX_RANK = 1024
_NUMBERS = rf"\[{_SPACE}((?:{_NUMBER}{_SPACE}(?:,{_SPACE}{_NUMBER}{_SPACE}){{0,{_MAX_RANK - 1}}})?)\]{_SPACE}"
_ROW = re.compile(
    rf'"([^"\\\x00-\x1f]*)"{_SPACE}:{_SPACE}'
    rf'\{{{_SPACE}"dtype"{_SPACE}:{_SPACE}"([A-Z0-9_]*)"{_SPACE},{_SPACE}"shape"{_SPACE}:{_SPACE}{_NUMBERS}'
    rf',{_SPACE}"data_offsets"{_SPACE}:{_SPACE}{_NUMBERS}\}}{_SPACE}([,}}]){_SPACE}'
)
_LIST = re.compile(_NUMBERS)
_BLANK = re.compile(_SPACE)
_MAX_EXTRA = 4096  # characters of a value that nobody asked for
_MAX_DEPTH = 126  # of arrays and objects in one another


class Row(NamedTuple):
    """What a header says of a tensor: its dtype's code, its shape, and from where to where its bytes go."""

    code: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


def parse_header(text: str) -> tuple[dict[str, Row], dict[str, str]]:
    """The rows of a header, by the name of the tensor, and the strings kept beside them.

    A row may have further keys, whose values are small; they are left out.

    Raises:
        ValueError: It is not the JSON object that safetensors describes, or has a key twice.

    Examples:
        >>> parse_header('{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}')
        ({'w': Row(code='F32', shape=(2, 3), offsets=(0, 24))}, {})
    """
    if text[:1] != "{":
        raise ValueError("its header must begin with '{'")
    rows: dict[str, Row] = {}
    metadata: dict[str, str] | None = None
    at, more = _first(text, 0)
    while more:
        hit = _ROW.match(text, at)
        if hit is not None and hit[1] != METADATA_KEY:
            name, code, shape, offsets, mark = hit.groups()
            row, at, more = Row(code, _ints(shape), _ints(offsets)), hit.end(), mark == ","
        else:
            name, at = _key(text, at)
            if name == METADATA_KEY:
                if metadata is not None:
                    raise ValueError(f"the key {METADATA_KEY!r} is there twice")
                metadata, at = _metadata(text, at)
                at, more = _next(text, at)
                continue
            row, at = _row(text, at, name)
            at, more = _next(text, at)
        if name in rows:
            raise ValueError(f"the key {shown(name)} is there twice")
        rows[name] = row
    if at != len(text):
        raise ValueError(f"its header must end with its object, and goes on at character {at}")
    return rows, metadata or {}


def _row(text: str, at: int, name: str) -> tuple[Row, int]:
    fields: dict[str, str | tuple[int, ...]] = {}
    at, more = _first(text, at)
    while more:
        key, at = _key(text, at)
        if key in fields:
            raise ValueError(f"{shown(name)} has the key {shown(key)} twice")
        if key == "dtype":
            fields[key], at = _string(text, at)
        elif key in ("shape", "data_offsets"):
            hit = _LIST.match(text, at)
            if hit is None:
                raise ValueError(
                    f"the {key} of {shown(name)} must be a list of ints >= 0, got {shown(text[at : at + 40])}"
                )
            fields[key], at = _ints(hit[1]), hit.end()
        else:
            fields[key] = ""
            at = _skip(text, at, name)
        at, more = _next(text, at)
    code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or not isinstance(shape, tuple) or not isinstance(offsets, tuple):
        raise ValueError(f"{shown(name)} must have dtype, shape and data_offsets, got {', '.join(map(shown, fields))}")
    return Row(code, shape, offsets), at


def _metadata(text: str, at: int) -> tuple[dict[str, str], int]:
    """The strings kept beside the tensors."""
    if text.startswith("null", at):
        return {}, at + 4
    try:
        metadata: dict[str, str] = {}
        at, more = _first(text, at)
        while more:
            key, at = _key(text, at)
            if key in metadata:
                raise ValueError(f"the key {shown(key)} is there twice")
            metadata[key], at = _string(text, at)
            at, more = _next(text, at)
    except ValueError as error:
        raise ValueError(f"its {METADATA_KEY} must be a JSON object of strings: {error}") from None
    return metadata, at


def _first(text: str, at: int) -> tuple[int, bool]:
    """Where the first key of the object at `at` is, and whether there is one."""
    at = _after(text, at, "{")
    return (_after(text, at, "}"), False) if text[at : at + 1] == "}" else (at, True)


def _next(text: str, at: int) -> tuple[int, bool]:
    """Where what follows a value is, and whether that is another key of the object."""
    at = _blank(text, at)
    more = text[at : at + 1] != "}"
    return _after(text, at, "," if more else "}"), more


def _key(text: str, at: int) -> tuple[str, int]:
    """The key at `at`, and where its value begins."""
    key, at = _string(text, at)
    return key, _after(text, _blank(text, at), ":")


def _after(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise ValueError(f"{mark!r} must be at character {at} of its header, got {shown(text[at : at + 40])}")
    return _blank(text, at + 1)


def _blank(text: str, at: int) -> int:
    hit = _BLANK.match(text, at)
    return at if hit is None else hit.end()


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise ValueError(f"a string must be at character {at} of its header, got {shown(text[at : at + 40])}")
    string: str
    string, at = _DECODER.raw_decode(text, at)
    try:
        string.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the string {shown(string)} has half of a surrogate pair") from None
    return string, at


def _skip(text: str, at: int, name: str) -> int:
    """Where what follows the value at `at` is."""
    part = text[at : at + _MAX_EXTRA]
    try:
        value, length = _DECODER.raw_decode(part)
        if "\\u" in part:
            json.dumps(value, ensure_ascii=False).encode()
        if _depth(value) > _MAX_DEPTH:
            raise ValueError("too deep")
    except (ValueError, RecursionError):
        raise ValueError(f"{shown(name)} has a value that is no small JSON, {shown(text[at : at + 40])}") from None
    return at + int(length)


def _depth(value: object) -> int:
    """How many arrays and objects of a JSON value lie in one another."""
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _ints(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(","))) if text else ()
    if numbers and max(numbers) >= 1 << 64:
        raise ValueError(f"a size or an offset must be less than 2**64, got {max(numbers)}")
    return numbers


_DECODER = json.JSONDecoder(parse_constant=no_constant, parse_float=finite)
