"""The scripts in examples/ run as their docstrings say, and print what stands there."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("safetensors")

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NUMBER = re.compile(r"(-?\d+\.\d+)")


def docstring(name: str) -> str:
    text = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")))
    assert text is not None
    return text


def printed(name: str, *arguments: str) -> str:
    """What a script prints, without a GPU."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_there_are_scripts() -> None:
    assert SCRIPTS == ["ensemble.py", "from_mindspore.py", "inspect_checkpoint.py", "nanogpt.py"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_its_docstring_says(name: str, tmp_path: Path) -> None:
    """To the letter, but for what training came to: that differs a little from one CPU to another."""
    text = docstring(name)
    assert re.search(rf": python examples/{name}( |$)", text.splitlines()[0])
    want = textwrap.dedent(text.partition("Prints:\n\n")[2])
    picture = tmp_path / "plot.png"
    arguments = [str(picture)] if "PICTURE.png" in text else []
    if arguments:
        pytest.importorskip("matplotlib")
    got = printed(name, *arguments)
    assert picture.exists() == bool(arguments)
    for mine, shown in zip(got.splitlines(), want.splitlines(), strict=True):
        is_trained = "loss" in shown or "differ by" in shown
        for part, number in zip(NUMBER.split(mine), NUMBER.split(shown), strict=True):
            if is_trained and NUMBER.fullmatch(number):
                assert float(part) == pytest.approx(float(number), abs=0.05)
            else:
                assert part == number, got


def test_the_script_from_mindspore_differs_in_its_imports_only() -> None:
    """Beside them it names nothing of this package; what they are in MindSpore stands in the docstring."""
    tree = ast.parse((EXAMPLES / "from_mindspore.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    others = [node for node in tree.body[1:] if node not in imports]
    assert "tritonparam" not in "".join(map(ast.unparse, others))
    there = re.findall(r"^    (from mindspore.*)$", docstring("from_mindspore.py"), re.MULTILINE)
    names = [[alias.name for alias in node.names] for node in imports]
    assert [[alias.name for alias in ast.parse(line).body[0].names] for line in there] == names


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_config_is_one_of_a_model(path: Path) -> None:
    assert "model_type" in json.loads(path.read_text(encoding="utf-8"))
