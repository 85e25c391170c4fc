"""JSON from elsewhere: what is not one plain object in a regular file is refused, in words, at once."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tritonparam.checkpoint.json_files import open_regular, parse_json_object, read_json_object


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "must not be nested more than 64 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "must not be nested more than 64 deep"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "must not be nested more than 64 deep"),
        (b"[1]", "must hold a JSON object, got list"),
        (b'"x"', "must hold a JSON object, got str"),
        (b"null", "must hold a JSON object, got NoneType"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8: byte 7"),
        ("{}".encode("utf-16"), "is not JSON"),
        (b'{"a": NaN}', "is not JSON: NaN is no number there"),
        (b'{"a": -Infinity}', "is not JSON: -Infinity is no number there"),
        (b'{"a": 1e999}', "has a number that no float can hold, 1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "has a number of 5000 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
        (b'{"a": "\\ud800"}', "has a string with half of a surrogate pair"),
    ],
)
def test_what_is_not_one_plain_object_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json_object(data)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 300


def test_brackets_in_strings_are_not_nested() -> None:
    values = {"a": "[" * 100_000, 'b\\"[': ["{" * 100, "\\"], "c": "\U0001f600"}
    assert parse_json_object(json.dumps(values).encode()) == values
    deepest = b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}"
    assert parse_json_object(deepest) == json.loads(deepest)


def test_where_the_stack_is_nearly_used_up_it_is_still_a_clear_error() -> None:
    text = b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}"

    def deeper(depth: int) -> str:
        try:
            if depth:
                return deeper(depth - 1)
            parse_json_object(text)
        except ValueError as error:
            return str(error)
        except RecursionError:
            return "the test itself"
        return "read"

    found = {deeper(depth) for depth in range(sys.getrecursionlimit() - 400, sys.getrecursionlimit())}
    assert found <= {"read", "must not be nested more than 64 deep", "the test itself"}


def test_constants_that_json_lacks_are_made_what_the_caller_says() -> None:
    assert parse_json_object(b'{"a": [NaN, -Infinity]}', constant=str.lower) == {"a": ["nan", "-infinity"]}


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would keep the reader waiting for ever."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "socket", "folder", "loop", "absent"):
        with pytest.raises(OSError, match=r".") as caught:
            open_regular(tmp_path / name)
        assert caught.value.strerror
        assert str(caught.value.filename) == str(tmp_path / name)
    with pytest.raises(OSError, match="Not a regular file"):
        read_json_object(Path("/dev/zero"))
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    assert read_json_object(tmp_path / "link") == {}


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"^must have at most 100000000 bytes, got 1099511627776$"):
        read_json_object(path)
    path.write_bytes(b'{"a": 1}')
    assert read_json_object(path, limit=8) == {"a": 1}
    with pytest.raises(ValueError, match="at most 7 bytes, got 8"):
        read_json_object(path, limit=7)
