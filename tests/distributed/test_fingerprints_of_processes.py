"""fingerprint over real processes: that of the whole on every one; what they disagree about is an error on all."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.tensor")

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from tritonparam import Parameter, check_replicas, fingerprint, save
from tritonparam.plan import Box


def _tensors():
    torch.manual_seed(0)
    return torch.randn(7, 5), torch.randn(3), torch.randn(4, 6).bfloat16()


def _sharded(rank, world, folder):
    w, b, h = _tensors()
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
    assert calls == [2 * 3 * 3], calls
    assert fingerprint({"w": distribute_tensor(w, mesh, [Shard(1)]), "h": h, "b": b}) == found
    assert len(calls) == 2
    assert fingerprint({"w": w, "h": h, "b": b}) == found  # alone: nothing is communicated
    assert len(calls) == 2
    save(state, folder / "saved")
    assert fingerprint(folder / "saved") == found
    assert len(calls) == 2

    cut = [0, 3, 7]
    part = Parameter(w[cut[rank] : cut[rank + 1]].clone(), "w")
    part._within = (Box((cut[rank], 0), (cut[rank + 1] - cut[rank], 5)), (7, 5))
    assert fingerprint({"w": part, "h": h, "b": b}, group=torch.distributed.group.WORLD) == found
    assert fingerprint({"w": part, "h": h, "b": b}) == found
    return found


def test_two_processes_find_what_one_finds(launch, tmp_path):
    w, b, h = _tensors()
    want = fingerprint({"w": w, "b": b, "h": h})
    assert launch(_sharded, 2, folder=tmp_path) == [want] * 2
    assert fingerprint(tmp_path / "saved") == want
    save({"w": w, "b": b, "h": h}, tmp_path / "whole")
    assert fingerprint(tmp_path / "whole") == want


def _subset(rank, world):
    w = torch.arange(35.0).view(7, 5)
    mesh = DeviceMesh("cpu", torch.tensor([[0], [1]]))  # of a world of three
    pair = torch.distributed.new_group([0, 1])
    if rank < 2:
        state = {"w": distribute_tensor(w, mesh, [Shard(0), Replicate()]), "b": torch.ones(3)}
        assert fingerprint(state, group=pair) == fingerprint(state)
        return fingerprint(state)
    with pytest.raises(ValueError, match="group must have this process in it"):
        fingerprint({"w": w}, group=pair)
    return fingerprint({"w": w, "b": torch.ones(3)})


def test_processes_of_a_mesh_that_is_not_the_world_and_of_a_group(launch):
    want = fingerprint({"w": torch.arange(35.0).view(7, 5), "b": torch.ones(3)})
    assert launch(_subset, 3) == [want] * 3


def _on_rows_and_columns(rank, world):
    """One tensor on all, one on each row of the mesh, one on each column, one on none; the first of each counts."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    whole = torch.arange(35.0).view(7, 5)
    row, column = (mesh[name].get_local_rank() for name in ("rows", "columns"))
    state = {
        "all": distribute_tensor(whole, mesh, [Shard(0), Shard(1)]),
        "rows": distribute_tensor(whole if column == 0 else whole + 1, mesh["rows"], [Shard(0)]),
        "columns": distribute_tensor(whole if row == 0 else whole + 1, mesh["columns"], [Shard(1)]),
        "none": whole if rank == 0 else whole + 1,
    }
    differences = check_replicas(state)
    return fingerprint(state), [(each.name, each.ranks) for each in differences]


def test_tensors_on_other_dimensions_of_a_mesh_count_once(launch):
    whole = torch.arange(35.0).view(7, 5)
    want = fingerprint({name: whole.clone() for name in ("all", "rows", "columns", "none")})
    wrong = [("columns", (2, 3)), ("none", (0,)), ("rows", (1, 3))]
    assert launch(_on_rows_and_columns, 4) == [(want, wrong)] * 4


