"""The boxes that a mesh plan gives a rank are those that torch and transformers give it, in every process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("hypothesis")
pytest.importorskip("torch.distributed.fsdp", reason="needs torch.distributed")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distributed.torch_layouts import Small, local_tensors, named_mesh, parallelize, shard
from tritonparam import deferred_init
from tritonparam.distributed import MeshPlan, MeshShape, plan_mesh

PLAN = {"emb": "embedding_rowwise", "layers.*.up": "colwise", "layers.*.down": "rowwise", "head": "colwise"}
WITHIN = {"up": "colwise", "down": "rowwise"}
SIZES = st.integers(1, 5)


def numbered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give every element of a model its index in its tensor."""
    named = [*model.named_parameters(), *model.named_buffers()]
    with torch.no_grad():
        for _, each in named:
            each.copy_(torch.arange(each.numel()).view(each.shape))
    return {name: each.detach().clone() for name, each in named}


def assert_boxes_are(plan: MeshPlan, rank: int, whole: dict[str, torch.Tensor], local: dict[str, torch.Tensor]) -> None:
    """Every box of the whole lies where it should in the local tensor, and leaves nothing of it out."""
    tensors = {each.layout.declaration.name: each for each in plan.tensors_of(rank)}
    assert tensors.keys() == local.keys()
    for name, got in local.items():
        want = torch.full(tensors[name].local_shape, -1, dtype=got.dtype)
        for box, place in tensors[name].held:
            place.of(want).copy_(box.of(whole[name]))
        assert torch.equal(got, want), (rank, name)


@given(SIZES, SIZES, SIZES, st.integers(1, 9), st.integers(1, 13), st.booleans())
@settings(deadline=None, max_examples=25)
def test_boxes_are_the_local_tensors_of_torch(
    replicas: int, shards: int, tp: int, width: int, hidden: int, tied: bool
) -> None:
    """fully_shard, HSDP, both over tensor parallelism; uneven and empty shards, ties, frozen padding, buffers."""
    sizes = {"dp_replicate": min(replicas, 2), "dp_shard": shards, "tp": tp}
    with deferred_init():
        plan = plan_mesh(Small(width, hidden, tied=tied), sizes, tp_plan=PLAN)
    for rank in range(plan.mesh.ranks):
        with named_mesh(sizes, rank) as mesh:
            model = Small(width, hidden, tied=tied)
            whole = numbered(model)
            if tp > 1:
                parallelize(
                    model, mesh["tp"], {"emb": "rowwise", "head": "colwise"} if not tied else {"emb": "rowwise"}
                )
                if tied:
                    model.head.weight = model.emb.weight
                for block in model.layers:
                    parallelize(block, mesh["tp"], WITHIN)
            if shards > 1:
                shard(model, mesh, model.layers)
            assert_boxes_are(plan, rank, whole, local_tensors(model))


def test_context_parallelism_shards_as_data_parallelism_does() -> None:
    """torchtitan folds both into one dimension, cp within dp_shard."""
    with deferred_init():
        model = Small()
    folded, flat = plan_mesh(model, "dp_shard=2,cp=3"), plan_mesh(model, "dp_shard=6")
    for rank in range(6):
        ours, want = ([each.held for each in plan.tensors_of(rank)] for plan in (folded, flat))
        assert ours == want
    assert folded.nbytes.tolist() == flat.nbytes.tolist()


