"""The bench refuses to time wrong values, its rows say all there is to say, and its tables are made of nothing else."""

import collections
import contextlib
import dataclasses
import importlib.util
import io
import re
import time
from itertools import groupby
from math import prod
from types import SimpleNamespace

import pytest
import torch

from bench import clock, host, plot, rows, run, table
from bench.cases import DTYPES, LAWS, PLAIN_FILL, PROVIDERS, Case, cases, gpt2_shapes
from bench.check import moments, windows
from bench.copies import DTYPES as COPY_DTYPES
from bench.copies import MAKES, MOVERS, OPS, OURS, PLAIN_COPY, CopyCase, CopyMemory, copy_cases
from bench.memory import Memory
from bench.providers import PROVIDERS as MAKERS
from tritonparam import Normal, TruncatedNormal, Uniform
from tritonparam.stream.key import STREAM_VERSION

ENVIRONMENT = rows.Environment("a device", "3", "2", "none", "1", "0", STREAM_VERSION, "2026-01-01", "abc")


def case(op="normal", provider="tritonparam numpy", dtype="float32", shapes=((70_001,), (3, 5), ()), threads=1):
    return Case(op, provider, "some tensors", shapes, dtype, threads)


Told = collections.namedtuple("Told", ["exit_code", "output"])


def bench(*arguments):
    """What `python -m bench` returns and prints, on both streams, with these arguments."""
    main = importlib.import_module("bench.__main__").main
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main([*map(str, arguments)])
    return Told(code, text.getvalue())


def measured(**changes):
    """A row as if measured."""
    row = run.row(ENVIRONMENT, case(), "eager", 4, [0.5, 0.25, 1.0], 0.125)
    return dataclasses.replace(row, **changes)


def made_wrong(provider, spoil):
    """`provider` with `spoil` done to its tensors after each run."""

    def prepare(case, memory):
        right = provider.prepare(case, memory)

        def wrong():
            right()
            spoil(memory)

        return wrong

    return dataclasses.replace(provider, prepare=prepare)


def flip_a_bit(memory):
    memory.tensors[0].view(-1).view(torch.int32)[-1] ^= 1


def leave_one(memory):
    memory.tensors[0][40_000] = torch.nan


def move_out(memory):
    memory.tensors[0][40_000] = 1.0


def shrink(memory):
    for tensor in memory.tensors:
        tensor.mul_(0.9)


def touch_a_byte(memory):
    memory.block[-1] = 0


