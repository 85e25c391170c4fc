"""Documents that somebody changed: JSON objects and files of bytes, a few places at a time."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

_DROPPED = object()
_VALUES: tuple[Any, ...] = (
    *(_DROPPED, None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63, 2**90, 0.5, -0.0, 1e308, math.nan, math.inf),
    *("", "x", "F32", "F4", "float32", "float8_e4m3fn", "../x", "/x", "a/b", "\0", "\ud800", "é" * 2000, "__class__"),
    *([], {}, [[]], [None], [1], [-1], [2**62] * 3, [0] * 70, ["x"], {"x": 1}, {"x": {"x": []}}),
)


@st.composite
def changed_object(draw: st.DrawFn, original: dict[str, Any], most: int = 3) -> dict[str, Any]:
    """`original` with up to `most` values replaced, dropped or joined by a new one."""
    changed = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, most))):
        holder: Any = changed
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], (dict, list)) and holder[key] and draw(st.booleans()):
                holder = holder[key]
                continue
            drawn = draw(st.sampled_from(_VALUES))
            value = copy.deepcopy(drawn)
            if drawn is _DROPPED:
                del holder[key]
            elif isinstance(holder, dict) and draw(st.integers(0, 4)) == 0:
                holder[str(draw(st.sampled_from(["x", "", "__metadata__", "weight", "files", "auto_map"])))] = value
            else:
                holder[key] = value
            break
    return changed


def text_of(document: dict[str, Any]) -> bytes:
    """A JSON object as a file has it, also where strict JSON has no such number or text."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def changed_bytes(draw: st.DrawFn, original: bytes, most: int = 4) -> bytes:
    """`original` with a few bytes replaced, put in, left out or doubled, or with its end cut off."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(("replace", "insert", "remove", "double", "cut", "append")))
        some = draw(st.binary(min_size=1, max_size=9))
        if what == "replace":
            data[at : at + len(some)] = some
        elif what == "insert":
            data[at:at] = some
        elif what == "remove":
            del data[at : at + len(some)]
        elif what == "double":
            data[at:at] = data[at : at + 40]
        elif what == "cut":
            del data[at:]
        else:
            data += some
    return bytes(data)
