"""A deferred model that was sharded is made real box by box: every process holds what the whole has there, bit for bit.

The processes do not exist: one plays them in turn.
"""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.fake_mesh import new_mesh_of as mesh_of
from tests.module.sharding import Model, all_of_it, built, by_rows, by_tensors, check, distributed, fsdp, named
from tritonparam import deferred_init, ledger, materialize
from tritonparam.module import declarations

ROOT = Path(__file__).parents[2]


def by_last(model, mesh):
    """Along the last dimension, counted from the end."""

    def cut(name, module, mesh):
        for key, each in module._parameters.items():
            if each is not None:
                shards = distributed.distribute_tensor(each, mesh, [distributed.Shard(-1)])
                module.register_parameter(key, nn.Parameter(shards, requires_grad=each.requires_grad))

    distributed.distribute_module(model, mesh, cut)


@pytest.mark.parametrize("rank", range(3))
@pytest.mark.parametrize("inside", [False, True], ids=["after the block", "in the block"])
@pytest.mark.parametrize("shard", [by_rows, by_tensors, by_last, all_of_it])
def test_every_process_makes_its_boxes_of_the_whole(shard, inside, rank, whole, recwarn):
    with mesh_of([3], rank) as mesh:
        with deferred_init():
            model = Model()
            if inside:
                shard(model, mesh)
        if not inside:
            shard(model, mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = {name: id(tensor) for name, tensor in model.named_parameters()}
        assert materialize(model, seed=5) is model
        assert check(model, whole) >= 8
        assert before == {name: id(tensor) for name, tensor in model.named_parameters()}
        assert all(not each.is_meta for group in optimizer.param_groups for each in group["params"])
        assert ledger(model)["blocks.0.up.weight"].state == "initialized"
    assert not [each for each in recwarn if "random" in str(each.message)]


@pytest.mark.parametrize("rank", range(4))
def test_fully_shard_over_tensor_parallelism_and_over_replicas(rank, whole):
    with mesh_of([2, 2], rank, ("dp", "tp")) as mesh:
        model = built()
        by_tensors(model, mesh["tp"])
        by_rows(model, mesh["dp"])
        check(materialize(model, seed=5), whole)
        model = built()
        by_rows(model, mesh)
        check(materialize(model, seed=5), whole)


@pytest.mark.filterwarnings("ignore::tritonparam.KeptWarning")
@pytest.mark.parametrize("rank", range(2))
def test_memory_that_to_empty_made_is_filled_in_place(rank, whole):
    with mesh_of([2], rank) as mesh:
        model = built()
        by_rows(model, mesh)
        model.to_empty(device="cpu")
        check(materialize(model, seed=5), whole, lean=False)
        with deferred_init():
            model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
        fsdp.fully_shard(model, mesh=mesh)
        model.to_empty(device="cpu")
        with torch.no_grad():
            model[0].bias.fill_(3.0)  # somebody's own values
        places = {name: tensor.to_local().data_ptr() for name, tensor in model.named_parameters()}
        materialize(model, seed=5)
        with deferred_init():
            want = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
        want = named(materialize(want, seed=5))
        for name, tensor in model.named_parameters():
            assert tensor.to_local().data_ptr() == places[name]
            rows = torch.chunk(want[name], 2)[rank] if name != "0.bias" else torch.full((3,), 3.0)
            assert torch.equal(tensor.to_local(), rows)


def test_memory_that_to_empty_made_of_inference_tensors_is_filled(whole):
    """Of these torch does not count what is written to them."""
    with mesh_of([2]) as mesh:
        model = built()
        by_rows(model, mesh)
        with torch.inference_mode():
            model.to_empty(device="cpu")
        check(materialize(model, seed=5), whole, lean=False)


@pytest.mark.filterwarnings("ignore::tritonparam.KeptWarning")
def test_memory_that_to_empty_made_is_real_once_it_was_filled(whole):
    """Whatever torch counts of the writes: nothing is made a second time."""
    with mesh_of([2]) as mesh:
        model = built()
        by_rows(model, mesh)
        model.to_empty(device="cpu")
        materialize(model, seed=5)
        assert {row.state for row in ledger(model)} <= {"initialized", "cloned"}
        materialize(model, seed=6)
        check(model, whole, lean=False)


def test_what_fully_shard_keeps_of_a_module_is_no_tensor_of_it():
    """Nor gets memory, where it sharded in the block: its pieces are cut anew once there are values."""
    with mesh_of([2]) as mesh, deferred_init():
        model = Model()
        by_rows(model, mesh)
    assert not [each.name for each in declarations(model) if each.kind == "attribute"]


def test_a_cast_of_a_sharded_model_counts(whole):
    with mesh_of([2], 1) as mesh:
        model = built()
        by_rows(model, mesh)
        model.to(torch.bfloat16)
        materialize(model, seed=5)
        check(
            model,
            {
                name: nn.Parameter(t.bfloat16(), t.requires_grad) if isinstance(t, nn.Parameter) else t.bfloat16()
                for name, t in whole.items()
            },
        )


def test_stages_of_a_pipeline_have_the_values_of_the_whole(whole):
    """What is deleted decides nothing about the rest: neither places in a list, nor the first name of a tie."""
    model = built()
    del model.blocks[0], model.emb
    got = named(materialize(model, seed=5))
    assert torch.equal(got["head.weight"], whole["emb.weight"])
    for name, tensor in got.items():
        if name.startswith("blocks.0."):
            assert torch.equal(tensor, whole[name.replace("blocks.0.", "blocks.1.")]), name


def test_layers_that_copy_one_draw_keep_it_without_the_first_of_them():
    def layers():
        with deferred_init():
            return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)

    want = named(materialize(layers(), seed=3))
    rest = layers()
    del rest.layers[0]
    for name, tensor in named(materialize(rest, seed=3)).items():
        place = int(name.split(".")[1])
        assert torch.equal(tensor, want[name.replace(f"layers.{place}.", f"layers.{place + 1}.")])


