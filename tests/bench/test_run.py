"""The bench times right makers, refuses wrong values and says where, and measures the steps of the host."""

import re
from itertools import product
from math import prod
from types import SimpleNamespace

import pytest
import torch

from bench import host, run
from bench.cases import CHANNELS_LAST, COLUMN_SHARD, DTYPES, LAWS, PLAIN_FILL, PROVIDERS, Case
from bench.memory import Memory
from bench.providers import PROVIDERS as MAKERS
from tests.bench.samples import ENVIRONMENT, bench, case, flip_a_bit, made_wrong


def leave_one(memory):
    memory.tensors[0][40_000] = torch.nan


def move_out(memory):
    memory.tensors[0][40_000] = 1.0


def shrink(memory):
    for tensor in memory.tensors:
        tensor.mul_(0.9)


def touch_a_byte(memory):
    memory.block[-1] = 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", LAWS)
def test_right_makers_are_timed(op, dtype):
    """Each gives a row for each kind of memory; figures follow from samples, and the plain fill is one of itself."""
    todo = [case(op, provider, dtype) for provider in PROVIDERS["cpu"]]
    outcome = run.measure(todo, "cpu", ENVIRONMENT, rounds=3, budget=0.1)
    assert outcome.refused == []
    assert [(row.mode, row.provider) for row in outcome.rows] == list(product(("eager", "fresh"), PROVIDERS["cpu"]))
    plain = min(row.median_s for row in outcome.rows if row.provider == PLAIN_FILL)
    for row in outcome.rows:
        assert (row.op, row.dtype, row.tensors, row.elements) == (op, dtype, 3, 70_017)
        assert row.bytes == 70_017 * DTYPES[dtype].itemsize
        assert 0 < row.p20_s <= row.median_s <= row.p80_s
        assert row.gb_per_s == pytest.approx(row.bytes / row.median_s / 1e9)
        assert row.elements_per_s == pytest.approx(70_017 / row.median_s)
        assert row.fraction_of_ceiling == pytest.approx(plain / row.median_s)
        assert 1 <= row.rounds <= 3
        assert row.repeats >= 1


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


# Compared whole where the kernel is interpreted, in windows else.
STRIDED = {
    "tritonparam numpy": {COLUMN_SHARD: (200, 400), CHANNELS_LAST: (130, 64, 3, 3)},
    "tritonparam triton": {COLUMN_SHARD: (20, 40), CHANNELS_LAST: (6, 16, 3, 3)},
}


@pytest.mark.kernels
@pytest.mark.parametrize("layout", [COLUMN_SHARD, CHANNELS_LAST])
@pytest.mark.parametrize("provider", STRIDED)
def test_boxes_are_held_against_the_reference(provider, layout):
    """At their places: the values of other columns, or in another order, are refused, and so is one changed bit."""
    if provider == "tritonparam triton":
        pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() and provider == "tritonparam triton" else "cpu"
    shape = STRIDED[provider][layout]
    todo = [Case("normal", provider, layout, (shape,), "float32", 1, layout=layout)]
    outcome = run.measure(todo, device, ENVIRONMENT, rounds=1, budget=0.0)
    assert outcome.refused == []
    assert {row.elements for row in outcome.rows} == {prod(shape)}

    def exchange(memory):
        memory.tensors[0][:, :2] = memory.tensors[0][:, :2].flip(1)

    def change_a_bit(memory):
        memory.tensors[0].view(torch.int32)[-1, -1] ^= 1

    for spoil in (exchange, change_a_bit):
        makers = {provider: made_wrong(MAKERS[provider], spoil)}
        outcome = run.measure(todo, device, ENVIRONMENT, makers, rounds=1, budget=0.0)
        assert outcome.rows == []
        assert "got bits" in outcome.refused[0]


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
    others = [name for name in PROVIDERS["cpu"] if name != provider]
    assert [(row.mode, row.provider) for row in outcome.rows] == list(product(("eager", "fresh"), others))
    (refusal,) = outcome.refused
    assert refusal.startswith(f"uniform, float32, some tensors, 1 threads, {provider}: ")
    assert re.search(said, refusal)
    if provider == PLAIN_FILL:
        assert {row.fraction_of_ceiling for row in outcome.rows} == {0}


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


def test_host_steps_are_measured():
    found = host.measure_host("cpu", ENVIRONMENT, count=20, rounds=2)
    copies = ["copies", "plan of copies", "run of copies", "run of copies"]
    assert [row.op for row in found][:8] == ["keys", "fills", "plan", "run", *copies]
    assert {(row.mode, row.tensors, row.elements) for row in found} == {("host", 20, 1280)}
    assert all(row.median_s > 0 for row in found)


def test_no_cuda_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = bench("--device", "cuda")
    assert told.exit_code == 2
    assert "no CUDA device" in told.output
