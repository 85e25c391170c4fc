"""The digests can fail: every mistake planted in the second implementation changes the digest of some row.

A mutant is `specification.py` with one piece of its text replaced by another; `data/mutants.txt` lists them. The rows
are those of `golden.csv` and `golden_foreign.csv`. An implementation that meets all of them has none of these.
"""

import functools
import types
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests import specification
from tests.golden_rows import DATA, golden, sha256

SOURCE = Path(specification.__file__)
MANY = 2**16  # elements


def changes(file: str) -> list[Any]:
    """The text that goes and the text that comes, of each change in a file."""
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    blocks = "\n".join(line for line in lines if not line.startswith("#")).strip().split("\n\n")
    found = []
    for block in blocks:
        name, old, new = block.splitlines()
        assert old.startswith("- ")
        assert new.startswith("+ ")
        found.append(pytest.param(old[2:], new[2:], id=name))
    return found


@functools.cache
def rows() -> list[dict[str, Any]]:
    """All rows, those of few elements first."""
    return sorted([*golden(), *golden("golden_foreign.csv")], key=lambda row: prod(row["sizes"]))


def mutated(old: str, new: str) -> Any:
    """The stream of a `specification.py` in which `new` stands for `old`."""
    source = SOURCE.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{source.count(old)} of {old!r} in {SOURCE.name}"
    module = types.ModuleType("mutated_specification")
    module.__file__ = str(SOURCE)
    exec(compile(source.replace(old, new), SOURCE.name, "exec"), vars(module))
    return module.stream()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what mistakes come to
@pytest.mark.parametrize(("old", "new"), changes("mutants.txt"))
def test_a_mistake_is_noticed(old: str, new: str) -> None:
    assert old != new
    changed = mutated(old, new)
    assert any(sha256(changed.box(row)) != row["sha256"] for row in rows()), "no golden digest notices"


@pytest.mark.parametrize(("old", "new"), [*changes("equivalents.txt"), pytest.param("class Stream:", "class Stream:")])
def test_what_changes_nothing_is_not_noticed(old: str, new: str) -> None:
    """What the document says gives the same bits does; so does the text as it is."""
    changed = mutated(old, new)
    assert [row for row in rows() if prod(row["sizes"]) <= MANY and sha256(changed.box(row)) != row["sha256"]] == []
