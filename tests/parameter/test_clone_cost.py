"""What clones of many parameters cost the host: so much for each; and being fast changes nothing about them."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.module.test_host_cost import SIZES, steps
from tests.parameter.contents import bits
from tests.parameter.declared import mixed, normal
from tritonparam import Box, Parameter, ParameterTuple
from tritonparam.parameter import clones as clones_module


def many(count: int) -> ParameterTuple:
    return ParameterTuple(Parameter(torch.full((3,), float(n)), name=f"layer.{n}.w") for n in range(count))


def told(clone: Parameter) -> dict[str, object]:
    """All that there is to say of a parameter but its values and its addresses."""
    storage = clone.torch
    own = (type(storage), storage.shape, storage.stride(), storage.dtype, storage.requires_grad, storage.is_leaf)
    memory = (storage.untyped_storage().nbytes(), storage.storage_offset(), storage._base, storage.is_inference())
    state = {name: value for name, value in vars(clone).items() if name != "_torch"}
    return state | {"storage": own, "memory": memory, "box": clone.box, "global_shape": clone.global_shape}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_each_clone_costs_as_much_in_a_large_group_as_in_a_small_one(dtype):
    """Counted in lines that run: for 30 times the parameters, 30 times as many."""
    many(2).clone("warm", dtype=dtype)
    each = [steps(functools.partial(many(size).clone, "m", dtype=dtype)) / size for size in SIZES]
    assert each[2] <= each[1] * 1.01 <= each[0] * 1.02
    assert each[2] < 85


def odd() -> ParameterTuple:
    """Of many dtypes, and with all that a clone takes along and leaves behind."""
    group = [*mixed(), normal("frozen", requires_grad=False).init_data(), normal("lazy")]
    group.append(normal("sliced", (4, 6)).init_data().slice(Box((1, 2), (2, 3))))
    group.append(normal("turned").init_data())
    group[-1].torch.data = group[-1].torch.data.T
    group.append(normal("noted", parallel_optimizer=False).init_data())
    group[-1].note, group[-1].unique, group[-1].comm_fusion, group[-1].cache_shape = 5, True, 7, [3]
    return ParameterTuple(group)


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_clones_in_columns_are_what_clones_one_by_one_are(dtype, monkeypatch):
    group = odd()
    got = group.clone("m", dtype=dtype)
    monkeypatch.setattr(clones_module, "is_deferred", lambda tensor: True)
    monkeypatch.setattr(clones_module, "_copy", None)
    with torch.device("cpu"):  # a block that might change what tensors say
        want = group.clone("m", dtype=dtype)
    for one, other in zip(got, want, strict=True):
        assert told(one) == told(other)
        if not one.has_init:
            assert torch.equal(bits(one.torch), bits(other.torch)), one.name


def test_clones_of_views_lie_in_the_one_allocation_too():
    group = many(5)
    group[2].torch.data = torch.arange(6.0).view(2, 3).T
    clones = [each.torch for each in group.clone("m")]
    assert [each.data_ptr() - clones[0].data_ptr() for each in clones] == [0, 256, 512, 768, 1024]
    assert clones[2].tolist() == group[2].torch.tolist()


def test_a_write_to_one_clone_counts_as_one_to_no_other():
    """Autograd knows by these counts that what it kept was overwritten."""
    first, second, third = (each.torch for each in many(3).clone("m"))
    before = [second._version, third._version]
    product = (second * third).sum()
    with torch.no_grad():
        for _ in range(5):
            first.add_(1)
    assert [second._version, third._version] == before
    product.backward()
    product = (second * second).sum()
    with torch.no_grad():
        second.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_values_are_read_as_they_are_when_the_clone_is_made():
    group = many(4)
    clones = group.clone("m")
    with torch.no_grad():
        for member in group:
            member.torch.zero_()
    assert [clone.asnumpy().tolist() for clone in clones] == [[float(n)] * 3 for n in range(4)]


def test_members_that_were_given_one_name_have_no_clones():
    group = many(3)
    group[2].name = group[0].name
    with pytest.raises(ValueError, match="different names"):
        group.clone("m")


def test_a_member_whose_memory_was_freed_has_no_clone():
    group = many(3)
    group[1].torch.untyped_storage().resize_(4)
    with pytest.raises(ValueError, match="must have its memory"):
        group.clone("m")


def test_clones_are_the_same_inside_a_block_that_names_a_device():
    group = odd()
    want = group.clone("m")
    with torch.device("cpu"):
        got = group.clone("m")
    for one, other in zip(got, want, strict=True):
        assert told(one) == told(other)
        assert one.has_init or torch.equal(bits(one.torch), bits(other.torch))
