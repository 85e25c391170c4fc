"""fingerprint and check_replicas of models that torch has sharded: strided shards, flat parameters, replicas."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.tensor")
pytest.importorskip("torch.distributed.fsdp")

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from tests.distributed.torch_layouts import Small, parallelize
from tritonparam import check_replicas, fingerprint, save


def _small(tied=False):
    """The same values in every process; 11 rows, 7 hidden and 5 wide, which nothing divides."""
    torch.manual_seed(3)
    model = Small(width=5, hidden=7, rows=11, tied=tied)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def _boxes(rank, world, folder):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = _small()
    for block in model.layers:
        parallelize(block, mesh["tp"], {"up": "colwise", "down": "rowwise"})
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    placements = str(model.layers[0].up.weight.placements)
    found, differences = fingerprint(model), check_replicas(model)
    save(model, folder / "out")
    return found, fingerprint(folder / "out"), differences, placements


def test_fully_shard_over_tensor_parallelism(launch, tmp_path):
    """7 rows over 2 x 2 ranks: strided shards, each of one box."""
    want = fingerprint(_small())
    for found, saved, differences, placements in launch(_boxes, 4, folder=tmp_path):
        assert "_StridedShard" in placements
        assert found == saved == want
        assert differences == ()


def _flat(rank, world, folder, original, tied):
    model = _small(tied)
    options = {"use_orig_params": original, "device_id": torch.device("cpu")}
    for number in range(2):
        model.layers[number] = FullyShardedDataParallel(model.layers[number], **options)
    model = FullyShardedDataParallel(model, **options)
    # A forward gives flat parameters their final form.
    model.module.forward = lambda x: sum(block(x).sum() for block in model.layers)
    for each in model.layers:
        each.module.forward = each.module.up.forward
    model(torch.ones(2, 5)).backward()
    found, differences = fingerprint(model), check_replicas(model)
    save(model, folder / "out")
    return found, fingerprint(folder / "out"), differences


@pytest.mark.parametrize(("world", "original", "tied"), [(2, True, True), (3, False, False), (3, True, True)])
@pytest.mark.filterwarnings("ignore")
def test_flat_parameters(launch, tmp_path, world, original, tied):
    want = fingerprint(_small(tied))
    for found, saved, differences in launch(_flat, world, folder=tmp_path, original=original, tied=tied):
        assert found == saved == want
        assert differences == ()


def _replicas(rank, world, folder):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = _small()
    for block in model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found, before = fingerprint(model), check_replicas(model)
    save(model, folder / "out")
    saved = fingerprint(folder / "out")
    weight = model.layers[1].up.weight
    assert isinstance(weight, DTensor)
    if rank == 3:
        with torch.no_grad():
            weight.to_local()[0, 0] += 1
    return found, saved, before, [(each.name, each.ranks) for each in check_replicas(model)], fingerprint(model)


def test_replicas_of_shards_that_differ_are_named(launch, tmp_path):
    """The replicas 1 and 3 hold the same rows; the fingerprint has those of the first."""
    want = fingerprint(_small())
    for found, saved, before, after, again in launch(_replicas, 4, folder=tmp_path):
        assert found == saved == again == want
        assert before == ()
        assert after == [("layers.1.up.weight", (3,))]
