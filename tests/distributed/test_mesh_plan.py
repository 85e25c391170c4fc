"""A mesh plan's columns are what each rank's own plan comes to, and they tell who holds most and why."""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.torch_layouts import Block, Small, local_tensors, named_mesh, parallelize, shard
from tests.uncollected import uncollected
from tritonparam import deferred_init, materialize
from tritonparam.distributed import MeshPlan, Stages, plan_mesh, spans
from tritonparam.distributed.rank_plan import rank_fills
from tritonparam.plan import launches_of

PLAN = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}
PACKED = {"layers.*.up": "packed_colwise", "layers.*.down": "packed_rowwise"}  # of which each rank has two boxes


class Odd(torch.nn.Module):
    """Two-box, replayed, reshaped, given, integer and empty tensors beside plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Block(6, 10) for _ in range(3))
        self.emb = torch.nn.Embedding(11, 6, padding_idx=4)
        self.turned = torch.nn.Parameter(torch.nn.init.orthogonal_(torch.empty(7, 5)))
        self.viewed = torch.nn.Parameter(torch.randn(35).view(7, 5))
        self.none = torch.nn.Parameter(torch.empty(0, 4))
        self.register_buffer("angles", torch.arange(6).cos())


def deferred(build: Any = Odd) -> torch.nn.Module:
    with deferred_init():
        return build()  # type: ignore[no-any-return]


MESHES = ["dp_shard=4", "dp_shard=3,tp=2", "pp=2,dp_replicate=2,dp_shard=2", "pp=3,dp_shard=2,cp=2,tp=2", "dp_shard=40"]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("rules", [PLAN, PACKED], ids=["one box", "two boxes"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_columns_are_what_the_ranks_own_plans_come_to(
    mesh: str, dtype: torch.dtype | None, rules: dict[str, str]
) -> None:
    """Bytes, tensors, boxes, launches and the peak, counted anew for each rank from its boxes and its fills."""
    plan = plan_mesh(deferred(), mesh, dtype=dtype, tp_plan=rules)
    for rank in range(plan.mesh.ranks):
        tensors = plan.tensors_of(rank)
        sizes = [sum(math.prod(box.sizes) for box, _ in each.held) * each.layout.dtype.itemsize for each in tensors]
        assert sizes == [each.nbytes for each in tensors]
        assert plan.nbytes[rank] == sum(sizes)
        assert plan.tensors[rank] == sum(size > 0 for size in sizes)
        fills = rank_fills(tensors)
        in_part = [each for each in tensors if each.layout.is_made_whole and each.held and not each.is_whole]
        replayed = [each for each in tensors if each.layout.declaration.laws is None and each.is_whole]
        assert plan.boxes[rank] == len(fills) + sum(len(each.held) for each in [*in_part, *replayed])
        assert plan.launches[rank] == bool(fills)
        largest = max(
            (math.prod(each.layout.declaration.shape) * each.layout.dtype.itemsize for each in in_part), default=0
        )
        assert plan.peak_nbytes[rank] - plan.nbytes[rank] == largest


@pytest.mark.parametrize("rank", range(6))
def test_materialize_makes_what_was_planned(rank: int, plans: list[Any]) -> None:
    """A rank's storages have the bytes, and it runs as many plans as there were to be launches."""
    sizes = {"dp_shard": 3, "tp": 2}
    model = deferred()
    want = plan_mesh(deferred(), sizes, tp_plan=PLAN)
    with named_mesh(sizes, rank) as mesh:
        for block in model.layers:  # type: ignore[union-attr]
            parallelize(block, mesh["tp"], {"up": "colwise", "down": "rowwise"})
        shard(model, mesh, model.layers)
        plans.clear()
        tensors = local_tensors(materialize(model)).values()
    held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    assert sum(held.values()) == want.nbytes[rank]
    own = [each for each in plans if len(each.operations) > 1]  # not the draws of what is replayed on the host
    assert len(own) == want.launches[rank]
    assert sum(each.out.numel() > 0 for each in own[0].operations) == want.build(rank).fills


