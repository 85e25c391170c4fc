"""docs/architecture.md is true: the files and functions that it names exist, and its arrows are the rules."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from tools import docs_site, import_graph

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|md))`")
# A file, and the functions after it: up to the next file, or the end of the line.
NAMED = re.compile(r"`([\w./]+\.py)`([^`]*(?:`[\w.]+\(\)`[^`]*)*)")


def defined_in(path: Path) -> set[str]:
    """The functions, the classes and the methods of a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def absent(page: str) -> list[str]:
    """The files and functions that a page names and the source does not have."""
    lost = [name for name in FILE.findall(page) if not (ROOT / name).is_file()]
    for line in page.splitlines():
        for name, after in NAMED.findall(line):
            if (ROOT / name).is_file():
                functions = re.findall(r"`([\w.]+)\(\)`", after)
                lost += [f"{name}: {each}" for each in functions if each not in defined_in(ROOT / name)]
    return lost


def test_all_files_and_functions_that_the_page_names_exist() -> None:
    assert absent(PAGE) == []
    assert len(set(FILE.findall(PAGE))) > 40
    checked = sum(after.count("()`") for line in PAGE.splitlines() for _, after in NAMED.findall(line))
    assert checked == PAGE.count("()`") > 50


@pytest.mark.parametrize(
    ("planted", "lost"),
    [
        ("see `tritonparam/plan/nothing.py`", "tritonparam/plan/nothing.py"),
        ("| `tritonparam/plan/plan.py`: `Plan.run()`, `Plan.walk()` |", "tritonparam/plan/plan.py: Plan.walk"),
        ("`kernels/fill.py`: `fill()`; `kernels/store.py`: `_fill_row()`", "kernels/store.py: _fill_row"),
    ],
)
def test_what_does_not_exist_is_noticed(planted: str, lost: str) -> None:
    assert absent(planted) == [lost]


def test_the_arrows_are_those_of_the_rules() -> None:
    """The rooms in their order, and what the backends alone may import."""
    (chart,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    texts, arrows = docs_site.arrows_of(chart)
    rooms = list(reversed(import_graph.ROOMS))
    backends = import_graph.RUNS_KERNELS
    want = set(itertools.pairwise(rooms)) | {(backends.partition(".")[0], backends)}
    want |= {(backends, each) for each in (import_graph.KERNELS, *import_graph.MAKERS)}
    assert {(texts[begin], texts[end]) for begin, end in arrows} == want
    assert len(arrows) == len(want)
    in_table = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert set(in_table) == set(texts.values())
