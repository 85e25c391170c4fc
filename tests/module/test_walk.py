"""walk: the tensors of a module wherever it holds them, with their names, in time that does not explode."""

import collections
import functools
import time
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from tests.module.deferred_models import drawn
from tritonparam import Normal, Parameter, declarations, deferred_init, materialize
from tritonparam.initializer import initializer


@dataclass
class Pair:
    """Two tensors."""

    left: torch.Tensor
    right: torch.Tensor


class Named(NamedTuple):
    """A tensor and a number."""

    table: torch.Tensor
    size: int


class Slotted:
    """An object without a dict."""

    __slots__ = ("kept", "missing")

    def __init__(self, kept):
        self.kept = kept


class Watched:
    """An object with a property, which must not run."""

    def __init__(self, tensor):
        self.inner = {"t": tensor}

    @property
    def looked(self):
        raise AssertionError("a property was executed")

    def scaled(self, x):
        return x * self.inner["t"]


PLACES = {
    "attribute": (lambda t: t, "held", lambda m: m.held),
    "list": (lambda t: [0, t], "held.1", lambda m: m.held[1]),
    "tuple": (lambda t: (t,), "held.0", lambda m: m.held[0]),
    "dict": (lambda t: {"m": t}, "held.m", lambda m: m.held["m"]),
    "dict of lists": (lambda t: {3: [t]}, "held.3.0", lambda m: m.held[3][0]),
    "key": (lambda t: {t: "name"}, "held.keys.0", lambda m: next(iter(m.held))),
    "ordered dict": (lambda t: collections.OrderedDict(m=t), "held.m", lambda m: m.held["m"]),
    "deque": (lambda t: collections.deque([t]), "held.0", lambda m: m.held[0]),
    "set": (lambda t: {t}, "held.0", lambda m: next(iter(m.held))),
    "named tuple": (lambda t: Named(t, 3), "held.table", lambda m: m.held.table),
    "dataclass": (lambda t: Pair(torch.zeros(1), t), "held.right", lambda m: m.held.right),
    "slots": (Slotted, "held.kept", lambda m: m.held.kept),
    "object": (Watched, "held.inner.t", lambda m: m.held.inner["t"]),
    "bound method": (lambda t: Watched(t).scaled, "held.self.inner.t", lambda m: m.held.__self__.inner["t"]),
    "partial": (lambda t: functools.partial(torch.mul, t), "held.args.0", lambda m: m.held.args[0]),
    "partial, by name": (
        lambda t: functools.partial(torch.add, other=t),
        "held.keywords.other",
        lambda m: m.held.keywords["other"],
    ),
    "module in a list": (lambda t: [holding(t)], "held.0.own", lambda m: m.held[0].own),
    "parameter list in a dict": (
        lambda t: {"m": nn.ParameterList([nn.Parameter(t)])},
        "held.m.0",
        lambda m: m.held["m"][0].detach(),
    ),
}


def holding(tensor):
    module = nn.Module()
    module.own = tensor
    return module


@pytest.mark.parametrize("place", PLACES)
def test_deferred_tensors_are_found_where_modules_hold_them(place):
    """Before, they stayed on the meta device, and the first forward pass failed."""
    make, name, find = PLACES[place]
    with deferred_init():
        module = nn.Linear(2, 2)
        module.held = make(torch.randn(4))
    found = {each.name: each for each in declarations(module)}
    assert (found[name].kind, found[name].persistent) == ("attribute", False)
    held = find(module)
    materialize(module, seed=3)
    assert find(module) is held or place == "parameter list in a dict"  # what finds it detaches it
    assert torch.equal(find(module), drawn(Normal(), name, (4,), seed=3))
    assert list(module.state_dict()) == ["weight", "bias"]


def test_parameters_and_buffers_keep_their_names_and_decide_first():
    def make():
        module = nn.Linear(2, 2)
        module.register_buffer("b", torch.randn(4))
        module.again = [module.weight, module.b, module.weight.detach(), module.b[1:3]]
        module.copies = {"weight": module.weight.detach().clone()}
        return module

    with deferred_init():
        module = make()
    found = {each.name: each for each in declarations(module)}
    assert list(found) == ["weight", "bias", "b", "again.3", "copies.weight"]
    assert all(not each.aliases for each in found.values())
    plain = materialize(torch_linear_with_buffer(), seed=1)
    materialize(module, seed=1)
    assert torch.equal(module.weight, plain.weight)
    assert torch.equal(module.b, plain.b)
    assert torch.equal(module.copies["weight"], module.weight)
    module.b[2] = 9
    assert module.again[3][1] == 9
    assert module.again[2].data_ptr() == module.weight.data_ptr()


