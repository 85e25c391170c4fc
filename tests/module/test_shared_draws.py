"""Modules of one block that were copied from each other, or share memory, stay so when they are made one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tritonparam import deferred_init, materialize


def pair(second):
    with deferred_init():
        first = nn.Linear(3, 3)
        other = second(first)
    return first, other


def loaded(first):
    other = nn.Sequential(nn.Linear(3, 3))
    other[0].load_state_dict(first.state_dict())
    return other


COPIES = {
    "deepcopy": lambda first: nn.Sequential(copy.deepcopy(first)),
    "load_state_dict": loaded,
    "AveragedModel": lambda first: nn.Sequential(AveragedModel(first).module),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("second", COPIES.values(), ids=COPIES)
def test_copies_are_equal_whichever_is_made_first(second, order):
    first, other = pair(second)
    for module in (first, other)[::order]:
        materialize(module, seed=5)
    assert torch.equal(first.weight, other[0].weight)
    assert torch.equal(first.bias, other[0].bias)
    assert first.weight.data_ptr() != other[0].weight.data_ptr()


def test_another_seed_or_prefix_makes_other_values():
    first, other = pair(lambda each: nn.Sequential(copy.deepcopy(each), copy.deepcopy(each)))
    materialize(first, seed=5)
    materialize(other[0], seed=6)
    materialize(other[1], seed=5, prefix="elsewhere")
    assert not torch.equal(first.weight, other[0].weight)
    assert not torch.equal(first.weight, other[1].weight)


def transposed(first):
    decoder = nn.Module()
    decoder.weight = nn.Parameter(first.weight.t())
    return decoder


def swapped(first):
    decoder = nn.Linear(3, 3)
    decoder.weight.data = first.weight.data.t()
    return decoder


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("second", [transposed, swapped])
def test_memory_that_two_modules_share_is_one(second, order):
    first, decoder = pair(second)
    for module in (first, decoder)[::order]:
        materialize(module, seed=5)
    assert torch.equal(first.weight.t(), decoder.weight)
    assert isinstance(decoder.weight, nn.Parameter)
    with torch.no_grad():
        first.weight.fill_(2)
    assert decoder.weight.eq(2).all()
