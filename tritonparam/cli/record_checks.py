"""What the fields of a record may be: a check raises a ValueError that names the field, its value and what is allowed.

A record may come from anywhere. What is checked here is all that is ever done with a field, so that none of it fails
later, half-way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tritonparam._arguments import shown
from tritonparam.plan import Box, meeting_pair

MOST_DIMENSIONS = 64
MOST_BOXES = 10_000  # of one tensor: they are compared with each other
MOST_BYTES = 2**63 - 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def as_mapping(value: object, where: str, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Any]:
    """`value` if it is a JSON object that has all keys in `required` and no others but those in `optional`."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {shown(value)}")
    required = tuple(required)
    for key in required:
        if key not in value:
            raise ValueError(f"{key!r} is missing in {where}")
    unknown = value.keys() - {*required, *optional}
    if unknown:
        raise ValueError(f"{where} has the unknown key {shown(min(unknown))}")
    return value


def as_text(value: object, where: str, allowed: Iterable[str] | None = None) -> str:
    """`value` if it is a string, and one of `allowed` where that is given."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string, got {shown(value)}")
    if allowed is not None and value not in (allowed := tuple(allowed)):
        raise ValueError(f"{where} must be one of {', '.join(allowed)}, got {shown(value)}")
    return value


def as_texts(value: object, where: str) -> tuple[str, ...]:
    """`value` if it is an array of strings."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be an array of strings, got {shown(value)}")
    return tuple(as_text(each, where) for each in value)


def as_int(value: object, where: str, low: int, high: int) -> int:
    """`value` if it is an int in [low, high]; True and 1.0 are none."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{where} must be an int in [{low}, {high}], got {shown(value)}")
    return value


def as_ints(value: object, where: str, rank: int | None = None) -> tuple[int, ...]:
    """`value` if it is an array of ints >= 0, `rank` of them where that is given."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be an array of ints, got {shown(value)}")
    most = MOST_DIMENSIONS if rank is None else rank
    if len(value) > most or (rank is not None and len(value) < rank):
        count = f"at most {most}" if rank is None else f"{rank}"
        raise ValueError(f"{where} must have {count} ints, got {len(value)}")
    return tuple(as_int(each, where, 0, MOST_BYTES) for each in value)


def as_digest(value: object, where: str) -> str:
    """`value` if it is a sha256 in lower-case hexadecimal digits."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{where} must have 64 hexadecimal digits, got {shown(value)}")
    return value


def as_fingerprint(value: object, where: str) -> str:
    """`value` if it is a fingerprint in lower-case hexadecimal digits."""
    if not isinstance(value, str) or not _FINGERPRINT.fullmatch(value):
        raise ValueError(f"{where} must have 32 hexadecimal digits, got {shown(value)}")
    return value


def check_size(shape: Sequence[int], itemsize: int, where: str) -> None:
    """Refuse a shape whose bytes no machine can count."""
    if math.prod(max(size, 1) for size in shape) * itemsize > MOST_BYTES:
        raise ValueError(f"{where} must come to at most 2**63 - 1 bytes, got {shown(list(shape))}")


def check_inside(offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int], where: str) -> None:
    """Refuse a box that does not lie in a tensor of `shape`."""
    if any(offset + size > whole for offset, size, whole in zip(offsets, sizes, shape, strict=True)):
        raise ValueError(
            f"{where} must lie in {shown(list(shape))}, got offsets {shown(list(offsets))}, sizes {shown(list(sizes))}"
        )


def check_tiles(boxes: Sequence[tuple[Sequence[int], Sequence[int]]], shape: Sequence[int], where: str) -> None:
    """Refuse boxes (offsets, sizes) within `shape` that overlap or leave an element out."""
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"{where} must have at most {MOST_BOXES} boxes, got {len(boxes)}")
    count = sum(math.prod(sizes) for _, sizes in boxes)
    if count != math.prod(shape) or meeting_pair([Box(tuple(offsets), tuple(sizes)) for offsets, sizes in boxes]):
        raise ValueError(f"the boxes of {where} must hold each element once")


def check_view(
    view: tuple[Sequence[int], Sequence[int], int],
    box: tuple[Sequence[int], Sequence[int]],
    shape: Sequence[int],
    where: str,
) -> None:
    """Refuse a view (sizes, strides, start) that has other elements than the box (offsets, sizes) of `shape`."""
    row_major = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    start = sum(map(int.__mul__, box[0], row_major))
    if view[2] != start or _runs(view[0], view[1]) != _runs(box[1], row_major):
        sizes, strides = shown(list(view[0])), shown(list(view[1]))
        raise ValueError(
            f"{where} must be a view of its box, got sizes {sizes}, strides {strides}, start {shown(view[2])}"
        )


def _runs(sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """The same for all views of the same elements that do not overlap themselves: sizes by stride, merged."""
    if 0 in sizes:
        return [(0, 0)]
    runs: list[tuple[int, int]] = []
    for stride, size in sorted((stride, size) for size, stride in zip(sizes, strides, strict=True) if size > 1):
        if runs and runs[-1][0] * runs[-1][1] == stride:
            runs[-1] = (runs[-1][0], runs[-1][1] * size)
        else:
            runs.append((stride, size))
    return runs


def check_versions(values: Mapping[str, Any], wanted: Mapping[str, int]) -> None:
    """Refuse a record of another format or stream."""
    for key, version in wanted.items():
        if type(values.get(key)) is not int or values[key] != version:
            raise ValueError(f"{key} must be {version} for this version of tritonparam, got {shown(values.get(key))}")
