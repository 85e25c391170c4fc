"""The API reference has every public name, and nothing that does not exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import tritonparam
from tritonparam import initializer

PAGES = sorted((Path(__file__).parents[1] / "docs" / "api").glob("*.md"))
NAMES = [name for path in PAGES for name in re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)]


def test_every_public_name_has_an_entry() -> None:
    public = {f"tritonparam.{name}" for name in tritonparam.__all__ if name != "__version__"}
    public |= {f"tritonparam.initializer.{name}" for name in initializer.__all__}
    assert public <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


def test_every_entry_is_of_something_that_a_face_has() -> None:
    for name in NAMES:
        face, _, last = name.rpartition(".")
        module = importlib.import_module(face)
        assert last in module.__all__, name
        assert getattr(module, last).__doc__, name


def test_the_first_page_lists_the_public_names() -> None:
    text = (PAGES[0].parent / "index.md").read_text(encoding="utf-8")
    classes = ("Report", "Ledger", "Fingerprint", "ReplicaDifference")  # what the functions beside them return
    for name in tritonparam.__all__:
        assert re.search(rf"\b{name}`", text) or name.endswith(classes), name
