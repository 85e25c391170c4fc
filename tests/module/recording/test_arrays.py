"""Tensors made of arrays share their memory, inside the block and afterwards, as in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tritonparam import deferred_init, materialize

PARTS = {
    "every other column": np.s_[:, ::2],
    "a column": np.s_[:, 1],
    "a corner": np.s_[:2, :3],
    "rows": np.s_[1:],
    "all": np.s_[:],
}
WAYS = {"from_numpy": torch.from_numpy, "as_tensor": torch.as_tensor, "asarray": torch.asarray}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_part_of_an_array_is_written_to_in_both_directions(part, way):
    """Parts that are no whole array were copies."""

    def build():
        array = np.zeros((3, 4), np.float32)
        tensor = way(array[part])
        tensor.fill_(3)
        array[0] = 7
        module = nn.Module()
        module.register_buffer("whole", torch.tensor(array))
        module.register_buffer("part", tensor.clone())
        return module, tensor.stride()

    want, strides = build()
    with deferred_init():
        got, got_strides = build()
    got = materialize(got)
    assert got_strides == strides
    assert torch.equal(got.whole, want.whole)
    assert torch.equal(got.part, want.part)


def two_of_one(array):
    module = nn.Module()
    module.register_buffer("a", torch.from_numpy(array))
    module.register_buffer("b", torch.from_numpy(array)[1:])
    module.array = array
    return module


def test_tensors_of_one_array_and_the_array_stay_one_when_they_are_real():
    with deferred_init():
        module = two_of_one(np.zeros(3, np.float32))
    materialize(module)
    module.a.add_(1)
    assert module.b.tolist() == [1, 1]
    module.array[2] = 5
    assert module.b.tolist() == [1, 5]


def test_an_array_of_a_parameter_follows_it():
    with deferred_init():
        module = nn.LayerNorm(3)
        module.array = module.weight.detach().numpy()
    materialize(module)
    with torch.no_grad():
        module.weight.fill_(4)
    assert module.array.tolist() == [4, 4, 4]


def test_a_tensor_outside_goes_on_sharing_its_array():
    array = np.ones(3)
    with deferred_init():
        module, tensor = nn.Linear(1, 1), torch.from_numpy(array)
    materialize(module)
    tensor[0] = 9
    assert array.tolist() == [9, 1, 1]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_torch_fills_in_after_it_has_made_the_tensors(zipped, tmp_path):
    """Memory of the older format is read last."""
    path = tmp_path / "saved.pt"
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    with deferred_init():
        module = nn.Linear(2, 2)
        saved = torch.load(path)
        module.load_state_dict(saved)
        module.register_buffer("kept", saved["weight"])
    materialize(module)
    assert module.weight.eq(1).all()
    assert module.bias.eq(1).all()
    assert module.kept.eq(1).all()


def test_another_dtype_is_memory_of_its_own():
    with deferred_init():
        module = nn.LayerNorm(3)
        module.array = module.weight.detach().numpy()
    materialize(module, dtype=torch.float64)
    assert module.weight.tolist() == [1, 1, 1]
    assert module.weight.dtype == torch.float64


def test_data_of_a_real_tensor_is_shared_too():
    real = nn.Linear(2, 2)
    with deferred_init():
        module = nn.Linear(2, 2)
        module.weight.data = real.weight.data
        real.bias.data = torch.ones(2)
    materialize(module)
    assert real.bias.tolist() == [1, 1]
    assert isinstance(module.weight, nn.Parameter)
    with torch.no_grad():
        module.weight.fill_(9)
    assert real.weight.eq(9).all()