@pytest.mark.parametrize("mesh", MESHES)
def test_every_element_is_held_by_as_many_ranks_as_there_are_copies(mesh: str) -> None:
    plan = plan_mesh(deferred(), mesh, tp_plan=PLAN)
    seen: dict[str, torch.Tensor] = {}
    for rank in range(plan.mesh.ranks):
        for each in plan.tensors_of(rank):
            declaration = each.layout.declaration
            count = seen.setdefault(declaration.name, torch.zeros(declaration.shape, dtype=torch.int64))
            for box, _ in each.held:
                box.of(count).add_(1)
    for layout in plan.layouts:
        acts = [n for n, cut in zip((plan.mesh.tp, plan.mesh.shards), layout.cuts, strict=True) if cut is not None]
        copies = plan.mesh.ranks // plan.mesh.pp * len(layout.stages) // math.prod(acts)
        assert (seen[layout.declaration.name] == copies).all()


def test_build_lays_out_what_cuda_would_launch_and_times_it() -> None:
    pytest.importorskip("triton")
    plan = plan_mesh(deferred(), "dp_shard=4,tp=2", tp_plan=PLAN)
    for rank in (None, 5):
        built = plan.build(rank)
        fills = rank_fills(plan.tensors_of(built.rank))
        assert built.rank == (plan.most_loaded if rank is None else rank)
        assert (built.fills, built.launches) == (len(fills), launches_of(fills))
        assert built.launches is not None
        assert built.launches.rows == built.fills
        assert built.seconds > 0


def test_build_does_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(fills: object) -> None:
        raise ImportError("no triton")

    monkeypatch.setattr("tritonparam.distributed.rank_plan.launches_of", missing)
    built = plan_mesh(deferred(), "dp_shard=4").build(0)
    assert built.launches is None
    assert built.fills > 10


def test_nothing_is_allocated_for_a_model_that_no_host_holds() -> None:
    """70 TB over two ranks: their boxes, and the fills of one of them."""
    with deferred_init():
        plan = plan_mesh(torch.nn.Linear(2**22, 2**22), "dp_shard=2")
    assert plan.nbytes.tolist() == [2**45 + 2**23] * 2
    (weight,) = rank_fills(plan.tensors_of(1)[:1])
    assert (weight.offsets, tuple(weight.out.shape)) == ((2**21, 0), (2**21, 2**22))


def test_sizes_that_no_process_can_have_are_refused() -> None:
    """Counts are of 64 bits, and so are addresses."""
    with deferred_init():
        plan = plan_mesh(torch.nn.Linear(2**25, 2**25), "dp_shard=2")
    with pytest.raises(ValueError, match=r"more than this process can address, got 2,251,799,813,685,248 bytes"):
        plan.build()
    with deferred_init():
        models = [torch.nn.Linear(2**30, 2**29, bias=False) for _ in range(2)]
    assert plan_mesh(models[0], "dp_shard=2").whole_nbytes == 2**61
    with pytest.raises(ValueError, match="must come to less than 2\\*\\*62 bytes"):
        plan_mesh(torch.nn.ModuleList(models), "dp_shard=2")


def test_the_most_loaded_rank_is_named_with_the_tensors_that_do_not_come_out_even() -> None:
    with deferred_init():
        plan = plan_mesh(Small(width=8, hidden=16, rows=11), "dp_shard=4")
    assert (plan.most_loaded, plan.least_loaded) == (0, 3)
    assert [(each.family.name, each.nbytes, each.reason) for each in plan.surplus()] == [
        ("emb.weight", 32, "dimension 0: 11 in 4 parts, 3 on rank 0, 2 on rank 3"),
        ("head.weight", 32, "dimension 0: 11 in 4 parts, 3 on rank 0, 2 on rank 3"),
    ]
    assert plan.surplus(1, 0) == []


