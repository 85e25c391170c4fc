"""What the README prints is what its code prints, and its figures are those of the files."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == README.count("```python")


@pytest.mark.parametrize(("code", "want"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_stands_below_it(code: str, want: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == want


def test_instruction_counts_are_those_of_the_file() -> None:
    with (ROOT / "tests" / "data" / "instructions.csv").open(newline="") as file:
        found = {(row["kind"], row["dtype"], row["architecture"]): row["instructions"] for row in csv.DictReader(file)}
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    part = text.partition("## The kernels' machine code")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (uniform|normal|truncated normal), (\w+) \| (.*) \|$", part, re.MULTILINE)
    assert len(lines) == 5
    for kind, dtype, figures in lines:
        for architecture, figure in zip(("sm_80", "sm_90", "sm_100"), figures.split(" | "), strict=True):
            assert figure == f"{float(found[kind.replace(' ', '_'), dtype, architecture]):.1f}"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
