"""What the guides print is what their examples print; their links, and those of docs/migration.md, lead somewhere."""

import re
from pathlib import Path

import pytest

from tritonparam import Generator, initializer
from tritonparam.stream import generator as module

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
MIGRATION = (DOCS / "migration.md").read_text(encoding="utf-8")
CHECKPOINTS = (DOCS / "checkpoints.md").read_text(encoding="utf-8")
COPIES = (DOCS / "copies.md").read_text(encoding="utf-8")
DISTRIBUTED = (DOCS / "distributed.md").read_text(encoding="utf-8")
PAGES = {"guide": GUIDE, "checkpoints": CHECKPOINTS, "copies": COPIES, "distributed": DISTRIBUTED}
EXAMPLES = {
    f"{page}-{number}": example
    for page, text in PAGES.items()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL))
}


def test_every_example_has_its_output():
    for page, least in (("guide", 8), ("checkpoints", 4), ("copies", 0), ("distributed", 0)):
        found = [name for name in EXAMPLES if name.startswith(page)]
        assert len(found) == PAGES[page].count("```python") > least


@pytest.mark.parametrize(("code", "want"), EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_prints_what_stands_below_it(code, want, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_default", Generator(0))
    monkeypatch.setattr(module, "_seed", None)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == want


def test_every_initializer_is_in_the_guide():
    for name in set(initializer.__all__) - {"initializer", "fans"}:
        assert f"`{name}" in GUIDE, name


@pytest.mark.parametrize("text", [*PAGES.values(), MIGRATION], ids=[*PAGES, "migration"])
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (DOCS / target).exists(), target


def test_tables_of_the_migration_guide_are_whole():
    """Every row has as many cells as the head of its table."""
    rows = [line for line in MIGRATION.splitlines() if line.startswith("|")]
    assert len(rows) > 50
    for table in re.findall(r"(?:^\|.*\n)+", MIGRATION, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:80]
