"""fingerprint over real processes: that of the whole on every one; what they disagree about is an error on all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.tensor")

from tests.distributed.world import run_world
from tritonparam import fingerprint, save

SHARDED = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from tritonparam import Parameter, fingerprint, save
from tritonparam.plan import Box

torch.manual_seed(0)
w, b, h = torch.randn(7, 5), torch.randn(3), torch.randn(4, 6).bfloat16()
calls = []
all_reduce = torch.distributed.all_reduce

def counted(told, *rest, **named):
    calls.append(told.numel())
    return all_reduce(told, *rest, **named)

torch.distributed.all_reduce = counted
mesh = init_device_mesh("cpu", (world,))
state = {
    "w": distribute_tensor(w, mesh, [Shard(0)]),
    "h": distribute_tensor(h, mesh, [Replicate()]),
    "b": b if rank == 0 else b + 1,  # counts as the first process has it
}
found = fingerprint(state)
print(found.total)
assert calls == [3, 2 * 3 * 3], calls
assert fingerprint({"w": distribute_tensor(w, mesh, [Shard(1)]), "h": h, "b": b}) == found
assert len(calls) == 4
assert fingerprint({"w": w, "h": h, "b": b}) == found and len(calls) == 4  # alone: nothing is communicated
save(state, folder + "/saved")
assert fingerprint(folder + "/saved") == found and len(calls) == 4

cut = [0, 3, 7]
part = Parameter(w[cut[rank] : cut[rank + 1]].clone(), "w")
part._within = (Box((cut[rank], 0), (cut[rank + 1] - cut[rank], 5)), (7, 5))
both = fingerprint({"w": part, "h": h, "b": b}, group=torch.distributed.group.WORLD)
assert both == found
"""

SUBSET = """
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from tritonparam import fingerprint

w = torch.arange(35.0).view(7, 5)
mesh = DeviceMesh("cpu", torch.tensor([[0], [1]]))  # of a world of three
pair = torch.distributed.new_group([0, 1])
if rank < 2:
    state = {"w": distribute_tensor(w, mesh, [Shard(0), Replicate()]), "b": torch.ones(3)}
    print(fingerprint(state).total)
    assert fingerprint(state, group=pair) == fingerprint(state)
else:
    print(fingerprint({"w": w, "b": torch.ones(3)}).total)
    try:
        fingerprint({"w": w}, group=pair)
    except ValueError as error:
        assert "group must have this process in it" in str(error), error
    else:
        raise SystemExit("no error")
"""

DISAGREE = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from tritonparam import fingerprint

mesh = init_device_mesh("cpu", (world,))
w = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
mine = [
    {"w": w, "a" if rank else "b": torch.zeros(2)},
    {"w": w, "a": torch.zeros(2 + rank)},
    {"w": w, "a": torch.zeros(2, dtype=torch.float16 if rank else torch.float32)},
    {"w": w, **({"a": torch.zeros(2)} if rank else {})},
    {"w": w, "a": torch.zeros(2) if rank else torch.zeros(2).to_sparse()},
]
for number, state in enumerate(mine):
    try:
        fingerprint(state, group=torch.distributed.group.WORLD)
    except Exception as error:
        print(number, type(error).__name__, str(error)[:70])
print(fingerprint({"w": w}).total)
"""


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    w, b, h = torch.randn(7, 5), torch.randn(3), torch.randn(4, 6).bfloat16()
    want = fingerprint({"w": w, "b": b, "h": h})
    assert run_world(SHARDED, 2, tmp_path) == [f"{want.total}\n"] * 2
    assert fingerprint(tmp_path / "saved") == want
    save({"w": w, "b": b, "h": h}, tmp_path / "whole")
    assert fingerprint(tmp_path / "whole") == want


def test_processes_of_a_mesh_that_is_not_the_world_and_of_a_group(tmp_path: Path) -> None:
    want = fingerprint({"w": torch.arange(35.0).view(7, 5), "b": torch.ones(3)})
    assert run_world(SUBSET, 3, tmp_path) == [f"{want.total}\n"] * 3


def test_what_they_disagree_about_is_an_error_on_all(tmp_path: Path) -> None:
    """Names, shapes, dtypes, numbers of tensors; and an error of one: none waits, and the group is of use again."""
    first, second = (each.splitlines() for each in run_world(DISAGREE, 2, tmp_path))
    differ = "ValueError all processes of the group must have the same tensors: names, dtypes a"
    assert first[:4] == second[:4] == [f"{number} {differ}" for number in range(4)]
    assert first[4].startswith("4 ValueError target, 'a': source must be a strided tensor")
    assert second[4].startswith("4 RuntimeError another process of the group could not go on")
    assert first[5:] == second[5:] == [fingerprint({"w": torch.zeros(4, 3)}).total]
