"""A model that was sharded before it had values is loaded: every process reads its boxes, and nothing is made whole.

The processes do not exist: one plays them in turn.
"""

import contextlib
import copy
import gc

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.fsdp")

from safetensors.torch import save_file
from torch.distributed import fsdp
from torch.distributed import tensor as distributed

from tests.checkpoint.bits import same
from tests.fake_mesh import new_mesh_of as mesh_of
from tests.module.sharding import all_of_it, built, by_rows, by_tensors, check, named
from tritonparam import deferred_init, ledger, load, materialize, save
from tritonparam.checkpoint import CheckpointError, loading
from tritonparam.module import takeover
from tritonparam.module.blueprint import Blueprint
from tritonparam.tensor import mesh_boxes

DTensor, Shard, Replicate = distributed.DTensor, distributed.Shard, distributed.Replicate
SEED, DRAWN = 9, 5


def over_both(model, mesh):
    by_tensors(model, mesh["tp"])
    by_rows(model, mesh["dp"])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A checkpoint, and what a model loaded from it holds; a buffer that no checkpoint has is drawn with DRAWN."""
    model = materialize(built(), seed=SEED)
    with torch.no_grad():
        for block in model.blocks:
            block.steps.normal_(generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("stored") / "model"
    save(model, path, max_shard_size=600)
    drawn = named(materialize(built(), seed=DRAWN))
    return path, {name: drawn[name] if name.endswith("scratch") else each for name, each in named(model).items()}


def held(model):
    """What is held in one process: of DTensors the local tensors; each once."""
    tensors = {id(each): each for each in named(model).values()}.values()
    return [each.detach().to_local() if isinstance(each, DTensor) else each.detach() for each in tensors]


def shown(model):
    """What a load that fails may not change."""
    return [(name, id(each), each.is_meta, each.dtype, each.requires_grad) for name, each in named(model).items()]


class Made(TorchDispatchMode):
    """The bytes of the storages that operators make on the host; those of files are mapped by none."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        got = func(*args, **kwargs or {})
        if (
            isinstance(got, torch.Tensor)
            and not got.is_meta
            and func._schema.name.startswith(("aten::empty", "aten::zeros"))
        ):
            self.made.append(got.untyped_storage().nbytes())
        return got