def test_what_only_one_stage_has_is_a_reason() -> None:
    with deferred_init():
        plan = plan_mesh(Small(rows=1000, depth=3), "pp=2")
    assert plan.nbytes.argmax() == plan.most_loaded == 0
    reasons = {each.family.name: each.reason for each in plan.surplus()}
    assert reasons["emb.weight"] == "1 in stage 0, 0 in stage 1"
    assert reasons["layers.*.up.weight"] == "2 in stage 0, 1 in stage 1"


def test_tied_tensors_count_once_and_lie_in_the_stages_of_all_their_names() -> None:
    with deferred_init():
        model = Small(tied=True)
    assert plan_mesh(model, "dp_shard=1").nbytes[0] == sum(
        each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()]
    )
    tied = next(each for each in plan_mesh(model, "pp=2").layouts if each.declaration.name == "emb.weight")
    assert tied.stages == (0, 1)


def test_predicted_seconds_are_bytes_over_what_was_measured_of_the_bandwidth() -> None:
    with deferred_init():
        model = torch.nn.ModuleDict({"a": torch.nn.Embedding(1000, 100), "b": torch.nn.LayerNorm(100)})
    plan = plan_mesh(model, "dp_shard=2", bandwidth=1000.0)
    want = 500 * 100 * 4 / 0.872e12 + 2 * 50 * 4 / 0.984e12
    assert plan.seconds == pytest.approx([want, want])
    assert plan_mesh(model, "dp_shard=2", bandwidth=2000).seconds == pytest.approx(plan.seconds / 2)


def test_tensors_that_are_real_count_and_are_not_made() -> None:
    plan = plan_mesh(torch.nn.Linear(4, 4), "dp_shard=2")
    assert (plan.nbytes.tolist(), plan.boxes.tolist(), plan.launches.tolist()) == ([40, 40], [0, 0], [0, 0])
    assert plan.build().fills == 0


