"""Tensors that were one, or showed one memory, until a deferred model was sharded: what each of them is loaded with."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.fsdp")

from safetensors.torch import save_file
from torch.distributed import tensor as distributed
from torch.distributed.tensor import parallel

from tests.checkpoint import test_deferred_meshes
from tests.checkpoint.bits import same
from tests.fake_mesh import new_mesh_of as mesh_of
from tests.module.sharding import all_of_it, built, check
from tritonparam import deferred_init, load

DTensor, Shard = distributed.DTensor, distributed.Shard
DRAWN, stored = test_deferred_meshes.DRAWN, test_deferred_meshes.stored


@pytest.mark.parametrize("names", [("emb.weight",), ("head.weight",), ("emb.weight", "head.weight")])
def test_a_tie_that_sharding_severs(names, stored, tmp_path):
    """One name is enough for both, as before; where there are two, each has its own, for they are two by now."""
    _, want = stored
    tensors = {name: each.detach() for name, each in want.items() if name != "emb.weight" and "scratch" not in name}
    both = dict(zip(("emb.weight", "head.weight"), torch.randn(2, 11, 7), strict=True))
    save_file(tensors | {name: both[name] for name in names}, tmp_path / "model.safetensors")
    with mesh_of([2], 1) as mesh:
        model = built()
        all_of_it(model, mesh)
        assert model.head.weight is not model.emb.weight
        report = load(model, tmp_path / "model.safetensors", seed=DRAWN)
        assert not report.unexpected
        for name, got in (("emb.weight", model.emb.weight), ("head.weight", model.head.weight)):
            assert same(got.to_local(), both[name if name in names else names[0]]), name
        assert {"emb.weight", "head.weight"} <= set(report.loaded)


def test_a_tie_of_which_one_side_is_sharded(stored):
    path, want = stored
    with mesh_of([2], 1) as mesh:
        model = built()
        parallel.parallelize_module(model, mesh, {"head": parallel.ColwiseParallel()})
        assert isinstance(model.head.weight, DTensor)
        assert not isinstance(model.emb.weight, DTensor)
        load(model, path, seed=DRAWN)
        assert check(model, want) == 1


class Fused(nn.Module):
    """A tensor, and another that shows its first rows, until they are sharded."""

    def __init__(self):
        super().__init__()
        memory = torch.empty(6, 4)
        self.both, self.first = nn.Parameter(memory), nn.Parameter(memory[:2])


@pytest.mark.parametrize("which", [("both",), ("first",), ("both", "first")])
def test_tensors_that_shared_memory_until_they_were_sharded(which, tmp_path):
    """Each is loaded by itself; what the other one has been loaded with is not in the memory of one that is lacking."""
    tensors = {"both": torch.randn(6, 4), "first": torch.randn(2, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    save_file({"both": tensors["both"]}, tmp_path / "some.safetensors")
    with deferred_init():
        model = Fused()
    with mesh_of([2], 1) as mesh:
        for name in which:  # the other one stays deferred, and keeps the memory
            local = torch.empty(len(tensors[name]) // 2, 4, device="meta")
            setattr(model, name, nn.Parameter(DTensor.from_local(local, mesh, [Shard(0)], run_check=False)))
        with pytest.raises(ValueError, match=r"never written: first"):
            load(model, tmp_path / "some.safetensors", strict=False)
        load(model, tmp_path / "model.safetensors")
        for name in which:
            assert same(getattr(model, name).to_local(), tensors[name].chunk(2)[1])
        for name in tensors.keys() - set(which):
            assert same(getattr(model, name), tensors[name])
