"""The bench builds models as users do, refuses wrong ones, and keeps their rows out of the README's tables."""

import contextlib
import dataclasses
import importlib
import io
from itertools import groupby

import pytest
import torch

import tritonparam
from bench import construction, rows, run, table
from bench.cases import DTYPES, PLAIN_FILL, Case
from bench.construction import (
    BUILDERS,
    BY_META,
    CONSTRUCTION,
    MATERIALIZE,
    OPS,
    RECORD,
    ConstructionCase,
    Models,
    construction_cases,
    measure_construction,
)
from bench.copies import OURS
from tritonparam import Constant, Normal
from tritonparam.stream.key import STREAM_VERSION

transformers = pytest.importorskip("transformers")

ENVIRONMENT = rows.Environment("a device", "3", "2", "none", "1", "0", STREAM_VERSION, "2026-01-01", "abc")
SMALL = {"GPT-2": construction.small_gpt2(), "Llama": construction.small_llama()}
HALVES = {
    CONSTRUCTION: [OURS["cpu"], "torch", BY_META, PLAIN_FILL],
    RECORD: [OURS["cpu"], BY_META],
    MATERIALIZE: [OURS["cpu"], BY_META, PLAIN_FILL],
}


def case(op, builder, dtype="float32", model="Llama"):
    config, options, shapes = SMALL[model]
    return ConstructionCase(op, builder, model, shapes, dtype, torch.get_num_threads(), config, options)


def spoiled(builder, spoil):
    """`builder` with `spoil` done to what it made after each run."""

    def prepare(case, models):
        right = builder.prepare(case, models)

        def wrong():
            right()
            spoil(models)

        return wrong

    return dataclasses.replace(builder, prepare=prepare)


