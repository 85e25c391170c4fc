"""The files of golden digests, read as section 10 of `docs/stream.md` says, without the package."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy.typing as npt

DATA = Path(__file__).parent / "data"


def golden(file: str = "golden.csv") -> list[dict[str, Any]]:
    """The lines of a file of digests, read as section 10 says."""
    with (DATA / file).open(encoding="utf-8", newline="") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    for row in rows:
        row |= {name: json.loads(row[name]) for name in ("seed", "occurrence", "law", "shape", "offsets", "sizes")}
    return rows


def sha256(elements: npt.NDArray[Any]) -> str:
    """The digest of section 10."""
    return hashlib.sha256(elements.astype(elements.dtype.newbyteorder("<")).tobytes()).hexdigest()
