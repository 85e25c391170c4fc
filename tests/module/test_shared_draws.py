"""Modules of one block that were copied from each other, or share memory, stay so when they are made one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tritonparam import deferred_init, load, materialize, save


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


def poisoned():
    """Leave memory behind in which nothing is 0."""
    held = [torch.full((100, 8), 777.0) for _ in range(50)]
    del held


def test_what_only_another_module_shows_of_a_storage_has_its_values_too():
    """It was whatever lay in that memory."""
    with deferred_init():
        whole = torch.randn(100, 8)
        encoder, decoder = nn.Embedding(60, 8), nn.Embedding(100, 8)
        encoder.weight, decoder.weight = nn.Parameter(whole[:60]), nn.Parameter(whole)
    poisoned()
    materialize(encoder, seed=1)
    materialize(decoder, seed=1)
    assert torch.equal(encoder.weight, decoder.weight[:60])
    assert 0.5 < decoder.weight[60:].std() < 1.5
    assert decoder.weight.abs().max() < 7


@pytest.mark.parametrize("by", ["materialize", "load"])
def test_what_is_held_outside_has_its_values_too(by, tmp_path):
    with deferred_init():
        flat = torch.arange(10.0)
        module = nn.Module()
        module.register_buffer("part", flat[:4])
    poisoned()
    if by == "load":
        save({"part": torch.ones(4)}, tmp_path / "saved")
        load(module, tmp_path / "saved")
    else:
        materialize(module)
    assert flat[4:].tolist() == [4, 5, 6, 7, 8, 9]
    assert module.part.data_ptr() == flat.data_ptr()


def test_a_part_taken_after_the_block_shares_the_memory_of_the_whole():
    with deferred_init():
        module = nn.Linear(3, 3)
    part = nn.Module()
    part.weight = nn.Parameter(module.weight.data[:2])
    poisoned()
    materialize(part)
    materialize(module)
    assert torch.equal(part.weight, module.weight[:2])
    assert module.weight.abs().max() < 1


def test_a_copy_of_what_a_load_has_drawn_is_the_same(tmp_path):
    with deferred_init():
        first = nn.Linear(20, 20)
        other = nn.Sequential(copy.deepcopy(first))
    save({"bias": torch.ones(20)}, tmp_path / "saved")
    load(first, tmp_path / "saved", strict=False)
    materialize(other)
    assert torch.equal(first.weight, other[0].weight)
