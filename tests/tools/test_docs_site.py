"""The documentation is a site: it builds without a warning, loads nothing from elsewhere, and all its links work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tools import docs_site

ROOT = Path(__file__).parents[2]
CHART = 'flowchart TD\n    top["the top"] --> left\n    top --> right\n    left --> end_\n    right --> end_\n'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, but elsewhere."""
    for name in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def test_every_link_of_the_site_leads_to_a_page_of_it(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {f"{path.stem}.md" for path in pages}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8"))) for path in pages}
    count = 0
    for path in pages:
        if path.name == "404.html":  # served at any depth, so its links are those of the root
            continue
        for link in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', path.read_text(encoding="utf-8")):
            target, _, anchor = unquote(link).partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            there = (path.parent / target).resolve() if target else path.resolve()
            assert there.exists(), f"{path.relative_to(site)}: {link}"
            assert not anchor or anchor == "__skip" or anchor in anchors[there], f"{path.relative_to(site)}: {link}"
            count += 1
    assert count > 1000


def test_the_reference_shows_what_docstrings_say(site: Path) -> None:
    text = (site / "api" / "models.html").read_text(encoding="utf-8")
    for part in ('id="tritonparam.materialize"', "a call that raises changes nothing", "ValueError"):
        assert part in text


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert docs_site.remote(path.read_text(encoding="utf-8")) == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example/mermaid.js"></script>',
        "<script async src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" href="https://fonts.example/css?family=Roboto">',
        "<img alt='x' src='http://example.org/badge.svg'>",
    ],
)
def test_a_page_that_loads_from_elsewhere_is_noticed(planted: str, tmp_path: Path) -> None:
    class Config:
        site_dir = str(tmp_path)

    (tmp_path / "index.html").write_text('<a href="https://example.org">there</a><img src="plot.png">')
    docs_site.on_post_build(Config)
    (tmp_path / "index.html").write_text(f"<html>{planted}</html>")
    with pytest.raises(ValueError, match=r"index\.html must load nothing from another host, got (http|//)"):
        docs_site.on_post_build(Config)


def test_links_are_pointed_to_the_pages_of_the_site() -> None:
    moved = docs_site.relinked
    assert moved("guide.md", "[a](limits.md#values) [b](https://x.org/a.md)") == (
        "[a](limits.md#values) [b](https://x.org/a.md)"
    )
    assert moved("guide.md", "[a](../README.md#limits)") == "[a](repository/README.md#limits)"
    assert moved("guide.md", "[a](../examples/gpt2.json)") == "[a](repository/examples/gpt2.json.md)"
    assert moved("api/index.md", "[a](../../CONTRIBUTING.md)") == "[a](../repository/CONTRIBUTING.md)"
    assert moved("repository/README.md", "[a](docs/guide.md) [b](kernels)") == "[a](../guide.md) [b](kernels.md)"


def test_a_diagram_has_a_box_for_each_node_and_a_line_for_each_arrow() -> None:
    texts, arrows = docs_site.arrows_of(CHART)
    assert texts == {"top": "the top", "left": "left", "right": "right", "end_": "end_"}
    assert arrows == [("top", "left"), ("top", "right"), ("left", "end_"), ("right", "end_")]
    picture = docs_site.diagram(CHART)
    assert picture.count("<rect") == 4
    assert picture.count('class="arrow"') == 4
    tops = {text: float(y) for y, text in re.findall(r'<text x="[\d.]+" y="([\d.]+)">([^<]+)<', picture)}
    assert tops["the top"] < tops["left"] == tops["right"] < tops["end_"]


@pytest.mark.parametrize(
    "source", ["graph LR\n a --> b", "flowchart TD\n a -.-> b", "flowchart TD\n a --> b\n b --> a"]
)
def test_a_diagram_that_cannot_be_drawn_is_an_error(source: str) -> None:
    with pytest.raises(ValueError, match="diagram must"):
        docs_site.diagram(source)
