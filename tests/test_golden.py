"""Golden digests: stream v1 gives the bytes it was frozen with, from every backend.

`golden.csv` is this package's own; `golden_foreign.csv` was made by an independent implementation, from the document
alone, and holds what the first does not notice.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

from tools import golden

OWN, FOREIGN = golden.read(), golden.read(golden.FOREIGN)
FEW = 1000  # elements: what the interpreter makes in a moment


def identify(row: dict[str, str]) -> str:
    return "-".join(row[column] for column in golden.COLUMNS[:-1]).replace('"', "").replace(" ", "")[:150]


def elements(row: dict[str, str]) -> int:
    return math.prod(json.loads(row["sizes"]))


@pytest.mark.parametrize("row", [*OWN, *FOREIGN], ids=identify)
def test_digest_is_the_frozen_one(row: dict[str, str]) -> None:
    assert golden.digest(row) == row["sha256"]


@pytest.mark.parametrize("row", [*OWN, *FOREIGN], ids=identify)
def test_digest_of_the_compiled_loops_is_the_frozen_one(row: dict[str, str]) -> None:
    pytest.importorskip("numba")
    assert golden.digest(row, "cpu", torch.device("cpu")) == row["sha256"]


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("row", [row for row in (*OWN, *FOREIGN) if elements(row) <= FEW], ids=identify)
def test_digest_of_the_kernels_is_the_frozen_one(row: dict[str, str], device: torch.device) -> None:
    assert golden.digest(row, "triton", device) == row["sha256"]


def test_the_file_holds_every_case() -> None:
    assert [{**row, "sha256": ""} for row in OWN] == [{**row, "sha256": ""} for row in golden.cases()]


def test_the_foreign_file_is_as_its_author_made_it() -> None:
    assert len(FOREIGN) == 58
    own = {identify(row) for row in OWN}
    assert [identify(row) for row in FOREIGN if identify(row) in own] == []


def test_no_two_random_tensors_are_equal() -> None:
    rows = [row for row in OWN if "constant" not in row["law"]]
    assert len({row["sha256"] for row in rows}) == len(rows)
