"""The machine code of the hot loop, compiled for GPUs that need not be here: wide stores, no spills, a budget.

tests/data/instructions.csv holds the figures. A figure that rises fails; `python tools/count_instructions.py --write`
records one that fell, or a change that was wanted. They are those of the triton release in its first column.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
Row = dict[str, str]
# Fused multiply-adds an element that docs/stream.md writes down: any more would be a contraction, any fewer a lost one.
WRITTEN_FMA = {
    "constant": 0.0,
    "uniform": 1.0,
    "normal": 11.0,  # a pair: 1 + 8 for the logarithm, 1 + 4 for the square root, 3 + 3 for the angle, 2 at the end
    "truncated_normal": 20.0,
    "truncated_normal_with_tail": 32.0,
}
AIMS = {"uniform": 16.0, "normal": 34.5}


def key(row: Row) -> tuple[str, str, str]:
    return row["architecture"], row["kind"], row["dtype"]


def frozen() -> list[Row]:
    with (ROOT / "tests" / "data" / "instructions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str, str], Row]:
    """The figures of this tree, by another process: in this one Triton interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tools" / "count_instructions.py")]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return {key(row): row for row in csv.DictReader(io.StringIO(done.stdout))}


def test_every_case_is_measured(measured: dict[tuple[str, str, str], Row]) -> None:
    assert list(measured) == [key(row) for row in frozen()]


@pytest.mark.slow
@pytest.mark.parametrize("want", frozen(), ids=lambda row: "-".join(key(row)))
def test_no_figure_rises(want: Row, measured: dict[tuple[str, str, str], Row]) -> None:
    """Instructions, registers and spilled bytes only fall; 128-bit stores stay, and so does every fma."""
    if triton.__version__ != want["triton"]:
        pytest.skip(f"the figures are those of triton {want['triton']}, this is {triton.__version__}")
    got = measured[key(want)]
    for figure in ("instructions", "registers", "spilled"):
        assert float(got[figure]) <= float(want[figure]), figure
    assert got["wide_stores"] == want["wide_stores"]
    assert got["fma"] == want["fma"]


@pytest.mark.parametrize("row", frozen(), ids=lambda row: "-".join(key(row)))
def test_figures_keep_their_promises(row: Row, measured: dict[tuple[str, str, str], Row]) -> None:
    """With any release of triton: all stores 128 bits wide, nothing spilled, exactly the written multiply-adds."""
    got = measured[key(row)]
    assert int(got["spilled"]) == 0
    assert int(got["wide_stores"]) > 0
    if not got["architecture"].startswith("sm_") or "+" in got["kind"]:
        return
    itemsize = {"float32": 4, "32": 4, "float8_e4m3fn": 1}.get(got["dtype"], 2)
    assert int(got["wide_stores"]) == 32 * itemsize // 16
    # sm_100 computes two at once, and sometimes one of the two for nothing: one in 32 elements at most.
    spare = 4 / 32 if got["architecture"] == "sm_100" else 0
    assert 0 <= float(got["fma"]) - WRITTEN_FMA[got["kind"]] <= spare
    assert float(got["instructions"]) <= AIMS.get(got["kind"], 80.0) or got["dtype"] == "float8_e4m3fn"


def test_the_hot_path_is_the_cycle_through_the_wide_stores() -> None:
    """Of a loop with a masked branch beside the wide stores; predicates stand before branches or inside them."""
    from tools import count_instructions as count

    lines = [
        ".L_x_0:",
        *("FFMA R1", "@P0 BRA `(.L_x_1)", "STG.E.128 [R2]", "BRA `(.L_x_2)"),
        ".L_x_1:",
        *("STG.E [R2]", "STG.E [R3]"),
        ".L_x_2:",
        *("FMUL R4", "BRA.U UP0, `(.L_x_0)", "EXIT"),
    ]
    sass = "\n".join(each if each.startswith(".L") else f"        /*0000*/    {each} ;" for each in lines)
    got = [count.mnemonic(each) for each in count.hot_path(sass)]
    assert sorted(got) == sorted(["FFMA", "BRA", "STG", "BRA", "FMUL", "BRA"])
