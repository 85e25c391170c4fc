"""What the guides print is what their examples print; the links of all pages lead somewhere."""

import re
from pathlib import Path

import pytest

from tritonparam import Generator, Parameter, Tensor, initializer
from tritonparam.stream import generator as module

DOCS = Path(__file__).parents[1] / "docs"
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
GUIDE, MIGRATION = TEXTS["guide.md"], TEXTS["migration.md"]
# docs/tour.md is one long example: tests/test_tour.py.
PAGES = {
    page: TEXTS[f"{page}.md"] for page in ("guide", "checkpoints", "copies", "distributed", "index", "torch", "faq")
}
EXAMPLES = {
    f"{page}-{number}": example
    for page, text in PAGES.items()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL))
}


def test_every_example_has_its_output():
    for page, text in PAGES.items():
        found = [name for name in EXAMPLES if name.startswith(f"{page}-")]
        assert len(found) == text.count("```python") > {"guide": 8, "checkpoints": 4, "torch": 2, "faq": 5}.get(page, 0)
    others = [name for name, text in TEXTS.items() if "```python" in text]
    assert set(others) == {f"{page}.md" for page in PAGES} | {"tour.md"}


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # of torch.compile
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


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    """To a file, and where they name a heading, to one of the page's."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        there = (DOCS / page).parent / target if target else DOCS / page
        assert target.startswith("http") or there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], anchor


def test_tables_of_the_migration_guide_are_whole():
    """Every row has as many cells as the head of its table."""
    rows = [line for line in MIGRATION.splitlines() if line.startswith("|")]
    assert len(rows) > 50
    for table in re.findall(r"(?:^\|.*\n)+", MIGRATION, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:80]


def test_names_that_the_migration_guide_calls_missing_are_missing():
    """A method that is added here has to leave the list."""
    of_tensors, of_parameters = re.findall(r"^((?:`\w+`,?\.?\s)+)", MIGRATION.partition("## Not here")[2], re.MULTILINE)
    for names, kind, least in ((of_tensors, Tensor, 250), (of_parameters, Parameter, 5)):
        listed = re.findall(r"`(\w+)`", names)
        assert len(listed) == len(set(listed)) > least
        assert [name for name in listed if hasattr(kind, name)] == []
    assert {"sum", "from_numpy", "T", "asnumpy"} & set(re.findall(r"`(\w+)`", of_tensors)) == {"sum", "from_numpy"}