@pytest.mark.parametrize("rank", range(3))
@pytest.mark.parametrize("inside", [False, True], ids=["after the block", "in the block"])
@pytest.mark.parametrize("shard", [by_rows, by_tensors, all_of_it])
def test_every_process_loads_its_boxes_of_the_whole(shard, inside, rank, stored):
    """Uneven rows, ties, a frozen block; parameters stay what an optimizer holds."""
    path, want = stored
    with mesh_of([3], rank) as mesh:
        with deferred_init():
            model = built() if not inside else type(built())()
            if inside:
                shard(model, mesh)
        if not inside:
            shard(model, mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = {name: id(tensor) for name, tensor in model.named_parameters()}
        report = load(model, path, seed=DRAWN)
        assert check(model, want) >= 8
        assert {"blocks.0.scratch", "blocks.1.scratch"} == set(report.initialized)
        assert before == {name: id(tensor) for name, tensor in model.named_parameters()}
        assert all(not each.is_meta for group in optimizer.param_groups for each in group["params"])
        assert {ledger(model)[name].state for name in before} == {"loaded"}
        assert all(Blueprint.of(each) is None for each in model.modules())
        kept = [tensor.clone() for tensor in held(model)]
        materialize(model, seed=1)  # it is real by now
        assert all(map(same, held(model), kept))


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("shard", [by_rows, over_both], ids=["replicas", "tensor parallelism"])
def test_fully_shard_over_replicas_and_over_tensor_parallelism(shard, rank, stored, monkeypatch):
    """Not one byte is read or made beyond what the process holds: of uneven rows, several boxes of one tensor."""
    path, want = stored
    moved, move = [], loading.move
    monkeypatch.setattr(loading, "move", lambda moves, *rest: (moved.extend(moves), move(moves, *rest)))
    with mesh_of([2, 2], rank, ("dp", "tp")) as mesh:
        model = built()
        shard(model, mesh)
        with Made() as made:
            load(model, path, seed=DRAWN)
        check(model, want)
        local = [each for each in held(model) if each.numel()]
        drawn = [each for name, each in named(model).items() if name.endswith("scratch")]
    total = sum(each.nbytes for each in local)
    assert sum(each.source.nbytes for each in moved) == total - sum(each.nbytes for each in drawn)
    assert sum(made.made) <= total + 64 * len(made.made)
    assert max(made.made) == max(each.untyped_storage().nbytes() for each in local)
    assert {each.out.untyped_storage().data_ptr() for each in moved} <= {
        each.untyped_storage().data_ptr() for each in local
    }


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("empty", [False, True], ids=["no memory", "memory of to_empty"])
@pytest.mark.parametrize("rows", [1, 2, 7, 13])
def test_several_boxes_of_a_tensor_in_one_process(rows, empty, rank, tmp_path):
    """Rows that are cut once and again along one dimension, and do not come out even."""
    strided = distributed.placement_types._StridedShard
    with deferred_init():
        model = nn.Linear(3, rows, bias=False)
    want = torch.randn(rows, 3)
    save_file({"weight": want}, tmp_path / "model.safetensors")
    with mesh_of([2, 2], rank) as mesh:
        placements = [strided(0, split_factor=3), Replicate()]
        held = mesh_boxes((mesh, placements), (rows, 3))
        local = torch.empty(sum(each.box.sizes[0] for each in held), 3, device="meta")
        got = DTensor.from_local(local, mesh, placements, run_check=False, shape=(rows, 3), stride=(3, 1))
        model.weight = nn.Parameter(got)
        if empty:
            model.to_empty(device="cpu")
        (slot,) = loading.slots_of(model)
        assert len(slot.boxes) == len(held)
        assert rows < 7 or len(held) > 1
        load(model, tmp_path)
        got = model.weight.to_local().detach()
        assert same(got, torch.cat([want[:0], *(each.box.of(want) for each in held)]))
        assert got.untyped_storage().nbytes() == got.nbytes


@pytest.mark.parametrize("rank", range(2))
def test_convolutions_are_cut_in_any_dimension(rank, tmp_path):
    with deferred_init():
        model, want = (nn.Sequential(nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 3)) for _ in range(2))
    save(materialize(want, seed=SEED), tmp_path / "model")
    with mesh_of([2], rank) as mesh:
        fsdp.fully_shard(model, mesh=mesh, shard_placement_fn=lambda each: Shard(1 if each.dim() > 1 else 0))
        load(model, tmp_path / "model")
        assert model[0].weight.to_local().shape == (4, 3, 3, 3)
        assert model[0].weight.placements == (Shard(1),)
        assert check(model, named(want)) == 4


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("inference", [False, True])
def test_memory_that_to_empty_made_is_filled_in_place(inference, rank, stored):
    path, want = stored
    with mesh_of([2], rank) as mesh:
        model = built()
        by_rows(model, mesh)
        with torch.inference_mode(inference):
            model.to_empty(device="cpu")
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            model.blocks[0].norm.bias.fill_(3.0)  # somebody's own values: these are loaded over
        places = {name: each.to_local().data_ptr() for name, each in model.named_parameters()}
        load(model, path, seed=DRAWN)
        check(model, want, lean=False)
        assert places == {name: each.to_local().data_ptr() for name, each in model.named_parameters()}
        assert ledger(model)["blocks.0.up.weight"].state == "loaded"
        materialize(model, seed=1)
        check(model, want, lean=False)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("empty", [False, True], ids=["no memory", "memory of to_empty"])
def test_what_the_checkpoint_lacks_gets_the_values_that_materialize_gives(empty, rank, stored, tmp_path):
    """A parameter, a replayed one, a tied one and buffers."""
    _, want = stored
    lost = ("emb.weight", "head.weight", "blocks.0.up.bias", "blocks.1.turn", "blocks.1.steps")
    names = [name for name in want if name not in lost and not name.endswith("scratch")]
    save_file({name: want[name].detach() for name in names}, tmp_path / "some.safetensors")
    drawn = named(materialize(built(), seed=DRAWN))
    with mesh_of([2], rank) as mesh:
        model = built()
        by_rows(model, mesh)
        if empty:
            model.to_empty(device="cpu")
        with pytest.raises(ValueError, match=r"missing in it: emb\.weight.*blocks\.0\.up\.bias"):
            load(model, tmp_path / "some.safetensors")
        report = load(model, tmp_path / "some.safetensors", strict=False, seed=DRAWN)
        check(model, want | {name: drawn[name] for name in lost if name in drawn}, lean=not empty)
    assert set(report.loaded) == set(names)
    assert {"emb.weight", "blocks.0.up.bias", "blocks.1.turn", "blocks.1.steps"} < set(report.initialized)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_casts_are_those_of_a_plain_load(dtype, stored):
    path, _ = stored
    plain = built()
    load(plain, path, dtype=dtype, seed=DRAWN)
    with mesh_of([2], 1) as mesh:
        model = built()
        by_rows(model, mesh)
        load(model, path, dtype=dtype, seed=DRAWN, device="cpu")
        check(model, named(plain))
        model = built()
        by_rows(model, mesh)
        model.to(dtype)
        load(model, path, seed=DRAWN)
        check(model, {name: each.to(dtype) for name, each in named(plain).items()})


