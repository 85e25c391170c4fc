"""The machine code of the hot loop, compiled for GPUs that need not be here: wide stores, no spills, a budget.

tests/data/instructions.csv holds the figures of the fill kernel, copy_instructions.csv those of the copy kernel. A
figure that rises fails; `python tools/count_instructions.py [copy] --write` records one that fell, or a change that was
wanted. They are those of the triton release in the first column.
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

from tritonparam.kernels import fill  # noqa: E402
from tritonparam.kernels.copy import LANES, MOVE_VECTOR, TILE, VECTOR, code_of, num_warps  # noqa: E402
from tritonparam.kernels.dtypes import DTYPES  # noqa: E402

ROOT = Path(__file__).parents[2]
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
# What a box may take more an element than a run of the same values: to find its place, and of blocks that do not lie
# side by side (without a wide store) to store each element by itself.
PLACES = {"pairs": 2.0, "blocks": 4.0, "blocks by element": 8.0, "parts": 26.0}


def key(row: Row) -> tuple[str, str, str]:
    return row["architecture"], row["kind"], row["dtype"]


def copy_key(row: Row) -> tuple[str, str]:
    return row["architecture"], row["case"]


def frozen(file: str = "instructions.csv") -> list[Row]:
    with (ROOT / "tests" / "data" / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


COPIES = frozen("copy_instructions.csv")


def figures(kernel: str) -> list[Row]:
    """Those of this tree, by another process: in this one Triton interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tools" / "count_instructions.py"), kernel]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str, str], Row]:
    return {key(row): row for row in figures("fill")}


@pytest.fixture(scope="module")
def measured_copies() -> dict[tuple[str, str], Row]:
    return {copy_key(row): row for row in figures("copy")}


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
    assert int(got["divisions"]) == 0
    kind, _, path = got["kind"].partition(" ")
    itemsize = {"float32": 4, "32": 4, "float8_e4m3fn": 1}.get(got["dtype"], 2)
    is_wide = path != "parts" and (path != "blocks" or itemsize == 4)
    assert (int(got["wide_stores"]) > 0) == is_wide
    if not got["architecture"].startswith("sm_") or "+" in kind:
        return
    if is_wide:
        elements = fill.TILE // (32 * fill.num_warps(1 << fill.KINDS[kind]))
        assert int(got["wide_stores"]) == elements * itemsize // 16
    # sm_100 computes two at once, and sometimes one of the two for nothing: one in 32 elements at most.
    spare = 4 / 32 if got["architecture"] == "sm_100" else 0
    assert 0 <= float(got["fma"]) - WRITTEN_FMA[kind] <= spare
    if path:
        run = measured[got["architecture"], kind, got["dtype"]]
        places = PLACES[path if is_wide or path == "parts" else f"{path} by element"]
        assert float(got["instructions"]) <= float(run["instructions"]) + places
    else:
        assert float(got["instructions"]) <= AIMS.get(kind, 80.0) or got["dtype"] == "float8_e4m3fn"


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("path", "dtype"), [("pairs", "bfloat16"), ("blocks", "float32")])
def test_a_column_shard_of_normals_costs_hardly_more_than_a_run(path, dtype, architecture, measured) -> None:
    """At most an eighth more instructions an element, in registers that leave room for six programs at once."""
    shard, run = measured[architecture, f"normal {path}", dtype], measured[architecture, "normal", dtype]
    assert float(run["instructions"]) >= 8 / 9 * float(shard["instructions"])
    assert int(shard["registers"]) <= 80


def test_every_case_of_a_copy_is_measured(measured_copies: dict[tuple[str, str], Row]) -> None:
    assert list(measured_copies) == [copy_key(row) for row in COPIES]


@pytest.mark.slow
@pytest.mark.parametrize("want", COPIES, ids=lambda row: "-".join(copy_key(row)))
def test_no_figure_of_a_copy_rises(want: Row, measured_copies: dict[tuple[str, str], Row]) -> None:
    """Instructions, registers, spilled bytes and accesses to shared memory only fall; 128-bit accesses stay."""
    if triton.__version__ != want["triton"]:
        pytest.skip(f"the figures are those of triton {want['triton']}, this is {triton.__version__}")
    got = measured_copies[copy_key(want)]
    for figure in ("instructions", "registers", "spilled", "shared_stores", "shared_loads"):
        assert int(got[figure]) <= int(want[figure]), figure
    for figure in ("wide_loads", "wide_stores", "load_lanes", "store_lanes"):
        assert got[figure] == want[figure], figure


@pytest.mark.parametrize("row", COPIES, ids=lambda row: "-".join(copy_key(row)))
def test_figures_of_a_copy_keep_their_promises(row: Row, measured_copies: dict[tuple[str, str], Row]) -> None:
    """With any release of triton: nothing spilled, wide rows by 128 bits, transposes through shared memory by lines."""
    got = {name: int(value) for name, value in measured_copies[copy_key(row)].items() if value.isdigit()}
    assert got["spilled"] == 0
    if "+" in row["case"]:
        return
    path, width, source, out = row["case"].split()
    lanes = 32 if row["architecture"].startswith("sm_") else 64
    if path == "transpose":
        assert got["shared_stores"] > 0
        assert got["shared_loads"] > 0
        assert (got["load_lanes"], got["store_lanes"]) == (lanes, 32)
    elif width == "narrow":
        assert (got["load_lanes"], got["store_lanes"]) == (lanes, lanes)
    elif lanes == 32:
        # Elements of a lane in an iteration: 8 of them or more make 16 bytes; 8-bit ones are accessed by 64 bits.
        moves = source == out
        units = {"run": TILE // (2 if moves else 1), "gather": LANES * (MOVE_VECTOR if moves else VECTOR)}
        code = code_of(path, True, DTYPES[source], DTYPES[out])
        elements = units[path] // (32 * num_warps((code,)))
        for figure, dtype in (("wide_loads", source), ("wide_stores", out)):
            itemsize = int(dtype.lstrip("abcdefghijklmnopqrstuv").partition("_")[0]) // 8
            want = elements * itemsize // 16 if itemsize > 1 else 0
            if path == "run" and moves:  # whose loop the compiler may unroll: then several times as many
                assert got[figure] >= want, figure
                assert got[figure] % want == 0, figure
            else:
                assert got[figure] == want, figure
    else:
        assert got["wide_loads"] > 0 or source.startswith("float8")
        assert got["wide_stores"] > 0 or out.startswith("float8")


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
