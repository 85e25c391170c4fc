"""ParameterTuple: what goes in, under which names, and what its copies, sums and slices are."""

import copy
import pickle

import pytest
import torch

from tritonparam import Copy, Fill, Generator, Parameter, ParameterTuple, Tensor
from tritonparam.initializer import Normal, initializer


def normal(name="w", shape=(4, 5), dtype="float32", **flags):
    return Parameter(initializer("normal", shape, dtype), name=name, **flags)


def test_tuple_takes_any_iterable_of_parameters():
    x, y = Parameter([1.0], "x"), Parameter(2.0, "y")
    for members in ([x, y], (x, y), iter([x, y]), {x: 1, y: 2}):
        group = ParameterTuple(members)
        assert type(group) is ParameterTuple
        assert isinstance(group, tuple)
        assert (group[0] is x, group[-1] is y, len(group)) == (True, True, 2)
    assert len(ParameterTuple([])) == 0
    assert ParameterTuple([x, x])[0] is x
    assert type(group[:1]) is type(group + group) is tuple
    assert str(group) == f"({x}, {y})"


@pytest.mark.parametrize(
    "bad",
    [Parameter([1.0], "x"), Parameter(1.0, "x"), [Parameter(1.0), "s"], ("2", "1"), "[2,3]", 3, None, [Tensor(1.0)]],
)
def test_tuple_refuses_everything_else(bad):
    with pytest.raises(TypeError):
        ParameterTuple(bad)


def test_tuple_becomes_real_in_one_plan(plans):
    """Mixed dtypes and laws, repeated and real members: one run of fills, each member with the values it has alone.

    A second cuts the random integers, which are drawn as floats.
    """

    def declare():
        with Generator(2):
            return [
                normal("a", (3, 4)),
                normal("b", (5,), "bfloat16"),
                Parameter(initializer("he_uniform", [4, 4], "float16"), "c"),
                Parameter(initializer("zeros", [2], "int32"), "d"),
                Parameter(initializer(Normal(5.0), [9], "int32"), "e"),
            ]

    alone = [parameter.init_data() for parameter in declare()]
    del plans[:]
    members = declare()
    group = ParameterTuple([*members, members[0], Parameter(1.0, "real")])
    assert group.init_data(device="cpu", backend="numpy") is group
    assert [[type(each) for each in plan.operations] for plan in plans] == [[Fill] * len(members), [Copy]]
    for got, want in zip(members, alone, strict=True):
        assert got.torch.dtype is want.torch.dtype
        assert torch.equal(got.torch, want.torch)
    group.init_data()
    assert len(plans) == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_of_a_tuple_are_tuples_of_copies(duplicate):
    group = ParameterTuple([Parameter([1.0], "x"), normal("y", requires_grad=False)])
    other = duplicate(group)
    assert type(other) is ParameterTuple
    assert str(other) == str(group)
    assert other[0] is not group[0]
    group[0][0] = 9
    assert other[0].asnumpy().tolist() == [1]


def test_two_members_of_one_name_are_refused_and_not_renamed():
    same = [Parameter(1.0), Parameter(2.0)]
    with pytest.raises(ValueError, match="different names, got 'Parameter' at 0 and at 1"):
        ParameterTuple(same)
    assert [parameter.name for parameter in same] == ["Parameter", "Parameter"]
    same[1].name = "other"
    assert len(ParameterTuple([*same, *same])) == 4


def test_sums_and_slices_are_tuples_even_where_names_meet():
    one, two = ParameterTuple([Parameter(1.0, "w")]), ParameterTuple([Parameter(2.0, "w")])
    assert type(one + two) is type(one[:1]) is type(one * 2) is tuple
    assert (one + two)[1] is two[0]
    with pytest.raises(TypeError, match="item assignment"):
        one[0] = two[0]
