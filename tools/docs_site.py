"""Hooks of `mkdocs build` (see mkdocs.yml): pages for the files that docs/ links to, and diagrams drawn at build time.

The pages of docs/ are read in two places. On the forge their links to `../README.md` or `../examples/ensemble.py` work
by themselves. In the site, `on_files` adds a page below `repository/` for each file or folder that is linked to, and
`on_page_markdown` points the links there. A ```mermaid fence, which forges draw with a script, becomes an SVG picture:
the site loads nothing from anywhere.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = "repository"
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?\)")
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md")  # in the navigation
PICTURES = (".png", ".svg")
LANGUAGES = {".py": "python", ".json": "json", ".csv": "text", ".txt": "text", ".toml": "toml", "": "text"}


def linked(folder: str, text: str) -> set[str]:
    """The paths, from the root, of what `text`, a file of `folder`, links to."""
    targets = {posixpath.normpath(posixpath.join(folder, target)) for _, target, _ in LINK.findall(text)}
    return {target for target in targets if "://" not in target and (ROOT / target).exists()}


def outside(docs: Path) -> set[str]:
    """The paths of ALWAYS, and of all files and folders outside docs/ that pages of the site link to."""
    found = set(ALWAYS)
    open_pages = [*ALWAYS, *(path.relative_to(ROOT).as_posix() for path in docs.rglob("*.md"))]
    while open_pages:
        page = open_pages.pop()
        for target in linked(posixpath.dirname(page), (ROOT / page).read_text(encoding="utf-8")) - found:
            if not is_inside(target):
                found.add(target)
                if (ROOT / target).suffix == ".md":
                    open_pages.append(target)
                if target.startswith("examples") and (ROOT / target).is_dir():
                    found |= {path.relative_to(ROOT).as_posix() for path in (ROOT / target).glob("*.*")}
    return found


def is_inside(target: str) -> bool:
    """Whether a path from the root lies in docs/."""
    return target == "docs" or target.startswith("docs/")


def place_of(target: str) -> str:
    """Where in the site's sources a path from the root is."""
    if is_inside(target):
        return "index.md" if target == "docs" else target.removeprefix("docs/")
    path = ROOT / target
    plain = path.is_file() and path.suffix in (".md", *PICTURES)
    return f"{PLACE}/{target}" if plain else f"{PLACE}/{target}.md"


def relinked(page: str, text: str) -> str:
    """The text of a page of the site's sources, with its links pointed to where the site has their targets.

    Args:
        page: The path of the page in docs/, or below `repository/`.
        text: What it says, with the links that the file in the repository has.
    """
    prefix = f"{PLACE}/"
    folder = posixpath.dirname(page.removeprefix(prefix) if page.startswith(prefix) else f"docs/{page}")

    def moved(match: re.Match[str]) -> str:
        begin, target, anchor = match.groups()
        full = posixpath.normpath(posixpath.join(folder, target))
        if "://" in target or not (ROOT / full).exists():
            return match.group()
        there = posixpath.relpath(place_of(full), posixpath.dirname(page) or ".")
        return f"{begin}{there}{anchor or ''})"

    return LINK.sub(moved, text)


def page_of(target: str, known: set[str]) -> str:
    """The text of the page for a file or folder outside docs/."""
    path = ROOT / target
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n"
    if path.is_dir():
        lines = []
        for each in sorted(path.iterdir()):
            inner = f"{target}/{each.name}"
            if each.name.startswith((".", "__pycache__")):
                continue
            name = f"[{each.name}]({each.name})" if inner in known else f"`{each.name}`"
            lines.append(f"- {name}{first_line(each)}")
        # The links are written as from inside the folder; the page stands beside it.
        return head + "\n".join(lines).replace("](", f"]({path.name}/") + "\n"
    return f"{head}````{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}\n````\n"


def first_line(path: Path) -> str:
    """What the docstring of a Python file, or of a package, begins with."""
    path = path / "__init__.py" if path.is_dir() else path
    if path.suffix != ".py" or not path.exists():
        return ""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return f": {html.escape(text.splitlines()[0])}" if text else ""