def test_cases_are_those_promised():
    """Four ops, two dtypes, one tensor and whole models, each by all makers of the device and beside a plain fill."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = cases(device, quick)
            assert len(set(found)) == len(found)
            assert {(c.op, c.dtype, len(c.shapes) > 1) for c in found} == {
                (op, dtype, many) for op in LAWS for dtype in DTYPES for many in (False, True)
            }
            jobs = [[c.provider for c in group] for _, group in groupby(found, lambda c: c.job)]
            assert len(jobs) == len({c.job for c in found})
            assert all(set(job) in (set(PROVIDERS[device]), {"torch", PLAIN_FILL}) for job in jobs)
            assert {(c.op, c.dtype, c.workload) for c in found if c.provider.startswith("tritonparam")} == {
                (c.op, c.dtype, c.workload) for c in found
            }
    whole = next(c for c in cases("cuda") if c.workload == "GPT-2 124M" and c.dtype == "bfloat16")
    assert len(whole.shapes) == 148
    assert whole.elements == 124_439_808
    assert whole.moved == 248_879_616
    models = {device: {c.workload for c in cases(device)} & {"GPT-2 124M", "Llama 2 7B"} for device in ("cpu", "cuda")}
    assert models == {"cpu": {"GPT-2 124M"}, "cuda": {"GPT-2 124M", "Llama 2 7B"}}


def test_gpt2_shapes_are_those_of_the_model():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2))
    assert [tuple(p.shape) for p in model.parameters()] == list(gpt2_shapes(layers=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_holds_the_tensors_of_a_case_without_overlap(dtype):
    memory = Memory(case(dtype=dtype, shapes=((3, 5), (0, 2), (), (130,))), "cpu")
    assert [tuple(t.shape) for t in memory.tensors] == [(3, 5), (0, 2), (), (130,)]
    assert {t.dtype for t in memory.tensors} == {DTYPES[dtype]}
    memory.poison()
    assert all(bool(t.isnan().all()) for t in memory.tensors)
    for value, tensor in enumerate(memory.tensors):
        tensor.fill_(value)
    assert all(bool((t == value).all()) for value, t in enumerate(memory.tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", LAWS)
def test_right_makers_are_timed(op, dtype):
    """Each gives one row, its figures follow from its samples, and the plain fill is one of itself."""
    todo = [case(op, provider, dtype) for provider in PROVIDERS["cpu"]]
    outcome = run.measure(todo, "cpu", ENVIRONMENT, rounds=3, budget=0.1)
    assert outcome.refused == []
    assert [row.provider for row in outcome.rows] == list(PROVIDERS["cpu"])
    for row in outcome.rows:
        assert (row.op, row.dtype, row.tensors, row.elements) == (op, dtype, 3, 70_017)
        assert row.bytes == 70_017 * DTYPES[dtype].itemsize
        assert 0 < row.p20_s <= row.median_s <= row.p80_s
        assert row.gb_per_s == pytest.approx(row.bytes / row.median_s / 1e9)
        assert row.elements_per_s == pytest.approx(70_017 / row.median_s)
        assert row.fraction_of_ceiling == pytest.approx(outcome.rows[-1].median_s / row.median_s)
        assert 1 <= row.rounds <= 3
        assert row.repeats >= 1
    assert outcome.rows[-1].fraction_of_ceiling == 1


def test_fractions_are_of_the_faster_plain_fill(monkeypatch):
    """A copy replayed from a graph may be slower than one that is called, or faster."""
    seconds = {("eager", PLAIN_FILL): 4.0, ("graph", PLAIN_FILL): 2.0, ("eager", "torch"): 8.0, ("graph", "torch"): 1.0}
    modes = iter(("eager", "graph"))

    def timed(runs, *_):
        mode = next(modes)
        return {case: (1, [seconds[mode, case.provider]]) for case in runs}

    monkeypatch.setattr(run, "interleave", timed)
    monkeypatch.setattr(run, "captured", lambda replayed: replayed)
    monkeypatch.setattr(run.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(run.torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=0))
    monkeypatch.setattr(run, "Memory", lambda case, _: Memory(case, "cpu"))
    todo = [case("ones", provider) for provider in ("torch", PLAIN_FILL)]
    outcome = run.measure(todo, "cuda", ENVIRONMENT)
    assert [(row.mode, row.provider, row.fraction_of_ceiling) for row in outcome.rows] == [
        ("eager", "torch", 0.25),
        ("eager", PLAIN_FILL, 0.5),
        ("graph", "torch", 2.0),
        ("graph", PLAIN_FILL, 1.0),
    ]


@pytest.mark.kernels
@pytest.mark.parametrize("provider", ["tritonparam triton", "tritonparam triton, plan built too"])
def test_triton_makers_are_right_or_refused(provider):
    """Where there is no GPU, by the interpreter."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    todo = [case(provider=provider, shapes=((20_001,), (3, 5)))]
    outcome = run.measure(todo, device, ENVIRONMENT, rounds=1, budget=0.0)
    assert outcome.refused == []
    assert {row.provider for row in outcome.rows} == {provider}
    makers = {provider: made_wrong(MAKERS[provider], flip_a_bit)}
    outcome = run.measure(todo, device, ENVIRONMENT, makers, rounds=1, budget=0.0)
    assert outcome.rows == []
    assert "element 20000: got bits" in outcome.refused[0]


