"""clone, copy, and clones and copies of a ParameterTuple: what is taken along, what is new; nothing is shared."""

import copy
import pickle

import numpy as np
import pytest
import torch

from tests.parameter.declared import normal
from tritonparam import (
    Box,
    Fill,
    Generator,
    Parameter,
    ParameterTuple,
    Plan,
    Tensor,
    deferred_init,
    derive_key,
    materialize,
)
from tritonparam.initializer import HeNormal, Normal, Zero, initializer

TAKEN = {
    "name": "w",
    "requires_grad": False,
    "layerwise_parallel": True,
    "parallel_optimizer": False,
    "comm_fusion": 2,
    "cache_enable": True,
    "cache_shape": [3, 4],
    "is_param_ps": True,
    "init_in_server": True,
}
RESET = {"unique": True, "sliced": True, "is_init": True, "my_note": 5}


def drawn(law, key, shape):
    out = torch.full(shape, 7.0)
    Plan([Fill(out, law, key)]).run()
    return out.numpy()


@pytest.mark.parametrize("init", ["same", "zeros"])
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_flags_are_taken_and_states_are_not(init, lazy, grad):
    parameter = normal() if lazy else normal().init_data()
    for name, value in {**TAKEN, **RESET, "requires_grad": grad}.items():
        setattr(parameter, name, value)
    clone = parameter.clone(init)
    assert {name: getattr(clone, name) for name in TAKEN} == {**TAKEN, "requires_grad": grad}
    assert clone.torch.requires_grad is grad
    assert (clone.unique, clone.sliced, clone.is_init, clone.inited_param) == (False, False, False, None)
    assert not hasattr(clone, "my_note")
    clone.cache_shape.append(9)
    for name, value in {"name": "x", "comm_fusion": 0, "requires_grad": not grad}.items():
        setattr(clone, name, value)
    assert (parameter.name, parameter.comm_fusion, parameter.cache_shape) == ("w", 2, [3, 4])
    assert parameter.requires_grad is grad


@pytest.mark.parametrize("make", [Parameter.clone, Parameter.copy])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_same_gives_the_same_values_lazy_where_the_original_is(make, dtype):
    """Before and after the original becomes real, with no key taken: bit for bit, on memory of its own."""
    parameter = Parameter(initializer(Normal(9.0), [2, 3], dtype), "w")
    with Generator(0) as generator:
        early = make(parameter)
        assert early.has_init
        parameter.init_data()
        late = make(parameter)
        assert not generator._occurrences
    assert (early.has_init, late.has_init, type(early), type(late)) == (True, False, Parameter, Parameter)
    want = parameter.torch.detach().clone()
    assert torch.equal(late.torch, want)
    parameter.set_data(Zero())
    assert torch.equal(early.init_data().torch, want)
    assert torch.equal(late.torch, want)


def test_clone_leaves_gradient_hooks_and_history_behind():
    parameter = normal().init_data()
    torch.sum(parameter * 2).backward()
    parameter.torch.register_hook(lambda gradient: pytest.fail("a hook of the original"))
    clone = parameter.clone()
    assert (clone.torch.grad, clone.torch.is_leaf, type(clone.torch)) == (None, True, torch.nn.Parameter)
    torch.sum(clone * 2).backward()


