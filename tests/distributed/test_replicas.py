"""check_replicas: which tensors differ between processes that should hold the same, told to all alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("torch.distributed.tensor")

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

from tritonparam import ReplicaDifference, check_replicas, deferred_init
from tritonparam.distributed.replicas import compared


def _differ(rank, world):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    found = [check_replicas(model)]
    with torch.no_grad():
        if rank == 2:
            model[0].weight[1, 1] += 1e-6
        if rank in (1, 3):
            model[1].running_mean[0] = -0.0
        model.scratch[rank % 2] = 1.0
    found.append("; ".join(map(str, check_replicas(model))))

    mesh = init_device_mesh("cpu", (2, 2))
    whole = torch.arange(24.0).view(6, 4)
    local = torch.chunk(whole, 2)[rank % 2].clone()
    if rank == 3:
        local[0, 0] = 9.0
    sharded = DTensor.from_local(local, mesh, [Replicate(), Shard(0)], run_check=False)
    found.append("; ".join(map(str, check_replicas({"w": sharded, "b": torch.ones(2)}))))
    apart = DTensor.from_local(local, mesh, [Shard(0), Shard(1)], run_check=False)
    found.append(check_replicas({"w": apart}))  # no two hold the same box

    pair = [torch.distributed.new_group([0, 2]), torch.distributed.new_group([1, 3])][rank % 2]
    found.append(check_replicas({"x": torch.full((2,), float(rank))}, pair))
    with CommDebugMode() as counted:
        check_replicas(model)
    return found, counted.get_total_counts()


def test_four_processes_find_the_same_differences(launch):
    """Of what is on all, of shards, of a group; by one collective."""
    common = [
        (),
        "0.weight: other bits on rank 2; 1.running_mean: other bits on ranks 1, 3; scratch: other bits on ranks 1, 3",
        "w: other bits on rank 3",
        (),
    ]
    for rank, (found, collectives) in enumerate(launch(_differ, 4)):
        assert found == [*common, (ReplicaDifference("x", (2 + rank % 2,)),)]
        assert collectives == 1


def held(*rows: list[int]) -> np.ndarray:
    """One tensor of each process: box and content."""
    return np.array([[[box, content, content]] for box, content in rows], np.uint64)


@pytest.mark.parametrize(
    ("rows", "ranks", "wrong"),
    [
        ([[0, 5], [0, 5], [0, 5]], [0, 1, 2], ()),
        ([[0, 5], [0, 6], [0, 5]], [0, 1, 2], (1,)),
        ([[0, 6], [0, 5], [0, 5]], [0, 1, 2], (0,)),
        ([[0, 5], [0, 6]], [0, 1], (1,)),
        ([[0, 5], [0, 6]], [4, 3], (4,)),  # the lowest rank is right where nobody has a majority
        ([[0, 5], [1, 6], [0, 5], [1, 6]], [0, 1, 2, 3], ()),
        ([[0, 5], [1, 6], [0, 7], [1, 8]], [0, 1, 2, 3], (2, 3)),
    ],
)
def test_the_majority_is_right(rows: list[list[int]], ranks: list[int], wrong: tuple[int, ...]) -> None:
    want = (ReplicaDifference("w", wrong),) if wrong else ()
    assert compared(["w"], held(*rows), ranks) == want


def test_one_of_two_sums_is_enough() -> None:
    both = np.array([[[0, 1, 2]], [[0, 1, 3]]], np.uint64)
    assert compared(["w"], both, [0, 1]) == (ReplicaDifference("w", (1,)),)


def test_one_process_has_no_replicas() -> None:
    assert check_replicas(torch.nn.Linear(2, 3)) == ()
    assert not check_replicas({})
    with pytest.raises(TypeError, match=r"group must be a torch\.distributed\.ProcessGroup or None, got 3"):
        check_replicas({}, 3)
    with deferred_init():
        deferred = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="materialize or init_data it first; without are bias, weight"):
        check_replicas(deferred)
