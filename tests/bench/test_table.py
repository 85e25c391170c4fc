"""The bench's tables, the README's and its picture are made of the rows and of nothing else."""

import dataclasses

import pytest

from bench import digests, end_to_end, pages, plot, rows, table
from bench.cases import LAWS, PLAIN_FILL
from bench.copies import OURS, PLAIN_COPY
from tests.bench.samples import bench, measured

GPU, HOST = digests.DEVICES

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
    """In each kind of memory; and one large tensor of each device stands in a table of its own."""
    ours = [
        measured(provider=OURS["cpu"], workload="one tensor", mode=mode, median_s=seconds, gb_per_s=1 / seconds)
        for mode, seconds in (("eager", 0.25), ("fresh", 0.5))
    ]
    torchs = [dataclasses.replace(row, provider="torch", median_s=2.0, gb_per_s=0.5) for row in ours]
    text = table.render([*ours, *torchs])
    assert "| fill | dtype | tensors | threads | eager | fresh |" in text
    assert "| normal | float32 | one tensor | 1 | 8.0 | 4.0 |" in text
    rows.write(tmp_path, [*ours, *torchs], whole=True)
    marks = "<!-- bench:one-tensor:begin -->\n<!-- bench:one-tensor:end -->\n"
    assert "| normal, float32 | a device, 1 thread | 4.00 | 0.500 |  |" in pages.renew(marks, tmp_path)


def test_tables_of_gpus_come_first(tmp_path):
    gpu = [dataclasses.replace(row, device="z gpu", provider=OURS["cuda"]) for row in ROWS[:1]]
    rows.write(tmp_path, [*ROWS, *gpu], whole=True)
    text = table.section(tmp_path)
    assert 0 == text.index("**z gpu**") < text.index("**a device**")


def test_readme_is_checked_and_renewed(tmp_path):
    """A figure changed by hand is found; writing puts it right and leaves the rest alone."""
    results, readme = tmp_path / "results", tmp_path / "README.md"
    rows.write(results, ROWS, whole=True)
    readme.write_text(f"before\n{pages.BEGIN}\n\n{TABLE}\n\n{pages.END}\nafter\n")

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