def on_files(files: Any, config: Any) -> Any:
    """Add a page, or a picture, for each path outside docs/ that a page links to."""
    from mkdocs.structure.files import File

    found = outside(Path(config.docs_dir))
    for target in sorted(found):
        path = ROOT / target
        if path.suffix in PICTURES:
            made = File.generated(config, place_of(target), abs_src_path=str(path))
        else:
            made = File.generated(config, place_of(target), content=page_of(target, found))
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where the site has their targets."""
    return relinked(page.file.src_uri, markdown)


BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 190, 34, 24, 34
NODE = re.compile(r'(\w+)(?:\["([^"]+)"\])?')
ARROW = re.compile(rf"^\s*{NODE.pattern}\s*-->\s*{NODE.pattern}\s*$")


def arrows_of(source: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The texts of the nodes of a Mermaid flowchart, and its arrows.

    Raises:
        ValueError: A line is neither `flowchart TD` nor `a --> b`, where nodes may have a text: `a["text"]`.
    """
    texts: dict[str, str] = {}
    arrows: list[tuple[str, str]] = []
    first, *lines = source.strip().splitlines()
    if first.strip() != "flowchart TD":
        raise ValueError(f"a diagram must begin with 'flowchart TD', got {first!r}")
    for line in filter(str.strip, lines):
        match = ARROW.match(line)
        if match is None:
            raise ValueError(f"a line of a diagram must be 'a --> b', got {line!r}")
        for name, text in (match.group(1, 2), match.group(3, 4)):
            texts[name] = text or texts.get(name) or name
        arrows.append((match.group(1), match.group(3)))
    return texts, arrows


def diagram(source: str, *_: Any, **__: Any) -> str:
    """An SVG picture of a Mermaid flowchart; each node lies below all that point to it."""
    texts, arrows = arrows_of(source)
    level = dict.fromkeys(texts, 0)
    for _ in texts:
        for begin, end in arrows:
            level[end] = max(level[end], level[begin] + 1)
    if max(level.values()) >= len(texts):
        raise ValueError("the arrows of a diagram must not run in a circle")
    rows = [[name for name in texts if level[name] == n] for n in range(max(level.values()) + 1)]
    width = max(len(row) for row in rows) * (BOX_WIDTH + GAP_X)
    place = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for x, name in enumerate(row):
            place[name] = left + x * (BOX_WIDTH + GAP_X), 2 + y * (BOX_HEIGHT + GAP_Y)
    parts = []
    for begin, end in arrows:
        x1, y1 = place[begin][0] + BOX_WIDTH / 2, place[begin][1] + BOX_HEIGHT
        x2, y2 = place[end][0] + BOX_WIDTH / 2, place[end][1]
        parts.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2 - 7:g}" class="arrow" marker-end="url(#head)"/>')
    for name, (x, y) in place.items():
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>')
        parts.append(f'<text x="{x + BOX_WIDTH / 2:g}" y="{y + 22:g}">{html.escape(texts[name])}</text>')
    height = len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 4
    style = (
        ".diagram rect{fill:none;stroke:currentColor}.diagram text{fill:currentColor;text-anchor:middle;font-size:14px}"
        ".diagram .arrow,.diagram marker path{stroke:currentColor;fill:none}"
    )
    head = '<marker id="head" refX="2" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
    return (
        f'<svg class="diagram" role="img" viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px">'
        f'<style>{style}</style><defs>{head}<path d="M0 0L7 4L0 8"/></marker></defs>{"".join(parts)}</svg>'
    )


TAGS = "script|img|link|iframe|source|video|audio"
LOADED = re.compile(rf"<(?:{TAGS})\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def on_post_build(config: Any) -> None:
    """Refuse a site that loads anything from another host.

    Raises:
        ValueError: A page does.
    """
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for address in remote(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path} must load nothing from another host, got {address}")


def remote(page: str) -> list[str]:
    """The addresses on other hosts from which an HTML page loads scripts, pictures, styles or fonts."""
    tags = [tag for tag in re.findall(r"<[^>]*>", page) if 'rel="canonical"' not in tag]
    return [address for tag in tags for address in LOADED.findall(tag)]