@pytest.mark.filterwarnings("ignore::tritonparam.DeferredWarning")
def test_wrapped_modules_have_the_values_that_they_have_bare(whole):
    checkpoint = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    model = built()
    model.blocks[0] = checkpoint.checkpoint_wrapper(model.blocks[0])
    got = materialize(model, seed=5).state_dict()
    assert got.keys() == built().state_dict().keys()
    assert all(torch.equal(tensor, whole[name.replace("head", "emb")]) for name, tensor in got.items())
    assert {row.state for row in ledger(model)} == {"initialized"}
    assert ledger(model)["blocks.0.up.weight"].key == "blocks.0.up.weight"


def test_shards_that_fully_shard_keeps_on_the_host_are_made_there(whole, monkeypatch):
    """On a mesh of CUDA devices, which are nowhere here; each process has its own rows, and other layers others."""
    monkeypatch.setattr(fsdp._fully_shard._fully_shard, "_get_device_from_mesh", lambda mesh: torch.device("cpu"))
    for rank in range(2):
        with mesh_of([2], rank, device="cuda") as mesh:
            model = built()
            for block in model.blocks:
                fsdp.fully_shard(block, mesh=mesh, offload_policy=fsdp.CPUOffloadPolicy())
            fsdp.fully_shard(model, mesh=mesh, offload_policy=fsdp.CPUOffloadPolicy())
            assert {each.device_mesh.device_type for each in model.parameters()} == {"cuda"}
            check(materialize(model, seed=5), whole)


WITHIN_3_GB = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
import torch
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from tritonparam import deferred_init, materialize

torch.distributed.init_process_group("fake", store=FakeStore(), rank=63, world_size=128)
with deferred_init():
    model = torch.nn.Sequential(*(torch.nn.Linear(16384, 16384) for _ in range(93)))
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (128,))
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
materialize(model, seed=0)
print(sum(each.numel() * each.itemsize for each in model.parameters()))
print(sum(each.to_local().untyped_storage().nbytes() for each in model.parameters()))
"""


def test_a_process_with_3_gb_makes_its_shard_of_100_gb():
    """All that it has, libraries and the model's description, is within the limit, which the kernel holds it to."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHIN_3_GB], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    whole, here = map(int, ran.stdout.split())
    assert whole == 93 * 4 * (16384 * 16384 + 16384) > 99e9
    assert here == whole // 128


def test_a_shard_of_a_hundred_terabytes_is_made_alone():
    with deferred_init():
        model = nn.Linear(5_000_000, 5_000_000, bias=False)
    with mesh_of([1_000_000], 999_999) as mesh:
        fsdp.fully_shard(model, mesh=mesh)
        local = materialize(model, seed=1).weight.to_local()
    assert local.numel() == 5_000_000 * 5
    assert math.isfinite(local.detach().sum())