@pytest.mark.gpu
def test_makers_on_a_gpu_are_timed_called_and_replayed():
    """All makers when called; all but that which builds its plan anew when replayed from a graph."""
    makers = PROVIDERS["cuda"]
    outcome = run.measure([case("uniform", name) for name in makers], "cuda", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    graphs = [name for name in makers if "uniform" not in MAKERS[name].ungraphable]
    assert graphs == [name for name in makers if name != "tritonparam triton, plan built too"]
    assert [(row.mode, row.provider) for row in outcome.rows] == [
        *(("eager", name) for name in makers),
        *(("graph", name) for name in graphs),
    ]
    assert all(row.median_s > 0 for row in outcome.rows)
    assert [row.op for row in host.measure_host("cuda", ENVIRONMENT, count=20, rounds=2)] == [
        "keys",
        "fills",
        "plan",
        "run",
        "copies",
        "plan of copies",
        "run of copies",
        "run of copies",
        "table",
        "table of copies",
    ]


@pytest.mark.parametrize(
    ("provider", "spoil", "said"),
    [
        ("tritonparam numpy", flip_a_bit, r"tensor 0, element 70000: got bits 0x[0-9a-f]+, want 0x"),
        ("tritonparam numpy", leave_one, "tensor 0, element 40000 was not written"),
        ("torch", move_out, "tensor 0 has values outside"),
        ("torch", leave_one, "tensor 0 has values outside"),
        ("torch", shrink, "the standard deviation is"),
        (PLAIN_FILL, touch_a_byte, r"byte \d+ was not written"),
    ],
)
def test_wrong_maker_is_not_timed(provider, spoil, said):
    """The others are; what is wrong is said, and where."""
    makers = MAKERS | {provider: made_wrong(MAKERS[provider], spoil)}
    todo = [case("uniform", name) for name in PROVIDERS["cpu"]]
    outcome = run.measure(todo, "cpu", ENVIRONMENT, makers, rounds=1, budget=0.1)
    assert [row.provider for row in outcome.rows] == [name for name in PROVIDERS["cpu"] if name != provider]
    (refusal,) = outcome.refused
    assert refusal.startswith(f"uniform, float32, some tensors, 1 threads, {provider}: ")
    assert re.search(said, refusal)
    if provider == PLAIN_FILL:
        assert {row.fraction_of_ceiling for row in outcome.rows} == {0}


def copy_case(op, provider, dtype="float32", shapes=((64, 96), (3, 8), (40, 16))):
    return CopyCase(op, provider, "some tensors", shapes, dtype, 1)


def test_copy_cases_are_those_promised():
    """Every op in every pair of dtypes, by us, by torch, and beside a plain copy."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = copy_cases(device, quick)
            assert len(set(found)) == len(found)
            for (op, dtype), job in groupby(found, lambda c: (c.op, c.dtype)):
                movers = {c.provider for c in job}
                assert movers >= {OURS[device], PLAIN_COPY}
                assert ("torch" in movers) == (
                    not op.startswith("load") or importlib.util.find_spec("safetensors") is not None
                )
                assert ("torch foreach" in movers) == (op not in MAKES)
                assert dtype in COPY_DTYPES
            assert {(c.op, c.dtype) for c in found} == {(op, dtype) for op in OPS for dtype in COPY_DTYPES}
    cast = next(c for c in copy_cases("cuda") if c.op == "copy" and c.dtype == "float32 to bfloat16")
    assert cast.moved == 124_439_808 * 6


@pytest.mark.parametrize("dtype", COPY_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_right_movers_are_timed(op, dtype):
    movers = [c.provider for c in copy_cases("cpu") if (c.op, c.dtype) == (op, dtype)]
    outcome = run.measure([copy_case(op, name, dtype) for name in movers], "cpu", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    assert [row.provider for row in outcome.rows] == movers
    assert outcome.rows[-1].fraction_of_ceiling == 1
    for row in outcome.rows:
        assert (row.op, row.dtype, row.elements) == (op, dtype, 64 * 96 + 3 * 8 + 40 * 16)
        assert row.bytes == row.elements * sum(each.itemsize for each in COPY_DTYPES[dtype])
        assert row.fraction_of_ceiling == pytest.approx(outcome.rows[-1].median_s / row.median_s)


def break_a_copy(memory):
    (memory.made or [memory.pairs[0][0]])[-1].view(-1)[-1] = 0.125


@pytest.mark.parametrize("provider", [OURS["cpu"], "torch", "torch foreach", PLAIN_COPY])
@pytest.mark.parametrize("op", ["copy", "clone", "load", "load as new"])
def test_wrong_mover_is_not_timed(op, provider):
    movers = [c.provider for c in copy_cases("cpu") if (c.op, c.dtype) == (op, "float32")]
    if provider not in movers:
        pytest.skip("there is no foreach for it")
    makers = MOVERS | {provider: made_wrong(MOVERS[provider], break_a_copy)}
    outcome = run.measure([copy_case(op, name) for name in movers], "cpu", ENVIRONMENT, makers, rounds=1, budget=0.0)
    assert [row.provider for row in outcome.rows] == [name for name in movers if name != provider]
    (refusal,) = outcome.refused
    assert refusal.startswith(f"{op}, float32, some tensors, 1 threads, {provider}: ")
    said = "the block was not copied" if provider == PLAIN_COPY else r"part \d, element \d+: got bits 0x3e000000, want"
    assert re.search(said, refusal)


@pytest.mark.parametrize(
    ("op", "shape"), {"row slices": (8, 96), "column slices": (64, 12), "transposes": (96, 8)}.items()
)
def test_slices_are_what_they_are_called(op, shape):
    memory = CopyMemory(copy_case(op, "torch", shapes=((64, 96),)), "cpu")
    assert [tuple(out.shape) for out, _ in memory.pairs] == [shape] * 8
    assert all(out.is_contiguous() for out, _ in memory.pairs)
    assert {source.is_contiguous() for _, source in memory.pairs} == {op == "row slices"}


def test_wrong_maker_makes_the_command_fail(monkeypatch):
    monkeypatch.setitem(MAKERS, "tritonparam numpy", made_wrong(MAKERS["tritonparam numpy"], flip_a_bit))
    told = bench("--device", "cpu", "--quick", "--only", "uniform, float32, one tensor of 4 MiB, 1 threads, trit")
    assert told.exit_code == 1
    assert "1 refused" in told.output
    assert (
        "wrong values, not timed: uniform, float32, one tensor of 4 MiB, 1 threads, tritonparam numpy: tensor 0"
        in told.output
    )


def test_threads_are_put_back():
    before = torch.get_num_threads()
    run.measure([case("ones", threads=before + 1)], "cpu", ENVIRONMENT, rounds=1, budget=0.1)
    assert torch.get_num_threads() == before


def test_windows_cover_small_tensors_and_the_ends_of_large_ones():
    assert list(windows(0, 2**16)) == [(0, 2**16)]
    found = list(windows(3, 2**16 + 1))
    assert found[0][0] == 0
    assert found[1][1] == 2**16 + 1
    assert all(0 <= start < stop <= 2**16 + 1 for start, stop in found)
    assert found == list(windows(3, 2**16 + 1)) != list(windows(4, 2**16 + 1))


@pytest.mark.parametrize("law", [Uniform(-1, 3), Normal(2, 0.5), TruncatedNormal(1, 2, -1, 2), TruncatedNormal()])
def test_moments_are_those_of_the_law(law):
    """Against 2**20 midpoints of the law's quantiles, by which the mean is known to 1e-4 of the deviation."""
    stats = pytest.importorskip("scipy.stats")
    where = (torch.arange(2**20, dtype=torch.float64).numpy() + 0.5) / 2**20
    if isinstance(law, Uniform):
        values = stats.uniform(law.low, law.high - law.low).ppf(where)
    elif isinstance(law, Normal):
        values = stats.norm(law.mean, law.std).ppf(where)
    else:
        a, b = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
        values = stats.truncnorm(a, b, law.mean, law.std).ppf(where)
    mean, deviation, low, high = moments(law)
    assert mean == pytest.approx(values.mean(), abs=1e-4 * deviation)
    assert deviation == pytest.approx(values.std(), rel=1e-4)
    assert low <= values.min()
    assert values.max() <= high


def test_peers_are_timed_in_turn():
    """A, B, A, B; who is over the budget drops out; a sample of many runs counts as seconds a run."""
    asked = []

    def fake(run, repeats):
        asked.append((run, repeats))
        return {"slow": 2.0, "quick": 0.004}[run] * repeats

    found = clock.interleave({"a": "slow", "b": "quick"}, fake, rounds=4, budget=5.0)
    assert found == {"a": (1, [2.0, 2.0]), "b": (3, [0.004] * 4)}
    assert asked == [("slow", 1), ("quick", 1), ("slow", 1), ("quick", 3), ("quick", 3), ("quick", 3), ("quick", 3)]


def test_what_comes_before_a_run_is_not_timed():
    """On a host; of three runs each has its own."""
    done = []

    def before():
        done.append("before")
        time.sleep(0.02)

    seconds = clock.host_clock(clock.FreshRun(lambda: done.append("run"), before), 3)
    assert done == ["before", "run"] * 3
    assert 0 < seconds < 0.02


def test_rows_survive_the_file(tmp_path):
    (path,) = rows.write(tmp_path / "results", [measured(), measured(op="ones")], whole=True)
    assert path.name == "a-device.csv"
    assert path.read_text().splitlines()[0].split(",") == rows.COLUMNS
    assert rows.read(path) == [measured(), measured(op="ones")]


def test_row_says_where_and_with_what():
    """No column is empty, here or on a bare host."""
    found = dataclasses.asdict(rows.environment("cpu", commit="abc"))
    assert all(str(value) for value in found.values())
    assert found["torch"] == torch.__version__
    assert found["stream"] == STREAM_VERSION
    assert set(found) < set(rows.COLUMNS)


def test_measured_again_replaces_its_row_and_a_full_run_all(tmp_path):
    rows.write(tmp_path, [measured(), measured(op="ones")], whole=True)
    rows.write(tmp_path, [measured(median_s=9.0, commit="def")], whole=False)
    (path,) = rows.write(tmp_path, [measured(op="uniform")], whole=False)
    assert rows.read(path) == [measured(median_s=9.0, commit="def"), measured(op="ones"), measured(op="uniform")]
    rows.write(tmp_path, [measured(op="uniform")], whole=True)
    assert rows.read(path) == [measured(op="uniform")]


def test_rows_of_other_columns_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("device,op\nx,y\n")
    with pytest.raises(ValueError, match="must have the columns"):
        rows.read(path)


def test_host_steps_are_measured():
    found = host.measure_host("cpu", ENVIRONMENT, count=20, rounds=2)
    copies = ["copies", "plan of copies", "run of copies", "run of copies"]
    assert [row.op for row in found][:8] == ["keys", "fills", "plan", "run", *copies]
    assert {(row.mode, row.tensors, row.elements) for row in found} == {("host", 20, 1280)}
    assert all(row.median_s > 0 for row in found)


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


def test_no_cuda_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = bench("--device", "cuda")
    assert told.exit_code == 2
    assert "no CUDA device" in told.output


def test_shapes_add_up():
    assert sum(map(prod, case().shapes)) == case().elements == 70_017
