"""Golden digests: stream v1 gives the bytes it was frozen with, from every backend."""

from __future__ import annotations

import pytest

from tools import golden


def identify(row: dict[str, str]) -> str:
    return "-".join(row[column] for column in golden.COLUMNS[:-1]).replace('"', "").replace(" ", "")


@pytest.mark.parametrize("row", golden.read(), ids=identify)
def test_digest_is_the_frozen_one(row: dict[str, str]) -> None:
    assert golden.digest(row) == row["sha256"]


def test_the_file_holds_every_case() -> None:
    assert [{**row, "sha256": ""} for row in golden.read()] == [{**row, "sha256": ""} for row in golden.cases()]


def test_no_two_random_tensors_are_equal() -> None:
    rows = [row for row in golden.read() if "constant" not in row["law"]]
    assert len({row["sha256"] for row in rows}) == len(rows)
