"""Modules whose tensors show parts of others: what was saved is loaded, and contradictions are told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, load, save


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.arange(48.0).view(12, 4))
        self.register_buffer("q", self.qkv.data[:4])
        self.register_buffer("turned", self.qkv.data.t())
        self.register_buffer("corner", self.qkv.data[2:5, 1:3].t())
        self.register_buffer("row", self.qkv.data[3])


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("flat", torch.arange(10.0))
        self.weight = nn.Parameter(self.flat[:6].view(2, 3))
        self.bias = nn.Parameter(self.flat[6:8])


def blank(kind, deferred):
    if deferred:
        with deferred_init():
            return kind()
    module = kind()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.zero_()
    return module


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("kind", [Fused, Flat])
def test_what_was_saved_is_loaded(kind, deferred, tmp_path):
    saved = kind()
    save(saved, tmp_path / "saved")
    module = blank(kind, deferred)
    report = load(module, tmp_path / "saved")
    assert len(report.loaded) == len(saved.state_dict())
    assert not report.conflicting
    for name, tensor in saved.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    first = next(iter(module.parameters()))
    with torch.no_grad():
        first.fill_(5)
    assert all(tensor.eq(5).any() for name, tensor in module.state_dict().items() if name != "bias")


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("name", ["q", "turned", "corner", "row"])
def test_a_part_that_is_stored_with_other_values_is_told(name, deferred, tmp_path):
    tensors = {key: value.clone() for key, value in Fused().state_dict().items()}
    tensors[name] = tensors[name].contiguous()
    tensors[name].view(-1)[-1] += 1
    save(tensors, tmp_path / "saved")
    module = blank(Fused, deferred)
    before = None if deferred else {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=rf"different values .*qkv and its part {name}"):
        load(module, tmp_path / "saved")
    if before is not None:
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    report = load(module, tmp_path / "saved", strict=False)
    assert report.conflicting == (name,)
    assert torch.equal(module.qkv, Fused().qkv)


def test_targets_that_are_no_module_must_not_overlap(tmp_path):
    save(Flat(), tmp_path / "saved")
    flat = torch.zeros(10)
    with pytest.raises(ValueError, match="must hold tensors that do not overlap"):
        load({"flat": flat, "weight": flat[:6].view(2, 3), "bias": torch.zeros(2)}, tmp_path / "saved")
    assert not flat.any()
