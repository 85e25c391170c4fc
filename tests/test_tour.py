"""The tour works as it stands: its blocks run one after the other, its commands too, and print what is under them."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("safetensors")

PAGE = (Path(__file__).parents[1] / "docs" / "tour.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"^(?:```python\n(?P<code>.*?)```|    tritonparam (?P<command>.*?))\n(?:\n```\n(?P<out>.*?)```\n)?",
    re.DOTALL | re.MULTILINE,
)
STEPS = list(STEP.finditer(PAGE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the reader works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("net", None)


def test_the_tour_prints_what_stands_on_the_page(
    folder: Path,
    run: Callable[..., tuple[int, str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of commands, "..." stands for what differs from run to run; the terminal is of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert len(STEPS) == PAGE.count("```python") + PAGE.count("\n    tritonparam ") > 12
    names: dict[str, object] = {"__name__": "__main__"}
    agrees = doctest.OutputChecker().check_output
    for step in STEPS:
        code, command, want = step["code"], step["command"], step["out"] or ""
        if command is not None:
            status, got, said = run(*shlex.split(command))
            assert status == 0, said
            assert agrees(want, got, doctest.ELLIPSIS), got
            continue
        if code.startswith("# net.py"):
            (folder / "net.py").write_text(code, encoding="utf-8")
        exec(compile(code, "docs/tour.md", "exec"), names)
        assert capsys.readouterr().out == want, code
