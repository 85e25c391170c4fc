"""Models made on meshes of real processes: together they hold what one process makes, and each its boxes only."""

from __future__ import annotations

import math
import os

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.tensor")
pytest.importorskip("torch.distributed.fsdp")

from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from tests.module.mesh_models import MODELS, TRAINED, batch_of, cases, local_of, mesh_of, tensors_of
from tritonparam import deferred_init, fingerprint, materialize
from tritonparam.tensor import mesh_boxes


def _digests(tensors):
    """The fingerprint of each tensor; of buffers that no checkpoint has too."""
    return fingerprint({name: tensor.detach() for name, tensor in tensors.items()}).tensors


def _wholes():
    """The digests of each model as one process makes it, and the losses of two steps of training."""
    return {name: _made(name) for name in MODELS}


def _made(name):
    with deferred_init():
        model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    materialize(model, seed=3)
    return _digests(tensors_of(model)), _train(model, optimizer, batch_of(name))


def _train(model, optimizer, batch):
    losses = []
    for _ in range(2):
        loss = model(batch).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.full_tensor() if isinstance(loss, DTensor) else loss).item())
    return losses


def _bytes_of_boxes(tensor):
    if not isinstance(tensor, DTensor):
        return tensor.numel() * tensor.itemsize
    layout, local = (tensor.device_mesh, tuple(tensor.placements)), tensor.to_local()
    boxes = [each.box for each in mesh_boxes(layout, tuple(tensor.shape), local=tuple(local.shape))]
    return sum(math.prod(box.sizes) for box in boxes) * tensor.itemsize


def _try(rank, world, inside):
    """Of each case: the digests that this process finds, its bytes and those of its boxes, and losses of training."""
    found = {}
    for case, sizes, shard, names in cases(world):
        mesh = mesh_of(sizes)
        for name in names:
            with deferred_init():
                model = MODELS[name]()
                if inside:
                    shard(model, mesh)
            if not inside:
                shard(model, mesh)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for turn in range(world):  # while all others wait: who needs them waits forever
                if turn == rank:
                    with CommDebugMode() as counted:
                        materialize(model, seed=3)
                    calls = counted.get_total_counts()
                torch.distributed.barrier()
            tensors = tensors_of(model)
            storages = {local_of(each).untyped_storage().data_ptr(): local_of(each) for each in tensors.values()}
            allocated = sum(each.untyped_storage().nbytes() for each in storages.values())
            boxes = sum(map(_bytes_of_boxes, tensors.values()))
            digests = _digests(tensors)
            losses = _train(model, optimizer, batch_of(name)) if shard in TRAINED else None
            found[case, name] = digests, allocated, boxes, calls, losses
    return found


@pytest.fixture(scope="module")
def wholes():
    return _wholes()


LONG = pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="a minute long: set TRITONPARAM_ALL")


@pytest.mark.parametrize("inside", [False, True], ids=["after the block", "in the block"])
@pytest.mark.parametrize("world", [1, 2, 3, 4, pytest.param(8, marks=LONG)])
def test_processes_make_together_what_one_makes(world, inside, launch, wholes):
    """Every tensor of every rank: values, bytes, no collective; and a training step goes as with one process."""
    told = launch(_try, world, inside=inside, timeout=500)
    assert len(told[0]) >= 8
    for rank, found in enumerate(told):
        for (case, name), (digests, allocated, boxes, calls, losses) in found.items():
            want, steps = wholes[name]
            where = f"{name}, {case}, rank {rank} of {world}"
            severed = {"head.weight": want["emb.weight"]} if name == "gpt2" else {}  # distribute_module severs ties
            wrong = [each for each in want if digests[each] != want[each]]
            assert not wrong, f"{where}: {wrong}"
            assert digests.keys() - severed.keys() == want.keys(), where
            assert allocated == boxes, where
            assert calls == 0, where
            assert losses is None or losses == pytest.approx(steps, rel=1e-4), where