def test_only_the_boxes_that_are_held_have_to_be_there(tmp_path):
    """A file of one process is enough for it; another one says which tensor it lacks, and changes nothing."""
    want = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5))
    for rank in range(2):
        with mesh_of([2], rank) as mesh:
            whole = copy.deepcopy(want)
            fsdp.fully_shard(whole, mesh=mesh)
            save(whole, tmp_path / "out", rank=rank, world_size=2)
    for file in (tmp_path / "out").glob("shard-00001-*"):
        file.unlink()
    for rank in (1, 0):
        with deferred_init():
            model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5))
        with mesh_of([2], rank) as mesh:
            fsdp.fully_shard(model, mesh=mesh)
            if rank:
                load(model, tmp_path / "out")
                assert check(model, named(want)) == 4
            else:
                before = shown(model)
                with pytest.raises(CheckpointError, match=r"only parts of '0\.weight'"):
                    load(model, tmp_path / "out")
                assert shown(model) == before


@pytest.mark.parametrize("empty", [False, True], ids=["no memory", "memory of to_empty"])
@pytest.mark.parametrize("when", ["damaged", "lacking", "shape", "reading", "swapping", "held"])
def test_an_error_changes_nothing(when, empty, stored, tmp_path, monkeypatch):
    """Nothing becomes real, and memory that is there counts as having no values: the next load is as the first."""
    path, want = stored
    tensors = {name: each.detach().clone() for name, each in want.items() if "scratch" not in name}
    bad = tmp_path / "bad.safetensors"
    if when == "shape":
        tensors["blocks.1.flat"] = torch.zeros(2, 15)
    if when == "lacking":
        del tensors["blocks.1.flat"]
    save_file(tensors, bad)
    if when == "damaged":
        bad.write_bytes(bad.read_bytes()[:-10])
    with mesh_of([2], 1) as mesh:
        model = built()
        by_rows(model, mesh)
        if empty:
            model.to_empty(device="cpu")
        before, reference = shown(model), None
        with monkeypatch.context() as patch:
            move, exchange, left = loading.move, takeover.exchange, [2]

            def fail(call):
                def failing(*arguments):
                    left[0] -= 1
                    if left[0] == 0:
                        raise RuntimeError("planted")
                    return call(*arguments)

                return failing

            if when == "reading":
                patch.setattr(loading, "move", fail(move))
            if when == "swapping":
                patch.setattr(takeover, "exchange", fail(exchange))
            if when == "held":
                each = model.blocks[1].scratch if empty else model.blocks[1].norm.weight
                reference = torch._C._WeakTensorRef(each)
            with pytest.raises((CheckpointError, ValueError, RuntimeError)):
                load(model, bad, seed=1)
        assert shown(model) == before
        del reference
        gc.collect()
        assert all(loading.slots_of(model)[n].values is None for n in range(8))
        load(model, path, seed=DRAWN)
        check(model, want, lean=not empty)


def test_a_part_of_a_sharded_model_is_loaded_alone(stored):
    """What is drawn in it, and what is made real after it, has the values of the whole."""
    path, want = stored
    drawn = named(materialize(built(), seed=DRAWN))
    with mesh_of([2], 1) as mesh:
        model = built()
        by_rows(model, mesh)
        load(model.blocks[0], path, mapping=lambda name: f"blocks.0.{name}", strict=False, seed=DRAWN)
        assert model.blocks[1].up.weight.is_meta
        materialize(model, seed=DRAWN)
        check(model, {name: each if name.startswith("blocks.0.") else drawn[name] for name, each in want.items()})


def test_a_process_beside_the_mesh_holds_nothing(tmp_path):
    with deferred_init():
        model, want = nn.Linear(4, 4), nn.Linear(4, 4)
    save(materialize(want), tmp_path / "model")
    with mesh_of([3], 2) as mesh:
        first = int(mesh.mesh[0])
        pair = torch.distributed.device_mesh.DeviceMesh("cpu", torch.tensor([first, first + 1]))
        local = torch.empty(0, device="meta")
        got = DTensor.from_local(local, pair, [Shard(0)], run_check=False, shape=(4, 4), stride=(4, 1))
        model.weight = nn.Parameter(got)
        load(model, tmp_path / "model")
        assert not model.weight.is_meta
        assert not model.weight.to_local().numel()
        assert same(model.bias, want.bias)


def test_partial_placements_are_refused(stored):
    with mesh_of([2]) as mesh:
        model = built()
        local = torch.empty(7, device="meta")
        norm = model.blocks[0].norm
        norm.bias = nn.Parameter(DTensor.from_local(local, mesh, [distributed.Partial()], run_check=False))
        before = shown(model)
        with pytest.raises(ValueError, match=r"target must hold boxes.*norm\.bias.*Shard and Replicate"):
            load(model, stored[0])
        assert shown(model) == before
