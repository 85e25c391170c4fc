"""materialize(check=True): processes compare what they are about to make; a difference is one error on all."""

from __future__ import annotations

import os
import signal
import time
import warnings

import pytest
import torch

pytest.importorskip("torch.distributed.fsdp")

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode

from tritonparam import deferred_init, fingerprint, ledger, materialize
from tritonparam.module import materialization


class Net(torch.nn.Module):
    def __init__(self, width=5, std=0.02, gain=1.0, drawn=0.0):
        super().__init__()
        self.lin = torch.nn.Linear(width, 4)
        self.out = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.normal_(self.lin.weight, std=std)
        torch.nn.init.orthogonal_(self.out.weight, gain=gain)
        self.register_buffer("known", torch.arange(3.0) + torch.tensor([drawn, 0.0, 0.0]))


def _model(**changes):
    with deferred_init():
        return Net(**changes)


def _error(call):
    try:
        call()
    except (ValueError, RuntimeError, UserWarning) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _is_deferred(model):
    return all(each.is_meta for each in (*model.parameters(), *model.buffers()))


CHANGES = [{"width": 6}, {"std": 0.03}, {"gain": 2.0}, {"drawn": 1.0}]
ARGUMENTS = [{"seed": 8}, {"dtype": torch.bfloat16}, {"skip": "out.weight"}, {"only": "nothing"}]


def _differ(rank, world):
    found = []
    for change in CHANGES:
        model = _model(**(change if rank == 1 else {}))
        error = _error(lambda model=model: materialize(model, seed=7, check=True))
        found.append((error, _is_deferred(model)))
    for each in ARGUMENTS:
        model = _model()
        arguments = {"seed": 7, **(each if rank == 1 else {})}
        error = _error(lambda model=model, arguments=arguments: materialize(model, check=True, **arguments))
        found.append((error, _is_deferred(model)))
    model = materialize(_model(), seed=7, check=True)
    return found, fingerprint({name: each.detach() for name, each in model.state_dict().items()})


def test_a_difference_is_one_error_on_all_and_nothing_is_made(launch):
    results = launch(_differ, 3)
    want = fingerprint(materialize(_model(), seed=7).state_dict())
    assert [found for _, found in results] == [want] * 3
    begin = "ValueError: processes that materialize one model must agree, and process 1 differs in "
    told = [
        "the shape of 'lin.weight': (4, 6), and (4, 5) in process 0",
        "what 'lin.weight' is to hold, other than in process 0",
        "what 'out.weight' is to hold, other than in process 0",
        "what 'known' is to hold, other than in process 0",
        "the seed: 8, and 7 in process 0",
        "the dtype of 'lin.weight': bfloat16, and float32 in process 0",
        "'out.weight': left out, and written in process 0",
    ]
    for rank, (found, _) in enumerate(results):
        assert [each for each, _ in found[:-1]] == [f"{begin}{each}; nothing was changed" for each in told]
        assert all(deferred for _, deferred in found)
        error = found[-1][0]
        if rank == 1:
            assert error.startswith("ValueError: only must match names")
        else:
            assert error.startswith("ProcessesError: materialize failed in process 1 of 3: ValueError: only must match")


def _argument_errors(rank, world):
    model = _model()
    try:
        materialize(model, seed="x" if rank == 1 else 0, check=True)
    except (RuntimeError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    with CommDebugMode() as counted:
        materialize(model, seed=3, check=True)
    return told, counted.get_total_counts()


def test_an_argument_error_is_told_to_all_and_what_is_sharded_agrees_without_collectives(launch):
    (first, none), (second, nothing) = launch(_argument_errors, 2)
    assert second.startswith("TypeError: seed must be")
    assert first.startswith("ProcessesError: materialize failed in process 1 of 2: TypeError: seed must be")
    assert none == nothing == 0


def _stages(rank, world):
    with deferred_init():
        whole = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    for number in range(3):
        if number not in (rank, rank + 1):
            whole[number] = None
    materialize(whole, seed=7, check=True)
    return fingerprint({name: each.detach() for name, each in whole.state_dict().items()}).tensors


def test_stages_of_a_pipeline_hold_other_names(launch):
    """Names that several hold are compared, here those of the second layer; others need not be everywhere."""
    with deferred_init():
        whole = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    want = fingerprint(materialize(whole, seed=7)).tensors
    first, second = launch(_stages, 2)
    assert set(first) & set(second) == {"1.weight", "1.bias"}
    assert {**first, **second} == dict(want)


def _lost(rank, world, how):
    materialize(_model(), check=True)
    if rank == 1:
        os.kill(os.getpid(), how)
        time.sleep(1000)
    model = _model()
    return _error(lambda: materialize(model, check=True, deadline=2)), _is_deferred(model)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_stopped_is_an_error_on_all_others(how, launch):
    first, _, third = launch(_lost, 3, how=how, lost=[1])
    for error, deferred in (first, third):
        assert error.startswith("ProcessesError: materialize: process 1 of 3 has not come for 2 s")
        assert deferred


class Blank(torch.nn.Module):
    def __init__(self, is_written):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2) if is_written else torch.empty(2))


def _warned(rank, world):
    """Warnings are errors in both; one has something to warn of."""
    with deferred_init():
        model = Blank(is_written=rank == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = _error(lambda: materialize(model, strict=False, check=True, deadline=20))
    with deferred_init():
        again = Blank(is_written=True)
    return error, materialize(again, check=True, deadline=20).weight.tolist()


def test_a_warning_that_is_an_error_is_one_on_all_and_the_next_call_agrees(launch):
    (first, zeros), (second, also) = launch(_warned, 2)
    assert first == "UserWarning: elements that were never written are 0: weight"
    assert second.startswith("ProcessesError: materialize failed in process 0 of 2: UserWarning: elements that were")
    assert zeros == also == [0, 0]


def _held_on_to(rank, world):
    model = _model()
    if rank == 1:
        materialization.Materialization.take_over = _refused
    error = _error(lambda: materialize(model, seed=7, check=True))
    states = None if rank == 1 else {row.state for row in ledger(model)}
    return error, states, len(model._forward_pre_hooks)


def _refused(*_):
    raise RuntimeError("something holds on to it")


def test_a_process_that_is_done_when_another_fails_knows_what_it_has(launch):
    (first, states, hooks), (second, _, _) = launch(_held_on_to, 2)
    assert first.startswith(
        "ProcessesError: ending materialize failed in process 1 of 2: RuntimeError: something holds"
    )
    assert second == "RuntimeError: something holds on to it"
    assert states == {"initialized"}
    assert hooks == 0


def _unchecked(rank, world):
    if rank == 1:
        return None
    return materialize(_model(), seed=rank).lin.weight.is_meta


def test_without_check_nothing_is_communicated(launch):
    assert launch(_unchecked, 2) == [False, None]


def test_one_process_alone_agrees():
    assert not materialize(_model(), check=True).lin.weight.is_meta


def test_arguments():
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match="check must be a bool"):
            materialize(_model(), check=wrong)
    with pytest.raises(ValueError, match="deadline must be a number of seconds above 0"):
        materialize(_model(), check=True, deadline=0)