def work_of(plan: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The Python calls, and the elements of arrays of spans, that a plan takes."""
    calls = elements = 0
    chunks = spans._chunks

    def counted(found: spans.Spans, parts: int) -> spans.Spans:
        nonlocal elements
        made = chunks(found, parts)
        elements += made.size.size
        return made

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with monkeypatch.context() as patch, uncollected():
        patch.setattr(spans, "_chunks", counted)
        sys.setprofile(count)
        try:
            plan()
        finally:
            sys.setprofile(None)
    return calls, elements


def test_work_grows_as_the_ranks_and_as_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the ranks: no more calls, and twice as many numbers. Twice the tensors: at most twice the calls."""
    models = {depth: deferred(lambda depth=depth: Small(depth=depth)) for depth in (8, 16, 32)}
    work = {
        (depth, shards): work_of(
            lambda m=models[depth], s=shards: plan_mesh(m, {"dp_shard": s, "tp": 4}, tp_plan=PLAN), monkeypatch
        )
        for depth, shards in [(8, 64), (8, 64), (8, 128), (8, 256), (16, 64), (32, 64)]
    }
    (calls, _), (more_calls, _), (most_calls, _) = (work[8, shards] for shards in (64, 128, 256))
    assert most_calls - calls < 0.01 * calls
    assert more_calls - calls < 0.01 * calls
    numbers = [work[8, shards][1] for shards in (64, 128, 256)]
    assert numbers[2] - numbers[1] == pytest.approx(2 * (numbers[1] - numbers[0]))
    steps = [work[depth, 64][0] for depth in (8, 16, 32)]
    assert steps[2] - steps[1] < 2.1 * (steps[1] - steps[0])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mesh": "ep=2"}, ValueError, "mesh must name dimensions among"),
        ({"mesh": "tp=2"}, ValueError, "tp_plan must be given for tp=2, since Small comes with none"),
        ({"mesh": "tp=2", "tp_plan": {}}, None, ""),
        (
            {"mesh": "tp=2", "tp_plan": {"layers.*.up": "diagonal"}},
            ValueError,
            "styles of tp_plan must be among colwise",
        ),
        ({"mesh": "tp=2", "tp_plan": {"layers.*.op": "colwise"}}, ValueError, r"got 'layers\.\*\.op'"),
        ({"mesh": "tp=1", "tp_plan": {"layers.*.op": "colwise"}}, ValueError, "tp_plan must name modules"),
        ({"mesh": "tp=2", "tp_plan": ["emb"]}, TypeError, "tp_plan must be a mapping of names to styles"),
        ({"mesh": "tp=2", "tp_plan": {"emb": 0}}, TypeError, "tp_plan must be a mapping of names to styles"),
        (
            {"mesh": "tp=2", "tp_plan": {"layers.0.norm": "embedding_colwise"}},
            ValueError,
            "cuts dimension 1, and weight",
        ),
        ({"mesh": "pp=3"}, ValueError, "pp must be at most the 2 layers of layers, got 3"),
        ({"mesh": "pp=2", "module": torch.nn.Linear(2, 2)}, ValueError, "pp must be 1 for a model without a list"),
        ({"mesh": "tp=2", "bandwidth": 0}, ValueError, "bandwidth must be a positive number of GB/s, got 0"),
        ({"mesh": "tp=2", "bandwidth": math.nan}, ValueError, "bandwidth must be a positive number"),
        ({"mesh": "tp=2", "bandwidth": "fast"}, TypeError, "bandwidth must be a number of GB/s"),
        ({"mesh": "dp_shard=2", "dtype": torch.int32}, (TypeError, ValueError), "dtype"),
        ({"mesh": "dp_shard=2", "module": "gpt2"}, TypeError, "module must be a torch.nn.Module"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict[str, Any], error: Any, text: str) -> None:
    options = {"module": deferred(Small)} | options
    if error is None:
        assert isinstance(plan_mesh(**options), MeshPlan)
        return
    with pytest.raises(error, match=text):
        plan_mesh(**options)


def test_parameters_without_dimensions_are_refused_as_fully_shard_refuses_them() -> None:
    with deferred_init():
        model = torch.nn.ParameterDict({"scale": torch.nn.Parameter(torch.zeros(()))})
    assert plan_mesh(model, "dp_replicate=2").nbytes.tolist() == [4, 4]
    with pytest.raises(ValueError, match="which fully_shard refuses, got 2 shards and scale"):
        plan_mesh(model, "dp_shard=2")


def test_several_lists_of_layers_have_no_stages() -> None:
    model = torch.nn.ModuleDict(
        {"a": torch.nn.ModuleList([torch.nn.Linear(1, 1)]), "b": torch.nn.ModuleList([torch.nn.Linear(1, 1)])}
    )
    with pytest.raises(ValueError, match="several lists of layers, got 'a, b'"):
        Stages(model, 2)


def test_layers_may_be_a_dict_or_a_sequence() -> None:
    """As torchtitan's, and as whole models are written."""
    dicts = torch.nn.ModuleDict({"layers": torch.nn.ModuleDict({str(n): torch.nn.Linear(1, 1) for n in range(4)})})
    assert Stages(dicts["layers"], 2).of("parameter", ["2.weight"]) == (1,)
    sequence = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Sequential(torch.nn.Linear(1, 1)), torch.nn.ReLU())
    assert Stages(sequence, 3).of("parameter", ["1.0.bias"]) == (1,)


def test_layers_are_shared_out_in_order_and_evenly() -> None:
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(11))})
    stages = [Stages(model, 4).of("parameter", [f"layers.{n}.weight"])[0] for n in range(11)]
    assert stages == sorted(stages)
    assert [*Counter(stages).values()] == [3, 3, 3, 2]
    assert np.diff(stages).max() == 1
