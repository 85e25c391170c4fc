"""Deferred tensors whose memory is asked for: addresses tell them apart, and what is saved has their values."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from tritonparam import deferred_init, materialize
from tritonparam.module.tape import History

pytestmark = pytest.mark.filterwarnings("ignore:the constructor looks at random values")


def tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    net.register_buffer("table", torch.arange(6.0).view(2, 3))
    return net


def by_torch(path):
    with deferred_init():
        net = tied()
        torch.save(net.state_dict(), path)
    return net, torch.load(path)


def by_torch_whole(path):
    with deferred_init():
        net = tied()
        torch.save(net, path)
    return net, torch.load(path, weights_only=False).state_dict()


def by_pickle(path):
    with deferred_init():
        net = tied()
        pickled = pickle.dumps(net)
    return net, pickle.loads(pickled).state_dict()


def by_safetensors(path):
    with deferred_init():
        net = tied()
        save_model(net, str(path))
    return net, load_file(path)


@pytest.mark.parametrize("save", [by_torch, by_torch_whole, by_pickle, by_safetensors])
def test_what_is_saved_in_a_block_has_the_values_that_the_model_gets(save, tmp_path):
    """Files had no values in them, and safetensors read at an address that was none."""
    net, saved = save(tmp_path / "saved")
    want = materialize(net, seed=4).state_dict()
    assert {"0.weight", "1.bias", "table"} <= set(saved) <= set(want)
    assert not any(value.is_meta for value in saved.values())
    assert [name for name, value in saved.items() if not torch.equal(value, want[name])] == []


def test_pickled_ties_stay_tied():
    with deferred_init():
        again = pickle.loads(pickle.dumps(tied()))
    assert again[0].weight is again[1].weight
    assert isinstance(again[0].weight, nn.Parameter)


def test_what_was_never_written_is_not_saved():
    with deferred_init(), pytest.raises(RuntimeError, match="before any were written"):
        torch.save(torch.empty(3), io.BytesIO())
    with deferred_init(), pytest.raises(RuntimeError, match=r"save it after materialize|before any were written"):
        save_file({"a": torch.empty(3)}, "/dev/null")


def test_a_shallow_copy_shares_memory():
    with deferred_init():
        net = nn.Module()
        net.register_buffer("a", torch.zeros(3))
        net.register_buffer("b", copy.copy(net.a))
        net.b.add_(1)
    assert materialize(net).a.tolist() == [1, 1, 1]


def test_storages_are_told_apart_by_their_addresses():
    with deferred_init():
        one, other = torch.ones(3), torch.ones(3)
        views = {each.untyped_storage().data_ptr() for each in (one, one[1:], one.view(3, 1).t())}
        assert views == {one.data_ptr()}
        assert other.untyped_storage().data_ptr() not in views
        assert one[1:].data_ptr() == one.data_ptr() + 4


def test_addresses_stay_below_those_that_c_can_count_however_many_tensors_there_were():
    """They were the 2**48th multiples of a number that grows with every write, so the 65,536th began at 2**64."""
    first = History(torch.device("cpu"))
    late = History(torch.device("cpu"), key=2**40)
    size = 2**50
    assert first.address(size) >= 2**48
    assert abs(late.address(size) - first.address(size)) >= size
    assert late.address(size) == late.address(size) < 2**63


def test_torch_is_as_it_was_after_the_block():
    before = torch.UntypedStorage.data_ptr, torch.Tensor.__reduce_ex__, nn.Parameter.__reduce_ex__
    with deferred_init():
        assert torch.Tensor.__reduce_ex__ is not before[1]
    assert (torch.UntypedStorage.data_ptr, torch.Tensor.__reduce_ex__, nn.Parameter.__reduce_ex__) == before
    assert "data_ptr" not in vars(torch.UntypedStorage)
