"""load(check=True): processes compare what they are about to load; a difference, or an error of one, is one on all."""

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

from tritonparam import Parameter, ParameterTuple, deferred_init, fingerprint, load, materialize, save
from tritonparam.checkpoint import loading
from tritonparam.initializer import initializer


class Net(torch.nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.lin = torch.nn.Linear(width, 4)
        self.out = torch.nn.Linear(4, 4, bias=False)
        self.register_buffer("known", torch.arange(3.0), persistent=False)


def _model(width=5):
    with deferred_init():
        return Net(width)


def _error(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _is_deferred(model):
    return all(each.is_meta for each in (*model.parameters(), *model.buffers()))


def _saved(folder, name, model=None, seed=3):
    path = folder / name
    save(materialize(model or _model(), seed=seed), path)
    return path


def _lacking(folder):
    """A checkpoint without `out.weight`, which is drawn then."""
    path = folder / "lacking.safetensors"
    save({f"lin.{name}": each.detach() for name, each in materialize(_model(), seed=3).lin.named_parameters()}, path)
    return path


@pytest.fixture
def stored(tmp_path):
    return {
        "one": _saved(tmp_path, "one"),
        "same elsewhere": _saved(tmp_path, "same"),
        "other values": _saved(tmp_path, "other", seed=4),
        "wide": _saved(tmp_path, "wide", _model(6)),
        "missing": tmp_path / "missing",
        "lacking": _lacking(tmp_path),
    }


CALLS = {
    "values": ({"path": "other values"}, "what 'lin.weight' is to hold, other than in process 0"),
    "dtype": ({"dtype": torch.bfloat16}, "the dtype of 'lin.weight': bfloat16, and float32 in process 0"),
    "seed": ({"seed": 8}, "the seed: 8, and 0 in process 0"),
    "drawn": ({"path": "lacking", "strict": False}, "what 'out.weight' is to hold, other than in process 0"),
}
ERRORS = {
    "missing": ({"path": "missing"}, "CheckpointNotFoundError: "),
    "shape": ({"path": "wide"}, "ValueError: "),
    "strict": ({"strict": 1}, "TypeError: strict must be a bool"),
}


def _call(rank, world, changes, stored):
    model = _model()
    changes = dict(changes) if rank == 1 else {}
    path = stored[changes.pop("path", "one")]
    return _error(lambda: load(model, path, check=True, **changes)), _is_deferred(model)


def _all_calls(rank, world, stored):
    return [_call(rank, world, changes, stored) for changes, _ in (*CALLS.values(), *ERRORS.values())]


def test_a_difference_or_an_error_is_one_on_all_and_nothing_changes(stored, launch):
    results = launch(_all_calls, 3, stored=stored)
    assert all(deferred for found in results for _, deferred in found)
    begin = "ValueError: processes that load one model must agree, and process 1 differs in "
    wanted = [f"{begin}{told}; nothing was changed" for _, told in CALLS.values()]
    for found in results:
        assert [error for error, _ in found[: len(CALLS)]] == wanted
    for rank, found in enumerate(results):
        told = "" if rank == 1 else "ProcessesError: load failed in process 1 of 3: "
        for (_, starts), (error, _) in zip(ERRORS.values(), found[len(CALLS) :], strict=True):
            assert error.startswith(f"{told}{starts}")


def _same(rank, world, stored):
    path = stored["same elsewhere" if rank == 1 else "one"]
    model = _model()
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    with CommDebugMode() as counted:
        load(model, path, check=True)
    parameters = _lazy()
    load(parameters, path, strict=False, check=True)
    parts = {each.name: each.torch.detach() for each in parameters}
    other = ParameterTuple([Parameter(initializer("normal" if rank else "ones", [2]), name="drawn")])
    error = _error(lambda: load(other, path, strict=False, check=True))
    return fingerprint(model).tensors, fingerprint(parts).tensors, counted.get_total_counts(), error


def _lazy():
    names = {"out.weight": "normal", "further": "normal", "square": "orthogonal"}
    return ParameterTuple([Parameter(initializer(law, [4, 4]), name=name) for name, law in names.items()])


def test_shards_and_parameters_that_agree_are_loaded_without_collectives(stored, launch):
    want = fingerprint(materialize(_model(), seed=3)).tensors
    drawn = _lazy()
    drawn.init_data()
    parts = fingerprint({each.name: each.torch.detach() for each in drawn}).tensors
    for of_model, of_parameters, collectives, error in launch(_same, 2, stored=stored):
        assert dict(of_model) == dict(want)
        assert dict(of_parameters) == dict(parts) | {"out.weight": want["out.weight"]}
        assert collectives == 0
        assert error.startswith(
            "ValueError: processes that load one model must agree, and process 1 differs in what 'd"
        )


def _kept(rank, world, stored):
    model = Net()
    return _error(lambda: load(model, stored["lacking" if rank else "one"], strict=False, check=True))


def test_what_one_loads_and_another_keeps_is_a_difference(stored, launch):
    for error in launch(_kept, 2, stored=stored):
        assert "process 1 differs in 'out.weight': left out, and written in process 0" in error


def _fails_while_it_reads(rank, world, stored):
    if rank == 1:

        def broken(*_):
            raise OSError(5, "the disk is gone")

        loading.move = broken
    model = _model()
    return _error(lambda: load(model, stored["one"], check=True)), _is_deferred(model)


def test_what_fails_while_one_reads_leaves_all_deferred(stored, launch):
    (first, deferred), (second, also) = launch(_fails_while_it_reads, 2, stored=stored)
    assert first == "ProcessesError: reading in load failed in process 1 of 2: OSError: [Errno 5] the disk is gone"
    assert second == "OSError: [Errno 5] the disk is gone"
    assert deferred
    assert also


def _in_group(rank, world, stored):
    groups = [torch.distributed.new_group([0, 1]), torch.distributed.new_group([2, 3])]
    group, path = groups[rank // 2], stored["one" if rank < 2 else "other values"]
    model = _model()
    load(model, path, check=True, group=group)
    drawn = materialize(_model(), seed=rank // 2, check=True, group=group)
    if rank % 2:  # alone, without a word to the other
        load(_model(), path, group=group)
        materialize(_model(), group=group)
    other = _error(lambda: load(_model(), path, check=True, group=groups[1 - rank // 2]))
    return fingerprint({"": model.lin.weight.detach()}).total, fingerprint({"": drawn.lin.weight.detach()}).total, other


def test_a_group_compares_apart_from_others(stored, launch):
    results = launch(_in_group, 4, stored=stored)
    assert [len({each[place] for each in results}) for place in (0, 1)] == [2, 2]
    assert [each[:2] for each in results] == [results[0][:2]] * 2 + [results[2][:2]] * 2
    assert {each[2] for each in results} == {"ValueError: group must have this process in it, got one without it"}


def _stopped(rank, world, stored):
    load(_model(), stored["one"], check=True)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    model = _model()
    return _error(lambda: load(model, stored["one"], check=True, deadline=2)), _is_deferred(model)


def test_a_process_that_is_stopped_is_an_error_on_the_others(stored, launch):
    first, _ = launch(_stopped, 2, stored=stored, lost=[1])
    error, deferred = first
    assert error.startswith("ProcessesError: load: process 1 of 2 has not come for 2 s")
    assert deferred


def test_arguments(tmp_path):
    path = _saved(tmp_path, "one")
    for changes, error in (
        ({"check": 1}, "check must be a bool"),
        ({"group": "world"}, "group must be a torch.distributed.ProcessGroup or None, got 'world'"),
        ({"deadline": "5"}, "deadline must be a number of seconds"),
    ):
        model = _model()
        with pytest.raises(TypeError, match=error):
            load(model, path, **changes)
        with pytest.raises(TypeError, match=error):
            materialize(model, **changes)
        assert _is_deferred(model)
    assert load(_model(), path, check=True).initialized == ("known",)
