"""materialize(check=True): processes that are about to make different things all raise, and nothing is made."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

pytest.importorskip("torch.distributed.fsdp")

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode

from tests.module.mesh_models import Llama, tensors_of
from tritonparam import deferred_init, materialize


def _built(rank, change):
    with deferred_init():
        model = Llama()
        if rank == 1 and change == "law":
            torch.nn.init.normal_(model.blocks[1].q.weight, std=0.03)
        if rank == 1 and change == "shape":
            model.head = torch.nn.Linear(14, 24)
        if rank == 1 and change == "replay":
            torch.nn.init.orthogonal_(model.head.weight)
        if rank == 1 and change == "tie":
            model.blocks[0].q.weight = model.emb.weight
        if rank == 1 and change == "draw":
            model.blocks[0].k = model.blocks[1].k
        if change == "gain":
            model.norm.weight = torch.nn.Parameter(torch.arange(14.0).pow(2 + rank % 2))
    return model


def _told(rank, world):
    """Of each change: what a process raises, and whether anything was made."""
    found = {}
    changes = {"seed": {"seed": rank}, "dtype": {"dtype": "bfloat16" if rank == 1 else None}}
    changes |= {"argument": {"only": "nothing" if rank == 1 else None}, "type": {"seed": "x" if rank == 1 else 0}}
    for change in ("law", "shape", "replay", "tie", "draw", "gain", *changes):
        model = _built(rank, change)
        try:
            materialize(model, check=True, **changes.get(change, {}))
        except (RuntimeError, TypeError, ValueError) as error:
            made = not all(each.is_meta for each in tensors_of(model).values())
            found[change] = f"{type(error).__name__} {error}", made
    model = _built(rank, None)
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    with CommDebugMode() as counted:
        materialize(model, seed=3, check=True)
    return found, counted.get_total_counts()


def test_processes_that_would_make_different_things_all_raise(launch):
    told = launch(_told, 3)
    assert [collectives for _, collectives in told] == [0] * 3
    normal = "(14, 14) torch.float32 [Normal(mean=0.0, std=0.0{})]"
    same = "ValueError module must be the same in all processes, and"
    want = {
        "law": f"{same} 'blocks.1.q.weight' is {normal.format(2)} in 0 and {normal.format(3)} in 1",
        "shape": f"{same} 'head.weight' is (23, 14)",
        "replay": f"{same} 'head.weight' is (23, 14) torch.float32 [Uniform",
        "tie": f"{same} 'blocks.0.q.weight' is {normal.format(2)} in 0 and (23, 14) torch.float32 [Normal",
        "draw": f"{same} 'blocks.1.k.weight' is (6, 14) torch.float32 [Normal(mean=0.0, std=0.02)] in 0 and (6, 14)",
        "gain": f"{same} 'norm.weight' is (14,) torch.float32 replayed in 0 and (14,) torch.float32 replayed in",
        "seed": "ValueError seed must be the same in all processes, got 0 in 0 and 1 in 1",
        "dtype": "ValueError dtype must be the same in all processes, got None in 0 and torch.bfloat16 in 1",
    }
    for found, _ in told:
        for change, text in want.items():
            assert found[change][0].startswith(text), found[change][0]
    for change, own in (("argument", "ValueError only must match names"), ("type", "TypeError seed must be")):
        for rank, (found, _) in enumerate(told):
            other = f"ProcessesError materialize failed in process 1 of 3: {own.replace(' ', ': ', 1)}"
            assert found[change][0].startswith(own if rank == 1 else other), found[change][0]
    assert not any(made for found, _ in told for _, made in found.values())


def _stages(rank, world):
    """Each process has other layers, and both have the embedding."""
    model = _built(0, None)
    del model.blocks[1 - rank]
    materialize(model, seed=3, check=True)
    return {name: tensor.detach() for name, tensor in model.blocks.named_parameters()}


def test_stages_of_a_pipeline_have_other_tensors(launch):
    whole = materialize(_built(0, None), seed=3)
    for rank, found in enumerate(launch(_stages, 2)):
        assert all(torch.equal(tensor, whole.blocks[rank].get_parameter(name[2:])) for name, tensor in found.items())


def _lost(rank, world):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    model = _built(0, None)
    with pytest.raises(RuntimeError) as error:
        materialize(model, check=True, deadline=2)
    return str(error.value), all(each.is_meta for each in model.parameters())


def test_a_process_that_is_stopped_is_an_error_in_all_others(launch):
    first, _, third = launch(_lost, 3, lost=[1])
    for text, unmade in (first, third):
        assert text.startswith("materialize: process 1 of 3 has not come for 2 s")
        assert unmade


def test_one_process_agrees_with_itself():
    model = materialize(_built(0, None), seed=3, check=True)
    assert torch.equal(model.emb.weight, materialize(_built(0, None), seed=3).emb.weight)
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="check must be a bool"):
            materialize(_built(0, None), check=wrong)
    with pytest.raises(ValueError, match="deadline must be a number of seconds above 0, got 0"):
        materialize(_built(0, None), check=True, deadline=0)