def torch_linear_with_buffer():
    with deferred_init():
        module = nn.Linear(2, 2)
        module.register_buffer("b", torch.randn(4))
    return module


def test_tensors_in_sets_are_named_in_the_order_in_which_they_were_made():
    for _ in range(5):
        with deferred_init():
            module = nn.Module()
            tensors = [torch.randn(3) for _ in range(6)]
            module.held = set(tensors)
        materialize(module)
        for n, tensor in enumerate(tensors):
            assert torch.equal(tensor, drawn(Normal(), f"held.{n}", (3,)))


def test_what_holds_itself_is_walked_once():
    with deferred_init():
        module = nn.Module()
        module.ring = [torch.ones(2)]
        module.ring.append(module.ring)
        module.ring.append(module)
    assert [each.name for each in declarations(module)] == ["ring.0"]
    assert materialize(module).ring[0].tolist() == [1, 1]


def test_a_part_that_knows_its_parent_does_not_take_it_along():
    with deferred_init():
        parent = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        parent[0].parent = [parent]
    materialize(parent[0])
    assert not parent[0].weight.is_meta
    assert parent[1].weight.is_meta
    assert [each.name for each in declarations(parent)] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_module_registered_inside_itself_is_walked_once():
    """Before, this was a RecursionError, as it is for torch's state_dict."""
    with deferred_init():
        parent = nn.Linear(2, 2)
        parent.child = nn.Linear(2, 2)
        parent.child.parent = parent
    assert [each.name for each in declarations(parent)] == ["weight", "bias", "child.weight", "child.bias"]
    assert not materialize(parent).child.weight.is_meta


def test_shared_modules_have_all_their_names_up_to_a_bound():
    """17 levels of two paths each took 1.1 seconds, and twice that with each level more."""

    def shared(levels):
        with deferred_init():
            module = nn.Linear(1, 1)
            for _ in range(levels):
                module = nn.Sequential(module, module)
        return module

    weight = declarations(shared(2))[0]
    assert (weight.name, weight.aliases) == ("0.0.weight", ("0.1.weight", "1.0.weight", "1.1.weight"))
    start = time.perf_counter()
    weight = declarations(shared(30))[0]
    assert time.perf_counter() - start < 5
    assert len(weight.aliases) == 1023
    layer = nn.Linear(1, 1)
    many = nn.ModuleList([layer] * 1000)
    assert list(many.state_dict())[::2] == [declarations(many)[0].name, *declarations(many)[0].aliases]


def test_templates_and_real_tensors_are_left_alone():
    """Meta tensors that a module keeps as templates are the user's own; so are real ones."""
    template, real = torch.empty(3, device="meta"), torch.ones(2)
    with deferred_init():
        module = nn.Linear(2, 2)
        module.template, module.kept = template, [real]
    assert [each.name for each in declarations(module)] == ["weight", "bias"]
    materialize(module)
    assert module.template is template
    assert module.template.is_meta
    assert module.kept[0] is real


def test_scratch_in_attributes_is_zeros():
    with deferred_init():
        module = nn.Linear(2, 2)
        module.cache, module.sizes = torch.empty(3), [torch.empty(2, dtype=torch.int32) + 0]
    materialize(module)
    assert (module.cache.tolist(), module.sizes[0].tolist()) == ([0, 0, 0], [0, 0])


def test_lazy_modules_stay_uninitialized_on_the_device_asked_for():
    """Before, they were an error, and with `.materialize` of torch they became meta tensors."""
    with deferred_init():
        module = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 2))
    before = list(module.parameters())
    materialize(module, dtype=torch.float64)
    assert all(mine is other for mine, other in zip(module.parameters(), before, strict=True))
    assert type(module[0].weight) is nn.UninitializedParameter
    assert type(module[1].running_mean) is nn.UninitializedBuffer
    with torch._C.DisableTorchFunction():
        assert (module[0].weight.data.device.type, module[0].weight.dtype) == ("cpu", torch.float64)
    assert module[0].weight.requires_grad
    module(torch.ones(4, 5, dtype=torch.float64)).sum().backward()
    assert module[0].weight.shape == (3, 5)
    assert module[0].weight.grad is not None
    with deferred_init():
        module = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"never written: 0\.weight"):
        declarations(module)


def test_the_torch_of_a_lazy_parameter_is_told():
    own = Parameter(initializer("ones", [2, 2]), name="w")
    module = nn.Linear(2, 2)
    module.weight = own.torch
    with pytest.raises(ValueError, match=r"weight \(of a lazy Parameter: call its init_data\(\) first\)"):
        materialize(module)
