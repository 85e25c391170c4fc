"""What people do with a model between the block that built it and materialize is kept, or an error names the tensor."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, materialize
from tritonparam.module import tape


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.first.weight
        self.register_buffer("table", torch.arange(4.0) / 3)


def built() -> Net:
    with deferred_init():
        return Net()


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in materialize(module, seed=3).state_dict().items()}


WRITES = {
    "init": lambda net: nn.init.constant_(net.first.weight, 3.0),
    "apply": lambda net: net.apply(lambda each: isinstance(each, nn.Linear) and nn.init.zeros_(each.weight)),
    "data": lambda net: net.first.weight.data.fill_(3.0),
    "a part of data": lambda net: net.first.weight.data[0].zero_(),
    "detach": lambda net: net.first.weight.detach().mul_(2),
    "a row": lambda net: net.first.weight[1:].detach().zero_(),
    "no_grad": lambda net: torch.no_grad()(lambda: net.first.weight.add_(1))(),
    "copy_": lambda net: net.first.weight.data.copy_(torch.ones(4, 3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_after_the_block_is_an_error_that_names_the_tensor_and_the_way(name):
    """It was lost without a word."""
    net = built()
    WRITES[name](net)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: first.weight; write .* inside"):
        materialize(net)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_write_to_a_layer_copied_in_the_block_is_seen():
    """Copies are modules in which nothing was registered: the layers of an encoder, all but the first."""
    with deferred_init():
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 3)
        towers = copy.deepcopy(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with torch.no_grad():
        encoder.layers[1].linear1.weight.fill_(3.0)
        towers[1].running_mean.add_(1.0)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init.*layers\.1\.linear1\.weight;"):
        materialize(encoder, seed=0)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init.*1\.running_mean;"):
        materialize(towers, seed=0)


def test_a_write_to_a_copy_made_after_the_block_is_seen():
    net = copy.deepcopy(built())
    nn.init.zeros_(net.first.weight)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: first.weight"):
        materialize(net)


def written():
    with deferred_init():
        net = nn.Linear(2, 2)
    nn.init.ones_(net.weight)
    return net


def in_another_block(net):
    with deferred_init():
        net.weight.data.add_(1)


GOES_ON = {
    "half": lambda net: net.half(),
    "to": lambda net: net.to(torch.float64),
    "deepcopy": copy.deepcopy,
    "another block": in_another_block,
}


@pytest.mark.parametrize("go_on", GOES_ON.values(), ids=GOES_ON)
def test_a_write_that_was_not_seen_is_not_forgotten_by_what_comes_next(go_on):
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\)"):
        go_on(written())


def test_what_is_written_anew_in_another_block_is_known_again():
    net = written()
    with deferred_init():
        nn.init.zeros_(net.weight)
    assert materialize(net).weight.tolist() == [[0, 0], [0, 0]]


def test_a_block_that_raises_is_ended_too():
    def build():
        with deferred_init():
            nets.append(nn.Linear(2, 2))
            raise KeyError

    nets = []
    with pytest.raises(KeyError):
        build()
    nn.init.zeros_(nets[0].weight)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: weight"):
        materialize(nets[0])


def test_what_is_watched_is_freed_with_its_tensors():
    def histories():
        gc.collect()
        return len(list(tape._alive))

    before = histories()
    for _ in range(3):
        with deferred_init():
            net = Net()
            net.extra = torch.tensor([1.0])
        assert histories() > before
        net = materialize(net)
        assert net.first.weight.data.isfinite().all()
    with deferred_init():
        net = Net()
    del net
    assert histories() == before


def test_a_write_through_an_alias_made_inside_is_seen():
    with deferred_init():
        net = nn.LayerNorm(3)
        alias = net.weight.data
    alias.fill_(7)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: weight"):
        materialize(net)


def test_a_write_to_an_attribute_is_seen():
    with deferred_init():
        net = nn.Sequential(nn.ReLU())
        net.tables = [torch.ones(3)]
    net.tables[0].zero_()
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: tables.0"):
        materialize(net)


COPIED = {
    "a view": lambda b: b[:2],
    "transposed": lambda b: b.t(),
    "expanded": lambda b: b[0].expand(3, 3),
    "behind one another": lambda b: b[1:],
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("view", COPIED.values(), ids=COPIED)
def test_copies_of_views_share_the_copied_storage(view, inside):
    """As torch has it for plain tensors, whichever comes first."""

    def build():
        net = nn.Module()
        base = torch.randn(3, 3)
        net.view = view(base)
        net.register_buffer("base", base)
        return copy.deepcopy(net) if inside else net

    with deferred_init():
        net = build()
    got = materialize(net if inside else copy.deepcopy(net))
    want = build() if inside else copy.deepcopy(build())
    assert (got.view.stride(), got.view.storage_offset()) == (want.view.stride(), want.view.storage_offset())
    assert torch.equal(got.view, view(got.base))
    got.base.fill_(5)
    assert got.view.eq(5).all()


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_state_dict_loaded_after_the_block_is_an_error():
    net, other = built(), Net()
    with pytest.raises(RuntimeError, match="so load_state_dict has nothing to copy into"):
        net.load_state_dict(other.state_dict())
    net.first.load_state_dict(other.first.state_dict())
    with pytest.raises(RuntimeError, match="written to outside deferred_init"):
        materialize(net)


def test_a_write_to_a_buffer_is_seen_too():
    net = built()
    net.table.fill_(1)
    with pytest.raises(RuntimeError, match=r"outside deferred_init.*: table;"):
        materialize(net)


def test_writes_inside_another_block_are_kept():
    net = built()
    with deferred_init():
        nn.init.constant_(net.first.weight, 3.0)
        net.table.data.mul_(3)
    materialize(net)
    assert (net.first.weight == 3).all()
    assert net.tied.weight is net.first.weight
    assert net.table.tolist() == (torch.arange(4.0) / 3 * 3).tolist()


CASTS = {
    "half": lambda net: net.half(),
    "bfloat16": lambda net: net.to(torch.bfloat16),
    "double": lambda net: net.double(),
    "cpu": lambda net: net.cpu(),
    "to": lambda net: net.to("cpu", torch.float16),
    "float": lambda net: net.float(),
    "to_empty": lambda net: net.to_empty(device="cpu"),
    "to_empty of a part": lambda net: net.first.to_empty(device="cpu"),
    "a part": lambda net: net.second.half(),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_and_moves_after_the_block_are_recorded(name):
    """As in a model that is real: the values are those of the whole, cast. to_empty keeps them too."""
    want = built()
    materialize(want, seed=3)
    if "to_empty" not in name:
        CASTS[name](want)
    net = built()
    CASTS[name](net)
    got = state(net)
    for key, value in want.state_dict().items():
        assert got[key].dtype == value.dtype, key
        assert torch.equal(got[key], value), key
    assert net.tied.weight is net.first.weight or "to_empty" in name


@pytest.mark.parametrize("kind", ["module", "part", "parameter", "list"])
def test_copies_after_the_block_start_as_the_model_does(kind):
    net = built()
    want = state(built())
    if kind == "module":
        got = state(copy.deepcopy(net))
        assert all(torch.equal(got[name], want[name]) for name in want)
    elif kind == "part":
        net.ema = copy.deepcopy(net.first)
        got = state(net)
        assert torch.equal(got["ema.weight"], got["first.weight"])
        assert torch.equal(got["first.weight"], want["first.weight"])
    else:
        copied = copy.deepcopy(net.first.weight if kind == "parameter" else [net.first.weight])
        net.other = copied if kind == "parameter" else copied[0]
        got = state(net)
        assert torch.equal(got["other"], got["first.weight"])


def test_torch_is_as_it_was_when_no_deferred_tensor_is_left():
    """Its classes keep what is recorded after a block as long as there is any; tensors behave as before."""
    net = built()
    materialize(net)
    del net
    x = torch.ones(3, requires_grad=True)
    assert x.data.tolist() == [1, 1, 1]
    x.data = torch.zeros(3)
    assert x.tolist() == [0, 0, 0]
    assert copy.deepcopy(nn.Linear(2, 2)).half().weight.dtype == torch.float16
