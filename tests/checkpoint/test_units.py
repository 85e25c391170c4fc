"""Sizes and dtypes are read as people write them; a bad one is named."""

from __future__ import annotations

import pytest

from tritonparam.checkpoint.errors import UsageError
from tritonparam.checkpoint.units import parse_dtype, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("2gib", 2**31), ("0.5 KB", 500), ("12", 12), ("1TB", 10**12)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5 parsecs", "-1", "0", "1e9", "GB", "0.1"])
def test_a_bad_size_names_itself(text: str) -> None:
    with pytest.raises(UsageError, match="--max-shard-size must be a positive size"):
        parse_size(text, "--max-shard-size")


def test_a_bad_dtype_lists_the_good_ones() -> None:
    with pytest.raises(UsageError, match=r"got 'int8'; there are .*\(bf16\), .*float8_e5m2$"):
        parse_dtype("int8")
