"""The bench's tables, the README's and the plots are made of the rows and of nothing else."""

import dataclasses

import pytest

from bench import plot, rows, table
from bench.cases import PLAIN_FILL
from bench.copies import OURS, PLAIN_COPY
from tests.bench.samples import bench, measured

ROWS = [
    measured(provider="torch", gb_per_s=12.345, fraction_of_ceiling=0.5),
    measured(provider=PLAIN_FILL, gb_per_s=24.69, fraction_of_ceiling=1.0),
    measured(op="truncated_normal", provider="torch", gb_per_s=0.012, fraction_of_ceiling=0.0004, rounds=1),
    measured(op="plan", provider="tritonparam", mode="host", median_s=0.0123),
]
TABLE = """\
**a device**

GB/s written, in brackets as a fraction of the faster plain fill of the same bytes:

| fill | dtype | tensors | threads | torch | plain fill |
| --- | --- | --- | --: | --: | --: |
| normal | float32 | some tensors | 1 | 12.3 (0.50) | 24.7 |
| truncated normal | float32 | some tensors | 1 | 0.0120 (0.00040) |  |

What a plan costs on the host:

| on the host | by | of | ms |
| --- | --- | --- | --: |
| plan | tritonparam | some tensors | 12.3 |

Medians of 1 to 3 samples, taken in turn in one process. tritonparam 0, stream 1, torch 2, triton none, \
numpy 1, python 3; 2026-01-01, commit abc."""


def test_table_is_made_from_the_rows(tmp_path):
    rows.write(tmp_path, ROWS, whole=True)
    assert table.section(tmp_path) == TABLE
    copies = [dataclasses.replace(ROWS[0], op="clone", provider=name) for name in (PLAIN_COPY, "torch")]
    text = table.render(ROWS + copies)
    assert text.startswith(TABLE.partition("What a plan")[0])
    assert "| copy | dtype | tensors | threads | torch | plain copy |" in text
    assert "| clone | float32 | some tensors | 1 | 12.3 (0.50) | 12.3 |" in text
    graph = [dataclasses.replace(row, mode="graph") for row in ROWS[:2]]
    assert "| torch (eager) | torch (graph) | plain fill (eager) | plain fill (graph) |" in table.render(ROWS + graph)


def test_the_compiled_loops_are_held_against_torch(tmp_path):
    """In each kind of memory; and one large tensor of each device stands in the README's table."""
    ours = [
        measured(provider=OURS["cpu"], workload="one tensor", mode=mode, median_s=seconds, gb_per_s=1 / seconds)
        for mode, seconds in (("eager", 0.25), ("fresh", 0.5))
    ]
    torchs = [dataclasses.replace(row, provider="torch", median_s=2.0, gb_per_s=0.5) for row in ours]
    text = table.render([*ours, *torchs])
    assert "| fill | dtype | tensors | threads | eager | fresh |" in text
    assert "| normal | float32 | one tensor | 1 | 8.0 | 4.0 |" in text
    rows.write(tmp_path, [*ours, *torchs], whole=True)
    readme = f"{table.SUMMARY}\n{table.SUMMARY_END}\n"
    assert "| normal, float32 | a device, 1 thread | 4.00 | 0.500 |  |" in table.renew(readme, tmp_path)


def test_tables_of_gpus_come_first(tmp_path):
    gpu = [dataclasses.replace(row, device="z gpu", provider=OURS["cuda"]) for row in ROWS[:1]]
    rows.write(tmp_path, [*ROWS, *gpu], whole=True)
    text = table.section(tmp_path)
    assert 0 == text.index("**z gpu**") < text.index("**a device**")


def test_readme_is_checked_and_renewed(tmp_path):
    """A figure changed by hand is found; writing puts it right and leaves the rest alone."""
    results, readme = tmp_path / "results", tmp_path / "README.md"
    rows.write(results, ROWS, whole=True)
    readme.write_text(f"before\n{table.BEGIN}\n\n{TABLE}\n\n{table.END}\nafter\n")

    def tables(*arguments):
        return bench("table", "--results", results, *arguments)

    assert tables("--check", readme).exit_code == 0
    right = readme.read_text()
    readme.write_text(right.replace("12.3 (0.50)", "13.3 (0.50)"))
    told = tables("--check", readme)
    assert told.exit_code == 1
    assert "its tables are not what" in told.output
    assert tables("--write", readme).exit_code == 0
    assert readme.read_text() == right
    assert tables().output == TABLE + "\n"


@pytest.mark.parametrize("text", ["", f"{table.BEGIN}", f"{table.END}{table.BEGIN}", f"{table.BEGIN}{table.END}" * 2])
def test_readme_without_marks_is_an_error(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    told = bench("table", "--results", tmp_path, "--check", readme)
    assert told.exit_code == 1
    assert "the text must have one" in told.output


def test_plots_are_drawn_from_the_rows(tmp_path):
    pytest.importorskip("matplotlib")
    rows.write(tmp_path, ROWS, whole=True)
    told = bench("plot", "--results", tmp_path)
    assert told.exit_code == 0
    picture = (tmp_path / "a-device.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="rows must hold some"):
        plot.plot(ROWS[3:], tmp_path / "none.png")
