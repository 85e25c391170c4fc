"""The machine code of the sums of fingerprints, for GPUs that need not be here: wide loads, no spills, a budget.

tests/data/fingerprint_instructions.csv holds the figures. `python tools/count_instructions.py fingerprint --write`
writes them. A figure that rises fails.
"""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

from tests.kernels.test_codegen import Row, copy_key, figures, frozen  # noqa: E402
from tritonparam.kernels.fingerprint import BLOCK_WORDS, LANES  # noqa: E402

FROZEN = frozen("fingerprint_instructions.csv")
# A word of an H100's memory every 0.27 clocks of a multiprocessor, and 128 instructions a clock: 34 would be too many.
# An H200 has 24, a B200 18. These leave room for the loads themselves.
MOST_INSTRUCTIONS = 13.0


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, str], Row]:
    return {copy_key(row): row for row in figures("fingerprint")}


def test_every_case_is_measured(measured: dict[tuple[str, str], Row]) -> None:
    assert list(measured) == [copy_key(row) for row in FROZEN]


@pytest.mark.slow
@pytest.mark.parametrize("want", FROZEN, ids=lambda row: "-".join(copy_key(row)))
def test_no_figure_rises(want: Row, measured: dict[tuple[str, str], Row]) -> None:
    if triton.__version__ != want["triton"]:
        pytest.skip(f"the figures are those of triton {want['triton']}, this is {triton.__version__}")
    got = measured[copy_key(want)]
    for figure in ("instructions", "registers", "spilled"):
        assert float(got[figure]) <= float(want[figure]), figure
    assert got["wide_loads"] == want["wide_loads"]


@pytest.mark.parametrize("row", FROZEN, ids=lambda row: "-".join(copy_key(row)))
def test_figures_keep_their_promises(row: Row, measured: dict[tuple[str, str], Row]) -> None:
    """With any release of triton: nothing spilled; of a run every load 128 bits wide, and few instructions a word."""
    got = measured[copy_key(row)]
    assert int(got["spilled"]) == 0
    if not got["architecture"].startswith("sm_"):
        return
    assert int(got["registers"]) <= 80
    if got["case"] == "run":
        assert int(got["wide_loads"]) == BLOCK_WORDS // (4 * LANES)
        assert 4 < float(got["instructions"]) <= MOST_INSTRUCTIONS
    else:
        assert (int(got["wide_loads"]) > 0) == ("units" in got["case"])
