"""Deferred tensors that no module holds become real with the modules of their block."""

from __future__ import annotations

import functools
import gc

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, load, materialize, save


@pytest.fixture
def cached():
    @functools.lru_cache
    def angles(n):
        return torch.arange(n) / n

    return angles


class Rotary(nn.Module):
    def __init__(self, angles, seen):
        super().__init__()
        self.table = nn.Parameter(angles(4) * 2)
        seen.append(torch.randn(3))
        self.noise = nn.Parameter(seen[-1] * 2)
        self.attribute = [torch.ones(2)]


def test_a_cached_tensor_is_real_for_models_that_come_later(cached):
    with deferred_init():
        first = Rotary(cached, [])
    materialize(first)
    assert cached(4).tolist() == [0, 0.25, 0.5, 0.75]
    later = Rotary(cached, [])
    assert torch.equal(later.table, first.table)


def test_what_a_list_outside_holds_has_the_values_that_the_module_was_made_of(cached):
    seen = []
    with deferred_init():
        net = Rotary(cached, seen)
    materialize(net, seed=3)
    assert torch.equal(seen[0] * 2, net.noise)


def test_views_outside_share_memory():
    seen = {}
    with deferred_init():
        net = nn.Linear(2, 2)
        seen["all"] = torch.arange(4.0)
        seen["part"] = seen["all"][1:]
    materialize(net)
    seen["part"][0] = 9
    assert seen["all"].tolist() == [0, 9, 2, 3]


def test_other_modules_of_the_block_stay_deferred_with_all_that_they_hold(cached):
    with deferred_init():
        one, other = Rotary(cached, []), Rotary(cached, [])
    materialize(one)
    assert other.table.is_meta
    assert other.attribute[0].is_meta
    materialize(other, seed=1)
    assert other.attribute[0].tolist() == [1, 1]


def test_a_part_that_is_made_first_leaves_the_rest_deferred(cached):
    with deferred_init():
        net = nn.Sequential(Rotary(cached, []), Rotary(cached, []))
    materialize(net[0])
    assert net[1].attribute[0].is_meta
    assert net[1].table.is_meta


def test_what_no_name_decides_about_and_what_was_never_written_stays_deferred():
    seen = []
    with deferred_init():
        net = nn.Linear(2, 2)
        seen += [torch.randn(2), torch.empty(2)]
    materialize(net)
    assert [each.is_meta for each in seen] == [True, True]


@pytest.mark.parametrize(
    "kept",
    [
        lambda net: [parameter.data for parameter in net.parameters()],
        lambda net: list(net.state_dict().values()),
        lambda net: [net.weight.detach()[:1], net.bias.detach()],
        lambda net: torch.optim.SGD([net.weight.data, net.bias.data]).param_groups[0]["params"],
    ],
    ids=["data", "state_dict", "views", "an optimizer"],
)
def test_what_else_shows_the_parameters_stays_with_them(kept):
    with deferred_init():
        net = nn.Linear(3, 2)
        aliases = kept(net)
    materialize(net)
    for alias in aliases:
        assert not alias.is_meta
        alias.fill_(7)
    assert net.weight[0].eq(7).all()
    assert net.bias.eq(7).all()


def test_an_alias_of_another_dtype_is_real_where_memory_has_that_dtype():
    seen = {}
    with deferred_init():
        net = nn.Module()
        net.register_buffer("turns", torch.polar(torch.ones(4), torch.arange(4.0)))
        net.weight = nn.Parameter(torch.ones(3))
        seen["numbers"] = torch.view_as_real(net.turns)
        seen["bits"] = net.weight.data.view(torch.int32)
    materialize(net)
    assert torch.equal(seen["numbers"], torch.view_as_real(net.turns))
    assert seen["bits"].tolist() == [0x3F800000] * 3
    with deferred_init():
        net = nn.LayerNorm(3)
        bits = net.weight.data.view(torch.int32)
    assert materialize(net, dtype=torch.float64).weight.dtype == torch.float64
    assert bits.is_meta


def test_a_model_made_real_part_by_part_is_looked_through_once(monkeypatch):
    looks = []
    objects = gc.get_objects
    monkeypatch.setattr("gc.get_objects", lambda: looks.append(1) or objects())
    with deferred_init():
        net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(20)))
        kept = net.state_dict()
    for part in net:
        materialize(part)
    assert not any(tensor.is_meta for tensor in kept.values())
    assert len(looks) == 1


def test_a_write_that_nobody_saw_leaves_it_deferred_and_is_told(cached):
    with deferred_init():
        net = Rotary(cached, [])
    cached(4)[0] = 5
    with pytest.warns(UserWarning, match=r"a tensor of shape \(4,\) that no module holds was written to outside"):
        materialize(net)
    assert cached(4).is_meta


def test_a_load_makes_them_real_too(cached, tmp_path):
    save(Rotary(cached, []), tmp_path / "saved")
    cached.cache_clear()
    with deferred_init():
        net = Rotary(cached, [])
        kept = net.table.data
    load(net, tmp_path / "saved")
    assert cached(4).tolist() == [0, 0.25, 0.5, 0.75]
    kept.fill_(7)
    assert net.table.eq(7).all()


def test_nothing_is_looked_for_where_nothing_is_left(monkeypatch):
    with deferred_init():
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    monkeypatch.setattr("gc.get_objects", lambda: pytest.fail("all objects of the process are looked through"))
    materialize(net)
