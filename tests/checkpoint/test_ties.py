"""Where a checkpoint has several names of one tensor, their values are the same, or the load says that they are not."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import bits, same
from tests.checkpoint.models import Net, contents, deferred, trained
from tritonparam import Box, load
from tritonparam.checkpoint import stored
from tritonparam.checkpoint.matching import LoadReport


@pytest.fixture
def plain(tmp_path):
    """The values of a trained net, and the file that the tests write them to."""
    return contents(trained()), tmp_path / "w.safetensors"


def changed(values, at=-1):
    """The same values but for one bit of one element."""
    data = values.clone()
    data.view(-1).view(torch.int32)[at] ^= 1
    return data


@pytest.mark.parametrize("make", [Net, deferred])
def test_names_of_one_tensor_that_differ_are_told(make, plain, monkeypatch):
    values, path = plain
    other = changed(values["embed.weight"])
    save_file(values | {"head.weight": other}, path)
    monkeypatch.setattr(stored, "_COMPARED", 7)
    net = make()
    before = None if make is deferred else bits(net.embed.weight)
    with pytest.raises(ValueError, match=r"different values for .*: embed.weight and head.weight\. With strict=False"):
        load(net, path)
    assert net.embed.weight.is_meta if make is deferred else bits(net.embed.weight) == before
    report = load(net, path, strict=False)
    assert report.conflicting == ("embed.weight",)
    assert str(report).endswith("1 conflicting: embed.weight")
    assert same(net.embed.weight, values["embed.weight"])
    assert net.head.weight is net.embed.weight


def test_names_of_one_tensor_that_agree_are_one(plain):
    values, path = plain
    values["embed.weight"][0, 0] = torch.nan
    save_file(values | {"head.weight": values["embed.weight"].clone()}, path)
    net = deferred()
    assert load(net, path).conflicting == ()
    assert same(net.embed.weight, values["embed.weight"])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.t().contiguous(),
        lambda x: x[:-1].clone(),
        lambda x: torch.where(x == 0, -x, x),
    ],
    ids=["dtype", "shape", "rows", "zeros"],
)
def test_other_dtypes_shapes_and_signs_of_zero_differ(change, plain):
    values, path = plain
    values["embed.weight"][3] = 0
    save_file(values | {"head.weight": change(values["embed.weight"])}, path)
    with pytest.raises(ValueError, match="different values for names of one tensor"):
        load(deferred(), path)
    assert load(deferred(), path, strict=False).conflicting == ("embed.weight",)


def test_three_names_one_of_which_differs(tmp_path):
    net = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "abc"})
    net["b"].weight = net["c"].weight = net["a"].weight
    values = torch.randn(3, 3)
    save_file({"a.weight": values, "b.weight": values.clone(), "c.weight": values + 1}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"a.weight and c.weight\."):
        load(net, tmp_path / "w.safetensors")
    save_file({"b.weight": values, "c.weight": values + 1}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"b.weight and c.weight\."):
        load(net, tmp_path / "w.safetensors")
    load(net, tmp_path / "w.safetensors", strict=False)
    assert same(net["a"].weight, values)


def test_two_names_of_a_mapping_for_one_memory(tmp_path):
    """One view under two names is one tensor, be it one object or two."""
    values = {"a": torch.ones(3), "b": torch.full((3,), 2.0)}
    save_file(values, tmp_path / "w.safetensors")
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "alike.safetensors")
    for both in ((x := torch.zeros(3), x), (x := torch.zeros(3), x.detach())):
        target = dict(zip("ab", both, strict=True))
        with pytest.raises(ValueError, match="different values for names of one tensor: a and b"):
            load(target, tmp_path / "w.safetensors")
        assert not both[0].any()
        report = load(target, tmp_path / "w.safetensors", strict=False)
        assert report.conflicting == ("a",)
        assert both[1].tolist() == [1, 1, 1]
        both[0].zero_()
        assert load(target, tmp_path / "alike.safetensors").conflicting == ()
        assert both[0].tolist() == [1, 1, 1]


def test_of_boxes_what_is_held_here_is_compared(tmp_path):
    """The files are cut differently; the element that differs lies in one of the two boxes that are asked for."""
    whole = torch.arange(24.0).view(6, 4)
    other = whole.clone()
    other[4, 1] += 1
    for rank, (name, values, rows) in enumerate(
        [("a", whole, slice(0, 4)), ("a", whole, slice(4, 6)), ("b", other, slice(0, 3)), ("b", other, slice(3, 6))]
    ):
        rows_of = {name: {"saved_offsets": [rows.start, 0], "global_shape": [6, 4]}}
        path = tmp_path / f"shard-{rank:05}-model-00001-of-00001.safetensors"
        save_file({name: values[rows].contiguous()}, path, {stored.SHARDING_KEY: json.dumps(rows_of)})
    checkpoint = stored.Checkpoint(tmp_path)
    one, two = checkpoint.tensors["a"], checkpoint.tensors["b"]
    assert checkpoint.same(one, two, Box((0, 0), (4, 4)))
    assert checkpoint.same(one, two, Box((4, 2), (2, 2)))
    assert not checkpoint.same(one, two, Box((2, 1), (3, 1)))
    assert not checkpoint.same(one, two, Box.whole((6, 4)))
    target = torch.zeros(6, 4)
    with pytest.raises(ValueError, match="a and b"):
        load({"a": target, "b": target}, tmp_path)
    assert not target.any()


def test_a_report_of_four_kinds_is_one_of_five():
    report = LoadReport(("a",), (), (), ())
    assert report.conflicting == ()
    assert str(LoadReport(("a", "b"), (), (), (), ("b",))) == "2 loaded, 1 conflicting: b"