@pytest.mark.parametrize("text", ["", f"{pages.BEGIN}", f"{pages.END}{pages.BEGIN}", f"{pages.BEGIN}{pages.END}" * 2])
def test_readme_without_marks_is_an_error(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    told = bench("table", "--results", tmp_path, "--check", readme)
    assert told.exit_code == 1
    assert "the text must have one" in told.output


def way(op, workload, provider, device, least_s):
    """A row of end_to_end."""
    where = dict(vars(measured()))
    known = {field.name: where[field.name] for field in dataclasses.fields(rows.Environment)}
    return end_to_end.Row(
        **known | {"device": device},
        op=op,
        workload=workload,
        dtype="float32",
        provider=provider,
        bytes=8,
        rounds=3,
        least_s=least_s,
        median_s=2 * least_s,
        most_s=3 * least_s,
        peak_bytes=10**9,
    )


def test_readme_says_seconds_and_what_is_not_measured(tmp_path):
    """The least seconds of each way, the median of each call; a peer alone counts as not measured."""
    ways = [
        way("construct", "gpt2", "tritonparam", HOST, 0.1234),
        way("construct", "gpt2", "torch", HOST, 2.5),
        way("construct", "llama-2-7b", "torch", GPU, 60.0),
        way("init", "llama-2-7b", "tritonparam init", GPU, 30.0),
    ]
    calls = [
        measured(op="load", provider=provider, workload="GPT-2 124M", median_s=seconds, device=HOST)
        for provider, seconds in (("tritonparam cpu", 0.04), ("torch", 0.03))
    ]
    calls.append(measured(op="normal", provider="torch", workload="GPT-2 124M", device=HOST))
    rows.write(tmp_path / digests.END_TO_END, ways, whole=True)
    rows.write(tmp_path, calls, whole=True)
    text = pages.renew(f"a\n{pages.SUMMARY}\n{pages.SUMMARY_END}\nb\n", tmp_path)
    head, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head[2:] == [*digests.DEVICES.values()]
    none = digests.NOT_MEASURED
    found = {(title.partition(":")[0], model): cells for title, model, *cells in lines}
    assert found["from constructor to ready tensors", "GPT-2, float32"] == [none, "0.12 / 2.5"]
    assert found["from checkpoint into tensors", "GPT-2, float32"] == [none, "0.040 / 0.030"]
    assert found["normals into tensors", "GPT-2, float32"] == [none] * 2
    assert [cells for _, model, *cells in lines if model == "Llama 2 7B, bfloat16"] == [
        [none, none],
        [f"30 / {none}", none],
        [none, none],
        [none, none],
    ]
    marks = "<!-- bench:ways:begin -->\n<!-- bench:ways:end -->\n"
    every = pages.renew(marks, tmp_path)
    assert "| construct | GPT-2 | float32 | tritonparam | 0.123 | 0.247 | 3 | 1,000 |" in every
    assert every.index(f"**{GPU}**") < every.index(f"**{HOST}**")


def large(device, provider, threads, **speeds):
    """Rows of one large tensor, by op."""
    return [
        measured(op=op, provider=provider, workload="one tensor", device=device, threads=threads, gb_per_s=speed)
        for op, speed in speeds.items()
    ]


FILLS = [
    *large(GPU, OURS["cuda"], 16, **dict.fromkeys(LAWS, 90.0)),
    *large(GPU, PLAIN_FILL, 16, **dict.fromkeys(LAWS, 100.0) | {"normal": 50.0}),
    *large(GPU, "torch", 16, **dict.fromkeys(LAWS, 10.0)),
    *large(HOST, OURS["cpu"], 1, ones=7.0),
    *large(HOST, OURS["cpu"], 2, ones=8.0),
    *large(HOST, PLAIN_FILL, 2, ones=10.0),
    *large("another", OURS["cpu"], 2, ones=8.0),
]


def test_picture_shows_what_rows_say(tmp_path):
    """The README's devices, of a host all threads; one ceiling for all ops, whose noise is no bar's."""
    rows.write(tmp_path, FILLS, whole=True)
    gpu, host = plot.chosen(tmp_path)
    assert (gpu.device, gpu.ceiling, [*gpu.fills]) == (GPU, 100.0, [*LAWS])
    assert gpu.fills["normal"] == (90.0, 10.0, 50.0)
    assert (host.device, host.threads, host.ceiling, host.fills["ones"]) == (HOST, 2, 10.0, (8.0, 0.0, 10.0))


def test_picture_is_drawn_from_the_rows(tmp_path, monkeypatch):
    """Each bar has the length of its row's speed, from 0 to 1.1 of a plain fill; the file is small."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    rows.write(tmp_path, FILLS, whole=True)
    drawn = []
    save = figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda self, *args, **more: (drawn.append(self), save(self, *args, **more)))
    told = bench("plot", "--results", tmp_path)
    assert told.exit_code == 0, told.output
    picture = (tmp_path / "fills.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000
    gpu, host = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [bar.get_width() for bar in gpu.patches] == pytest.approx([0.9] * 4 + [0.1] * 4)
    assert [bar.get_width() for bar in host.patches] == pytest.approx([0.8] + [0] * 7)
    assert {axes.get_xlim() for axes in (gpu, host)} == {(0, 1.1)}
    assert bench("plot", "--results", tmp_path, "--check").exit_code == 0
    rows.write(tmp_path, [dataclasses.replace(FILLS[0], gb_per_s=91.0)], whole=False)
    told = bench("plot", "--results", tmp_path, "--check")
    assert (told.exit_code, "fills.png is not of the rows" in told.output) == (1, True)
    (tmp_path / "nvidia-h100-80gb-hbm3.csv").unlink()
    (tmp_path / "amd-epyc-2-threads.csv").unlink()
    told = bench("plot", "--results", tmp_path)
    assert (told.exit_code, "must hold rows of one large tensor" in told.output) == (1, True)