def test_cases_are_those_promised():
    """Both dtypes, the whole way by all builders and its halves; on CUDA also a model of 7e9 parameters."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = construction_cases(device, quick)
            assert len(set(found)) == len(found)
            jobs = {job: [each.provider for each in group] for job, group in groupby(found, lambda each: each.job)}
            assert {(op, dtype) for op, _, dtype, _ in jobs} == {(op, dtype) for op in OPS for dtype in DTYPES}
            for (op, *_), builders in jobs.items():
                assert builders == [OURS[device], *HALVES[op][1:]]
            assert all(transformers.__version__ in each.workload for each in found)
            assert all("construction" in str(each) for each in found)
    elements = {device: {each.elements for each in construction_cases(device)} for device in ("cpu", "cuda")}
    assert elements == {"cpu": {124_439_808}, "cuda": {124_439_808, 6_738_415_616}}


@pytest.mark.parametrize("quick", [False, True])
def test_shapes_are_those_of_the_models(quick):
    found = {each.config: each for each in construction_cases("cuda", quick)}
    assert set(found) == {"GPT2Config", "LlamaConfig"}
    for each in found.values():
        config = getattr(transformers, each.config)(**dict(each.options))
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert tuple(tuple(parameter.shape) for parameter in model.parameters()) == each.shapes


@pytest.mark.parametrize("model", SMALL)
def test_models_declare_what_their_config_says(model):
    """The peers are held to these laws."""
    laws = {box.law for each in Models(case(RECORD, BY_META, model=model), "cpu").declared for box in each.laws or ()}
    width = {"GPT-2": [0.02 / 4**0.5, 0.02], "Llama": [0.02]}[model]  # GPT-2 divides by the root of twice its layers
    assert sorted(law.std for law in laws if isinstance(law, Normal)) == pytest.approx(width)
    assert {law.value for law in laws if isinstance(law, Constant)} <= {0.0, 1.0}


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_right_builders_are_timed(op, dtype, model):
    """Each gives one row; bytes count where tensors become real."""
    todo = [case(op, builder, dtype, model) for builder in HALVES[op]]
    outcome = measure_construction(todo, "cpu", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    assert [row.provider for row in outcome.rows] == HALVES[op]
    for row in outcome.rows:
        assert (row.op, row.workload, row.dtype, row.mode) == (op, model, dtype, "host" if op == RECORD else "eager")
        assert (row.tensors, row.elements) == (len(todo[0].shapes), todo[0].elements)
        assert row.bytes == (0 if op == RECORD else todo[0].elements * DTYPES[dtype].itemsize)
        assert 0 < row.p20_s <= row.median_s <= row.p80_s
        assert (row.fraction_of_ceiling > 0) == (op != RECORD)


@pytest.mark.kernels
@pytest.mark.parametrize("op", OPS)
def test_triton_builds_the_same(op):
    """Where there is no GPU, by the interpreter."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    outcome = measure_construction([case(op, OURS["cuda"])], device, ENVIRONMENT, rounds=1, budget=0.0)
    assert outcome.refused == []
    assert {row.provider for row in outcome.rows} == {OURS["cuda"]}


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_builders_on_a_gpu(op):
    builders = [OURS["cuda"], *HALVES[op][1:]]
    outcome = measure_construction([case(op, each) for each in builders], "cuda", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    modes = ("host",) if op == RECORD else ("eager", "fresh")
    assert [(row.mode, row.provider) for row in outcome.rows] == [(mode, each) for mode in modes for each in builders]


def test_cuda_is_timed_in_kept_and_in_fresh_memory(monkeypatch):
    """Only for the latter torch's cache is emptied before each run; the device is at rest before and after."""
    done = []

    class OnHost(Models):
        def __init__(self, case, _):
            super().__init__(case, "cpu")
            self.device = torch.device("cuda")
            self._from_config = self.built

        def built(self, *_, **__):
            done.append("record")

        def poison(self):
            done.append("poison")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("rest"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("empty"))
    monkeypatch.setattr(construction, "Models", OnHost)
    builder = dataclasses.replace(BUILDERS[BY_META], fault=lambda *_: None)
    builder = dataclasses.replace(builder, prepare=construction._in_halves(construction._on_meta, lambda *_: None))
    todo = [case(MATERIALIZE, BY_META)]
    outcome = measure_construction(todo, "cuda", ENVIRONMENT, {BY_META: builder}, rounds=1, budget=0.0)
    assert [row.mode for row in outcome.rows] == ["eager", "fresh"]
    check = ["empty", "poison", "record", "rest", "rest", "rest"]
    assert done[: len(check)] == check
    first_fresh = done.index("empty", 1)
    assert set(done[len(check) : first_fresh]) == {"record", "rest"}
    fresh = done[first_fresh:-1]
    assert done[-1] == "empty"  # the job's memory is for the next one
    assert fresh == ["empty", "record", "rest", "rest"] * (len(fresh) // 4)


def flip_a_bit(models):
    models.made.lm_head.weight.data.view(torch.int32)[-1, -1] ^= 1


def shrink(models):
    models.made.lm_head.weight.data.mul_(0.9)


def leave_one(models):
    models.made.model.norm.weight.data[7] = torch.nan


def turn(models):
    models.made.model.rotary_emb.inv_freq.mul_(1.001)


def cast(models):
    models.made.bfloat16()


def cut(models):
    models.made.lm_head = torch.nn.Linear(64, 999, bias=False)


def make_real(models):
    models.made.model.norm.to_empty(device="cpu")


def declare_otherwise(models):
    with tritonparam.deferred_init():
        torch.nn.init.ones_(models.made.lm_head.weight)


@pytest.mark.parametrize(
    ("op", "builder", "spoil", "said"),
    [
        (MATERIALIZE, OURS["cpu"], flip_a_bit, "lm_head.weight: element 63999: got bits 0x"),
        (CONSTRUCTION, OURS["cpu"], leave_one, "model.norm.weight: tensor 0 has values outside"),
        (CONSTRUCTION, "torch", shrink, "lm_head.weight: the standard deviation is"),
        (MATERIALIZE, BY_META, turn, "model.rotary_emb.inv_freq: is not what the constructor computes"),
        (CONSTRUCTION, BY_META, cast, "model.embed_tokens.weight has torch.bfloat16 on cpu, not torch.float32 on cpu"),
        (CONSTRUCTION, "torch", cut, "the model has 21 parameters that are not the 21 of the case"),
        (RECORD, OURS["cpu"], declare_otherwise, "it declares something else than another model of the same config"),
        (RECORD, BY_META, make_real, "model.norm.weight is real"),
    ],
)
def test_wrong_builder_is_not_timed(op, builder, spoil, said):
    """The others are; what is wrong is said, and where."""
    builders = BUILDERS | {builder: spoiled(BUILDERS[builder], spoil)}
    todo = [case(op, each) for each in HALVES[op]]
    outcome = measure_construction(todo, "cpu", ENVIRONMENT, builders, rounds=1, budget=0.0)
    assert [row.provider for row in outcome.rows] == [each for each in HALVES[op] if each != builder]
    (refusal,) = outcome.refused
    assert refusal.startswith(f"{op}, float32, Llama, {torch.get_num_threads()} threads, {builder}: {said}")


def test_windows_are_rows_at_both_ends_and_between():
    assert list(construction._windows("a", torch.empty(12_288))) == [(0, 12_288)]
    found = list(construction._windows("a", torch.empty(1000, 64)))
    assert found[0] == (0, 64)
    assert found[-1] == (936, 1000)
    assert 64 <= found[1][0] <= 936 - 64
    assert found[1][1] == found[1][0] + 64
    assert found == list(construction._windows("a", torch.empty(1000, 64)))
    assert next(construction._windows("a", torch.empty(10, 11_008))) == (0, 1)


def bench(*arguments):
    """The exit code of `python -m bench`, and what it prints."""
    main = importlib.import_module("bench.__main__").main
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main([*map(str, arguments)])
    return code, text.getvalue()


def test_command_measures_construction_alone(tmp_path):
    code, text = bench("--device", "cpu", "--quick", "--only", "construction", "--out", tmp_path)
    assert code == 0, text
    (path,) = tmp_path.glob("*.csv")
    found = rows.read(path)
    assert {row.op for row in found} == set(OPS)
    assert len(found) == len(construction_cases("cpu", quick=True))


def test_command_says_that_transformers_is_missing(monkeypatch):
    monkeypatch.setattr(construction, "find_spec", lambda _: None)
    code, text = bench("--device", "cpu", "--quick", "--only", "construction")
    assert code == 0
    assert "note: construction is left out, since transformers is not installed" in text
    assert "0 rows" in text


def test_tables_leave_construction_out():
    plain = run.row(ENVIRONMENT, Case("ones", "torch", "a tensor", ((8,),), "float32", 1), "eager", 1, [0.5], 0.25)
    built = [
        dataclasses.replace(plain, op=op, provider=OURS["cuda"], mode=mode, date="2026-02-02", rounds=9)
        for op, mode in ((CONSTRUCTION, "fresh"), (RECORD, "host"))
    ]
    assert table.render([plain, *built]) == table.render([plain])