@contextlib.contextmanager
def llama(**options: Any) -> Iterator[torch.nn.Module]:
    """A small Llama of transformers whose sizes do not come out even; wherever the caller builds it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 12, "intermediate_size": 22, "num_hidden_layers": 2, "vocab_size": 37}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **options)
    yield transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("sizes", [{"tp": 2}, {"tp": 3}, {"dp_shard": 3, "tp": 2}, {"dp_shard": 2, "tp": 4}], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_llama_by_the_plan_that_it_comes_with(sizes: dict[str, int], tied: bool) -> None:
    """Its styles are those of the installed transformers, which applies them here."""
    parallel = pytest.importorskip("transformers.distributed.tensor_parallel", reason="another transformers")
    with deferred_init(), llama(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True) as model:
        plan = plan_mesh(model, sizes)
    for rank in range(plan.mesh.ranks):
        with (
            named_mesh(sizes, rank) as mesh,
            llama(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True) as real,
        ):
            whole = numbered(real)
            rules = real._expand_parallel_plan(real._tp_plan)
            if tied:  # it ties them again afterwards
                rules = {name: style for name, style in rules.items() if not name.startswith("lm_head")}
            parallel.apply_tensor_parallelism(real, mesh["tp"], rules)
            if tied:
                real.lm_head.weight = real.model.embed_tokens.weight
            if "dp_shard" in sizes:
                shard(real, mesh, real.model.layers)
            assert_boxes_are(plan, rank, whole, local_tensors(real))


@pytest.mark.parametrize("style", ["packed_colwise", "packed_rowwise", "embedding_colwise", "rowwise_split_input"])
@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (3, 6, 10)], ids=str)
def test_styles_cut_what_those_of_transformers_cut(style: str, shape: tuple[int, ...]) -> None:
    """Packed weights give each process parts of both halves."""
    parallel = pytest.importorskip("transformers.distributed.parallel_utils", reason="another transformers")
    pytest.importorskip("transformers.distributed.tensor_parallel")
    names = ["weight"] if style == "embedding_colwise" else ["weight", "bias"]
    with deferred_init():
        model = torch.nn.ParameterDict({"weight": torch.zeros(shape), "bias": torch.zeros(shape[-1])})
        plan = plan_mesh(
            model,
            "tp=3",
            tp_plan={"weight": style, "bias": style} if style != "embedding_colwise" else {"weight": style},
        )
    for rank in range(3):
        with named_mesh({"tp": 3}, rank) as mesh:
            real = torch.nn.ParameterDict({"weight": torch.zeros(shape), "bias": torch.zeros(shape[-1])})
            whole = numbered(real)
            for name in names:
                parallel.ALL_PARALLEL_STYLES[style].shard_param(real, name, mesh["tp"])
            assert_boxes_are(plan, rank, whole, local_tensors(real))


def test_every_style_of_transformers_is_known() -> None:
    """But those of expert parallelism, which is another dimension."""
    parallel = pytest.importorskip("transformers.distributed.parallel_utils", reason="another transformers")
    for each in ("tensor_parallel", "expert_parallel"):  # which register them
        pytest.importorskip(f"transformers.distributed.{each}")
    from tritonparam.distributed import TP_STYLES

    assert {*parallel.ALL_PARALLEL_STYLES} - {"grouped_gemm", "ep_dispatch_experts"} == {*TP_STYLES}


@pytest.mark.parametrize(("layers", "pp"), [(5, 2), (7, 3), (4, 4)])
@pytest.mark.parametrize("tied", [False, True])
def test_stages_are_those_of_transformers(layers: int, pp: int, tied: bool) -> None:
    """Its pipeline puts modules without parameters in the place of what other stages have."""
    pipeline = pytest.importorskip("transformers.distributed.pipeline_parallel", reason="another transformers")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=layers,
        vocab_size=8,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    with deferred_init():
        model = transformers.LlamaForCausalLM(config)
    plan = plan_mesh(model, {"pp": pp})
    for rank in range(pp):
        with named_mesh({"pp": pp}, rank) as mesh:
            with torch.device("meta"):
                real = transformers.LlamaForCausalLM(config)
            pipeline.apply_pipeline_parallelism(real, mesh["pp"])
            want = {name for name, _ in [*real.named_parameters(), *real.named_buffers()]}
        got = {
            name
            for each in plan.tensors_of(rank)
            for name in (each.layout.declaration.name, *each.layout.declaration.aliases)
        }
        assert got >= want
        assert got - want <= {"lm_head.weight", "model.embed_tokens.weight"} if tied else got == want


def test_mesh_of_one_rank_holds_the_model() -> None:
    with deferred_init():
        model = Small()
    plan = plan_mesh(model, MeshShape())
    assert all(each.is_whole for each in plan.tensors_of(0))
    assert plan.nbytes.tolist() == [plan.whole_nbytes]