def _disagree(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    w = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)])
    mine = [
        {"w": w, "a" if rank else "b": torch.zeros(2)},
        {"w": w, "a": torch.zeros(2 + rank)},
        {"w": w, "a": torch.zeros(2, dtype=torch.float16 if rank else torch.float32)},
        {"w": w, **({"a": torch.zeros(2)} if rank else {})},
        {"w": w, "a": torch.zeros(2).to_sparse() if rank == 0 else torch.zeros(2)},
    ]
    errors = []
    for state in mine:
        for call in (fingerprint, check_replicas):
            with pytest.raises((ValueError, RuntimeError)) as error:
                call(state, group=torch.distributed.group.WORLD)
            errors.append(f"{type(error.value).__name__} {error.value}")
    return errors, fingerprint({"w": w})


def test_what_they_disagree_about_is_an_error_on_all(launch):
    """Names, shapes, dtypes, numbers of tensors; and an error of one: none waits, and the group is of use again."""
    (first, found), (second, same) = launch(_disagree, 2)
    differ = (
        "ValueError all processes must have the same tensors (names, dtypes and shapes), and rank 1 has others than"
    )
    assert first[:8] == second[:8]
    assert all(each.startswith(differ) for each in first[:8])
    for own, other, call in zip(first[8:], second[8:], ("fingerprint", "check_replicas"), strict=True):
        assert own.startswith("ValueError target, 'a': source must be a strided tensor")
        assert other.startswith(f"ProcessesError {call} failed in process 0 of 2: ValueError: target, 'a': source")
    assert found == same == fingerprint({"w": torch.zeros(4, 3)})


def _in_pieces(rank, world):
    """Boxes of a tensor without a mesh; of the second, two hold the same, and nobody has an element."""
    errors = []
    for offsets in ([0, 2], [0, 1], [0, 3]):
        part = Parameter(torch.zeros(2, 3), "w")
        part._within = (Box((offsets[rank], 0), (2, 3)), (4 + (offsets[1] == 3), 3))
        try:
            fingerprint({"w": part})
        except ValueError as error:
            errors.append(str(error))
    return errors


def test_elements_that_nobody_holds_and_those_that_two_hold_are_errors(launch):
    for twice, missing in launch(_in_pieces, 2):
        assert "'w', Box(offsets=(0, 0), sizes=(2, 3)) and Box(offsets=(1, 0), sizes=(2, 3)) have elements in" in twice
        assert "of 'w', of shape (5, 3), the processes hold 12 elements" in missing


def _bad_target(rank, world):
    errors = []
    for call in (fingerprint, check_replicas):
        with pytest.raises((TypeError, RuntimeError)) as error:
            call(3 if rank == 1 else {"w": torch.zeros(2)}, group=torch.distributed.group.WORLD)
        errors.append(f"{type(error.value).__name__} {error.value}")
    return errors, check_replicas({"w": torch.zeros(2)})


def test_a_target_of_the_wrong_type_is_told_to_all(launch):
    (first, none), (second, nothing) = launch(_bad_target, 2)
    assert none == nothing == ()
    for call, text, own in zip(("fingerprint", "check_replicas"), first, second, strict=True):
        assert text.startswith(f"ProcessesError {call} failed in process 1 of 2: TypeError: target must be")
        assert own.startswith("TypeError target must be")


def _lost(rank, world, how):
    state = {"w": distribute_tensor(torch.zeros(4, 3), init_device_mesh("cpu", (world,)), [Shard(0)])}
    fingerprint(state)
    if rank == 1:
        os.kill(os.getpid(), how)
        time.sleep(1000)
    errors = []
    for call in (fingerprint, check_replicas):
        with pytest.raises(RuntimeError) as error:
            call(state, deadline=2)
        errors.append(str(error.value))
    return errors


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_stopped_is_an_error_on_all_others(how, launch):
    first, gone, third = launch(_lost, 3, how=how, lost=[1])
    assert gone is None
    for errors in (first, third):
        for error, call in zip(errors, ("fingerprint", "check_replicas"), strict=True):
            assert error.startswith(f"{call}: process 1 of 3 has not come for 2 s")


def test_a_deadline_is_a_number_above_0():
    for call in (fingerprint, check_replicas):
        for wrong, kind in ((0, ValueError), (-1.0, ValueError), ("3", TypeError), (None, TypeError)):
            with pytest.raises(kind, match="deadline must be a number of seconds"):
                call({"w": torch.zeros(2)}, deadline=wrong)
