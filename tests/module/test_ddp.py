"""DDP: every process makes the same values by itself, so nothing is broadcast."""

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, fingerprint, materialize

DistributedDataParallel = nn.parallel.DistributedDataParallel


def built():
    with deferred_init():
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def _trained(rank, world):
    """One step on data of its own, and how many collectives it took to get there."""
    from torch.profiler import ProfilerActivity, profile

    torch.manual_seed(rank)
    counts, before = [], []
    for sync in (False, True):
        model = materialize(built(), seed=3)
        before.append(fingerprint(dict(model.named_parameters())).total)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            wrapped = DistributedDataParallel(model, init_sync=sync)
        counts.append(sum(each.count for each in seen.key_averages() if each.key.startswith("gloo:")))
        if not sync:
            optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.5)
            wrapped(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
            after = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return counts, before, after


def test_processes_start_equal_without_a_broadcast_and_train_together(launch):
    want = materialize(built(), seed=3)
    total = fingerprint(dict(want.named_parameters())).total
    first, second = launch(_trained, 2)
    for counts, before, _ in (first, second):
        assert before == [total, total]
        assert counts[0] == 0
        assert counts[1] > 0  # so that 0 means something
    for name in dict(want.named_parameters()):
        assert torch.equal(first[2][name], second[2][name]), name
    assert not torch.equal(first[2]["2.weight"], want[2].weight)


def _refused(rank, world):
    told = []
    for wrap in (lambda model: DistributedDataParallel(model, init_sync=False), DistributedDataParallel):
        model = built()
        with pytest.raises(RuntimeError, match=r"values") as error:
            wrap(model)
        told.append(str(error.value))
        DistributedDataParallel(materialize(model), init_sync=False)
    return told


def test_a_deferred_module_is_refused(launch):
    for told in launch(_refused, 1)[0]:
        assert "these are deferred: 0.weight, 0.bias, 1.weight" in told
        assert "materialize the module first" in told
        assert "init_sync=False" in told
