"""check_replicas: which tensors differ between processes that should hold the same, told to all alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch.distributed.tensor")

from tests.distributed.world import run_world
from tritonparam import ReplicaDifference, check_replicas, deferred_init
from tritonparam.distributed.replicas import compared

SCRIPT = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from tritonparam import check_replicas

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
model.register_buffer("scratch", torch.zeros(3), persistent=False)
assert check_replicas(model) == ()
print(check_replicas(model) or "alike")
with torch.no_grad():
    if rank == 2:
        model[0].weight[1, 1] += 1e-6
    if rank in (1, 3):
        model[1].running_mean[0] = -0.0
    model.scratch[rank % 2] = 1.0
print("; ".join(map(str, check_replicas(model))))

mesh = init_device_mesh("cpu", (2, 2))
whole = torch.arange(24.0).view(6, 4)
local = torch.chunk(whole, 2)[rank % 2].clone()
if rank == 3:
    local[0, 0] = 9.0
sharded = DTensor.from_local(local, mesh, [Replicate(), Shard(0)], run_check=False)
print("; ".join(map(str, check_replicas({"w": sharded, "b": torch.ones(2)}))))
apart = DTensor.from_local(local, mesh, [Shard(0), Shard(1)], run_check=False)
print(check_replicas({"w": apart}))  # no two hold the same box

pair = [torch.distributed.new_group([0, 2]), torch.distributed.new_group([1, 3])][rank % 2]
print(check_replicas({"x": torch.full((2,), float(rank))}, pair))

calls = []
for name in ("all_reduce", "all_gather"):
    def counted(*rest, name=name, act=getattr(torch.distributed, name), **named):
        calls.append(name)
        return act(*rest, **named)
    setattr(torch.distributed, name, counted)
check_replicas(model)
assert calls == ["all_reduce", "all_gather"], calls
sparse = torch.zeros(2).to_sparse() if rank == 1 else torch.zeros(2)
for state in ({"a" if rank else "b": torch.zeros(2)}, {"a": sparse}):
    try:
        check_replicas(state)
    except Exception as error:
        print(type(error).__name__, str(error)[:30].strip())
"""


def test_four_processes_find_the_same_differences(tmp_path: Path) -> None:
    told = [each.splitlines() for each in run_world(SCRIPT, 4, tmp_path)]
    common = [
        "alike",
        "0.weight: other bits on rank 2; 1.running_mean: other bits on ranks 1, 3; scratch: other bits on ranks 1, 3",
        "w: other bits on rank 3",
        "()",
    ]
    for rank, lines in enumerate(told):
        assert lines[:4] == common
        assert lines[4] == repr((ReplicaDifference("x", (2 + rank % 2,)),))
        assert lines[5] == "ValueError all processes of the group mus"
        own = "ValueError target, 'a': source must be a" if rank == 1 else "RuntimeError another process of the group c"
        assert lines[6] == own


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
