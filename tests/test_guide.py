"""What docs/guide.md prints is what its examples print; its links, and those of docs/migration.md, lead somewhere."""

import re
from pathlib import Path

import pytest

from tritonparam import Generator, initializer
from tritonparam import generator as module

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
MIGRATION = (DOCS / "migration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", GUIDE, re.DOTALL)


def test_every_example_has_its_output():
    assert len(EXAMPLES) == GUIDE.count("```python") > 8


@pytest.mark.parametrize(("code", "want"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_stands_below_it(code, want, capsys, monkeypatch):
    monkeypatch.setattr(module, "_default", Generator(0))
    monkeypatch.setattr(module, "_seed", None)
    exec(compile(code, "docs/guide.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == want


def test_every_initializer_is_in_the_guide():
    for name in set(initializer.__all__) - {"initializer", "fans"}:
        assert f"`{name}" in GUIDE, name


@pytest.mark.parametrize("text", [GUIDE, MIGRATION], ids=["guide", "migration"])
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (DOCS / target).exists(), target


def test_tables_of_the_migration_guide_are_whole():
    """Every row has as many cells as the head of its table."""
    rows = [line for line in MIGRATION.splitlines() if line.startswith("|")]
    assert len(rows) > 50
    for table in re.findall(r"(?:^\|.*\n)+", MIGRATION, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:80]