def test_clone_of_a_view_is_contiguous_and_small():
    parameter = Parameter(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    parameter.torch.data = parameter.torch.data.T
    clone = parameter.clone()
    assert clone.torch.is_contiguous()
    assert clone.asnumpy().tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("init", "want"),
    [
        ("zeros", 0),
        ("ONES", 1),
        (0.5, 0.5),
        (True, 1),
        (np.float32(2), 2),
        (Zero(), 0),
        (Tensor(np.full((2, 3), 5, np.float32)), 5),
        (Tensor(np.full((2, 3), 6, np.int32)), 6),
        (initializer(7, [2, 3], "float16"), 7),
        (Parameter(np.full((2, 3), 8.0, np.float16)), 8),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_init_says_what_the_clone_holds(init, want, lazy):
    """It keeps the dtype of the original, and is lazy where that is and init is no data."""
    parameter = normal() if lazy else normal().init_data()
    clone = parameter.clone(init)
    is_data = isinstance(init, Tensor) and not init.has_init
    assert clone.has_init == (lazy and not is_data)
    assert str(clone) == str(parameter)
    assert clone.asnumpy().tolist() == [[want] * 3] * 2
    clone[0, 0] = 77
    assert not isinstance(init, Tensor) or init.has_init or init.asnumpy()[0, 0] == want


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("init", ["he_normal", HeNormal(), initializer("he_normal", [2, 3])])
def test_random_clone_is_the_next_parameter_of_its_name(init, lazy):
    with Generator(4) as generator:
        parameter = normal()
        if not lazy:
            parameter.init_data()
        first, second = parameter.clone(init), parameter.clone(init)
        assert generator._occurrences == {"": 1, "w": 3}  # the one without a name is what the parameter was made from
    law = HeNormal().law((2, 3))
    np.testing.assert_array_equal(first.asnumpy(), drawn(law, derive_key(4, "w", 1), (2, 3)))
    np.testing.assert_array_equal(second.asnumpy(), drawn(law, derive_key(4, "w", 2), (2, 3)))


@pytest.mark.parametrize(
    ("init", "error"),
    [
        (None, TypeError),
        ([1.0], TypeError),
        ("nosuch", ValueError),
        ("Same", ValueError),
        (Tensor(np.ones((3, 2), np.float32)), ValueError),
        (initializer("ones", [3, 2]), ValueError),
        (Tensor(np.ones((2, 3))), TypeError),
    ],
)
def test_bad_init_takes_no_key(init, error):
    group = ParameterTuple([normal("a"), normal("b").init_data()])
    with Generator(0) as generator:
        for clone in (group[0].clone, group[1].clone, lambda init: group.clone("m", init)):
            with pytest.raises(error, match="init"):
                clone(init)
        assert not generator._occurrences


def test_tuple_clone_puts_the_prefix_before_the_names():
    group = ParameterTuple([normal("x"), Parameter(2.0, "y")])
    clones = group.clone("a").clone(prefix="b")
    assert type(clones) is ParameterTuple
    assert [member.name for member in clones] == ["b.a.x", "b.a.y"]
    assert [member.name for member in group] == ["x", "y"]
    assert [member.has_init for member in clones] == [True, False]
    for mine, theirs in zip(group, clones, strict=True):
        np.testing.assert_array_equal(mine.asnumpy(), theirs.asnumpy())
    with pytest.raises(TypeError, match="prefix"):
        group.clone()


@pytest.mark.parametrize("prefix", ["12_sf.asdf_", "x12_sf.asdf.", "_x12_sf.asdf", "a", "_"])
def test_good_prefixes(prefix):
    assert ParameterTuple([Parameter(1.0, "x")]).clone(prefix)[0].name == f"{prefix}.x"


@pytest.mark.parametrize(
    ("prefix", "error"),
    [
        *((prefix, ValueError) for prefix in ("", ".a", "a$b", "a-b", "a b", "a\n", "权", "é", "x" * 1023)),
        *((prefix, TypeError) for prefix in (None, 3, b"a", ["a"])),
    ],
)
def test_bad_prefixes(prefix, error):
    group = ParameterTuple([normal("x")])
    with Generator(0) as generator:
        with pytest.raises(error, match=r"prefix|name"):
            group.clone(prefix, "normal")
        assert not generator._occurrences


def test_member_that_comes_twice_has_one_clone_that_comes_twice():
    x, y = Parameter([1.0], "x"), Parameter(2.0, "y")
    clones = ParameterTuple([x, y, x]).clone("m")
    assert [member.name for member in clones] == ["m.x", "m.y", "m.x"]
    assert clones[0] is clones[2] is not x


def test_clones_of_real_members_become_real_in_one_plan(plans):
    """Random numbers by the new names; the lazy ones stay lazy."""
    with Generator(3):
        group = ParameterTuple([normal("a").init_data(), normal("b").init_data(), normal("c")])
        del plans[:]
        clones = group.clone("m", "normal")
    assert len(plans) == 1
    assert [member.has_init for member in clones] == [False, False, True]
    for member in clones:
        key = derive_key(3, member.name, 0)
        np.testing.assert_array_equal(member.asnumpy(), drawn(Normal().law((2, 3)), key, (2, 3)))


def test_cached_member_must_be_called_a_table():
    table = Parameter([1.0], "embedding_table")
    table.cache_enable = True
    assert ParameterTuple([table]).clone("m")[0].cache_enable
    table.name = "w"
    with pytest.raises(RuntimeError, match="cache_enable"):
        ParameterTuple([table]).clone("m")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda group: pickle.loads(pickle.dumps(group))])
def test_copies_of_a_tuple_keep_flags_and_repetitions(duplicate):
    member = normal("w")
    for name, value in {**TAKEN, **RESET}.items():
        setattr(member, name, value)
    group = ParameterTuple([member, Parameter(1.0, "y"), member])
    other = duplicate(group)
    assert (type(other), str(other)) == (ParameterTuple, str(group))
    assert other[0] is other[2] is not member
    for name, value in {**TAKEN, **RESET}.items():
        assert getattr(other[0], name) == value
    other[0].cache_shape.append(1)
    assert member.cache_shape == [3, 4]
    assert copy.copy(group) == group


def test_deferred_init_takes_note_of_clones_as_of_all_else():
    """What it hands out are tensors without values, in which nothing can be written yet."""

    def build():
        group = ParameterTuple([Parameter(torch.ones(3), "a"), Parameter(torch.ones(2), "b")])
        module = torch.nn.Module()
        module.a = group.clone("m")[0].torch
        module.b = group[1].clone().set_data(np.full(2, 3, np.float32)).torch
        return module

    with deferred_init():
        module = build()
    assert module.a.is_meta
    materialize(module)
    assert (module.a.tolist(), module.b.tolist()) == ([1, 1, 1], [3, 3])


def test_random_clone_of_a_slice_is_its_box_of_the_whole():
    """Fans, keys and places of the whole: the clones of all slices together are the clone of the whole."""
    whole = normal("w", (8, 6)).init_data()
    boxes = [Box((row, column), (4, 3)) for row in (0, 4) for column in (0, 3)]
    slices = [whole.slice(box) for box in boxes]
    with Generator(9):
        want = whole.clone(HeNormal())
    for part, box in zip(slices, boxes, strict=True):
        with Generator(9):
            clone = part.clone(HeNormal())
        assert (clone.box, clone.global_shape, clone.sliced) == (box, (8, 6), False)
        assert torch.equal(clone.torch, box.of(want.torch))
        with Generator(9):
            assert torch.equal(part.set_data(HeNormal()).torch, box.of(want.torch))
