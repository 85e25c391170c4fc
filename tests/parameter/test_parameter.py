"""Parameter: declared first, brought to life later, with values that were settled at declaration."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tritonparam
from tritonparam import Fill, Generator, Parameter, ParameterTuple, Plan, Tensor, derive_key, set_seed
from tritonparam.initializer import Normal, initializer
from tritonparam.tensor.tensor import realize


def drawn(law, key, shape, dtype=torch.float32):
    """What a plan writes for (law, key, shape)."""
    out = torch.full(shape, 7, dtype=dtype)
    Plan([Fill(out, law, key)]).run()
    return out


def normal(name="w", shape=(4, 5), dtype="float32", **flags):
    return Parameter(initializer("normal", shape, dtype), name=name, **flags)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (Tensor(np.arange(6).reshape(2, 3)), "shape=(2, 3), dtype=Int64"),
        (initializer("ones", [1, 2, 3]), "shape=(1, 2, 3), dtype=Float32"),
        (3, "shape=(), dtype=Int32"),
        (2.0, "shape=(), dtype=Float32"),
        (np.float64(1.5), "shape=(), dtype=Float32"),
        (np.float32(1.5), "shape=(), dtype=Float32"),
        (np.int64(1), "shape=(), dtype=Int64"),
        (np.ones((3,)), "shape=(3,), dtype=Float64"),
        ([1, 2], "shape=(2,), dtype=Int64"),
        ([1.5, 2.5], "shape=(2,), dtype=Float32"),
        (torch.ones(2, dtype=torch.bfloat16), "shape=(2,), dtype=BFloat16"),
        (Tensor(np.array([True, False])), "shape=(2,), dtype=Bool"),
        (Tensor(np.zeros((0,))), "shape=(0,), dtype=Float64"),
        (Parameter(1, "other", requires_grad=False), "shape=(), dtype=Int32"),
    ],
)
def test_prints_name_shape_dtype_and_requires_grad(data, text):
    """str and repr are MindSpore's, for every kind of input."""
    parameter = Parameter(data, name="x")
    want = f"Parameter (name=x, {text}, requires_grad=True)"
    assert (str(parameter), repr(parameter)) == (want, want)
    assert isinstance(parameter, Tensor)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (True, ValueError),
        (np.bool_(False), ValueError),
        (2**31, ValueError),
        (-(2**70), ValueError),
        ((1, 2, 3), TypeError),
        ("abc", TypeError),
        ({"a": 1}, TypeError),
        (None, TypeError),
        (1j, TypeError),
        (["a"], TypeError),
        (Normal(), TypeError),
    ],
)
def test_other_input_is_refused_by_name(data, error):
    with pytest.raises(error, match="default_input"):
        Parameter(data, name="x")


@pytest.mark.parametrize(
    ("name", "want"), [(None, "Parameter"), ("", "Parameter"), (" \n", "Parameter"), (" w 1 ", "w 1")]
)
def test_name_is_stripped_and_has_a_default(name, want):
    parameter = Parameter(1.0, name)
    assert parameter.name == want
    parameter.name = "other"
    parameter.name = name
    assert parameter.name == want


@pytest.mark.parametrize("name", ["a/b c$%.d", "a\nb", "层.重み", "x" * 1024, " " + "x" * 1024 + " "])
def test_name_may_hold_any_characters_up_to_1024(name):
    assert Parameter(1.0, name).name == name.strip()


@pytest.mark.parametrize("name", [3, b"w", True, ["w"], np.array([1, 2]), "x" * 1025])
def test_bad_name_is_a_value_error_and_changes_nothing(name):
    parameter = Parameter(1.0, "w")
    with pytest.raises(ValueError, match="name must be"):
        parameter.name = name
    assert parameter.name == "w"
    with Generator(1) as generator:
        with pytest.raises(ValueError, match="name must be"):
            Parameter(initializer("ones", 1), name)
        assert set(generator._occurrences) <= {""}


FLAGS = {"requires_grad": True, "layerwise_parallel": False, "parallel_optimizer": True}


@pytest.mark.parametrize(("flag", "default"), FLAGS.items())
def test_flags_take_bools_only(flag, default):
    parameter = normal()
    assert getattr(parameter, flag) is default
    setattr(parameter, flag, not default)
    assert getattr(parameter, flag) is not default
    assert getattr(normal(**{flag: not default}), flag) is not default
    for bad in (1, None, "yes", np.bool_(True), [True]):
        with pytest.raises(TypeError, match=f"{flag} must be a bool"):
            setattr(parameter, flag, bad)
        with Generator(1) as generator:
            with pytest.raises(TypeError, match=f"{flag} must be a bool"):
                normal(**{flag: bad})
            assert set(generator._occurrences) == {""}
    assert getattr(parameter, flag) is not default


def test_other_attributes():
    """Bookkeeping is free to set, what cannot be set says so, and users may add their own."""
    parameter = normal()
    assert (parameter.sliced, parameter.is_init, parameter.inited_param) == (False, False, None)
    assert parameter.data is parameter
    parameter.sliced = parameter.is_init = True
    parameter.my_note = 5
    assert (parameter.sliced, parameter.is_init, parameter.my_note) == (True, True, 5)
    for name in ("inited_param", "data", "dtype", "shape", "torch"):
        with pytest.raises(AttributeError):
            setattr(parameter, name, 1)


def test_data_are_copied_and_nothing_but_data_dtype_and_shape_is_taken():
    source = Parameter(np.ones(2, np.float32), "a", requires_grad=False, layerwise_parallel=True)
    parameter = Parameter(source, "b")
    source[0] = 9
    assert parameter.asnumpy().tolist() == [1, 1]
    assert (parameter.name, parameter.requires_grad, parameter.layerwise_parallel) == ("b", True, False)


def test_parameter_of_ten_terabytes_takes_no_memory():
    parameter = normal(shape=(2_500_000, 1_000_000))
    assert (parameter.has_init, parameter.nbytes) == (True, 10**13)
    assert parameter.torch.is_meta
    assert str(parameter) == "Parameter (name=w, shape=(2500000, 1000000), dtype=Float32, requires_grad=True)"
    with pytest.raises(TypeError, match="single"):
        ParameterTuple(parameter)
    assert parameter.has_init


def test_value_is_that_of_seed_name_and_occurrence_at_creation():
    """Later renaming, seeding and flags change nothing; the tensor it was made from stays as it was."""
    law = Normal().law((4, 5))
    with Generator(7):
        source = initializer("normal", [4, 5])
        first, second = Parameter(source, " w "), Parameter(source, "w")
    set_seed(3)
    first.name = "renamed"
    for occurrence, parameter in enumerate((first, second)):
        want = drawn(law, derive_key(7, "w", occurrence), (4, 5))
        np.testing.assert_array_equal(parameter.asnumpy(), want.numpy())
    assert source.has_init
    set_seed(0)


@given(
    names=st.lists(st.sampled_from(["w", "b", "layer.w", "Parameter"]), min_size=1, max_size=6),
    data=st.data(),
)
def test_order_and_grouping_of_becoming_real_are_irrelevant(names, data):
    """Whichever parameters are made real, together or alone, in any order: each holds its own plan's values."""
    with Generator(11):
        parameters = [normal(name, shape=(7,)) for name in names]
    order = data.draw(st.permutations(range(len(names))))
    cut = data.draw(st.integers(0, len(names)))
    realize(parameters[index] for index in order[:cut])
    assert [parameter.has_init for parameter in parameters] == [index in order[cut:] for index in range(len(names))]
    for index in order[cut:]:
        parameters[index].init_data()
    for position, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        want = drawn(Normal().law((7,)), derive_key(11, name, names[:position].count(name)), (7,))
        np.testing.assert_array_equal(parameter.asnumpy(), want.numpy())


def test_other_names_do_not_disturb():
    with Generator(1):
        alone = normal("w").asnumpy()
    with Generator(1):
        normal("b"), Parameter(1.0, "w"), initializer("normal", [3])
        among = normal("w").asnumpy()
    np.testing.assert_array_equal(alone, among)


def test_parameter_of_a_lazy_parameter_has_its_values_and_stays_lazy():
    with Generator(1) as generator:
        first = normal("a")
        second = Parameter(first, "b")
        assert second.has_init
        assert "b" not in generator._occurrences
    values = first.asnumpy().copy()
    first[0, 0] = 9
    assert second.has_init
    np.testing.assert_array_equal(second.asnumpy(), values)


def test_init_data_returns_self_and_runs_once(plans):
    parameter = normal()
    assert parameter.init_data(device="cpu", backend="numpy") is parameter
    values = parameter.asnumpy().copy()
    parameter[0, 0] = 9
    assert parameter.init_data() is parameter
    assert parameter.asnumpy()[0, 0] == 9
    assert values[0, 0] != 9
    assert len(plans) == 1
    assert Parameter(2.0).init_data(device="cpu").asnumpy() == 2.0


@pytest.mark.parametrize("place", [{"device": "nosuch"}, {"device": "meta"}, {"backend": "nosuch"}])
def test_bad_device_or_backend_leaves_every_member_lazy(place):
    members = ParameterTuple([normal("a"), normal("b")])
    for group in (members, members[0]):
        with pytest.raises(ValueError, match="must be"):
            group.init_data(**place)
    assert all(member.has_init and member.torch.is_meta for member in members)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "float8_e4m3fn"])
def test_torch_of_a_float_parameter_is_one_nn_parameter_throughout(dtype):
    parameter = normal(dtype=dtype)
    storage = parameter.torch
    assert type(storage) is torch.nn.Parameter
    assert (storage.is_meta, storage.requires_grad, storage.is_leaf) == (True, True, True)
    parameter.init_data()
    assert parameter.torch is storage
    assert type(storage) is torch.nn.Parameter
    assert (storage.is_meta, storage.requires_grad, storage.is_leaf) == (False, True, True)


@pytest.mark.parametrize("first", ["optimizer", "values"])
def test_optimizer_trains_it_whether_made_before_or_after(first):
    """Gradients arrive on `.torch`, hooks set while lazy fire, and the step shows in the parameter."""
    parameter = normal(shape=(3,))
    calls = []
    parameter.torch.register_hook(lambda grad: calls.append("gradient"))
    parameter.torch.register_post_accumulate_grad_hook(lambda leaf: calls.append("accumulated"))
    if first == "values":
        parameter.init_data()
    optimizer = torch.optim.SGD([parameter.torch], lr=0.5)
    before = parameter.asnumpy().copy()
    loss = (parameter * np.array([1.0, 2.0, 3.0], np.float32)) @ torch.ones(3)
    loss.torch.backward()
    optimizer.step()
    assert calls == ["gradient", "accumulated"]
    assert parameter.torch.grad.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(parameter.asnumpy(), before - np.float32([0.5, 1, 1.5]))


def test_module_that_holds_the_torch_parameter_sees_it_become_real():
    parameter, module = normal(shape=(2, 3)), torch.nn.Linear(3, 2, bias=False)
    module.weight = parameter.torch
    ParameterTuple([parameter]).init_data()
    x = torch.ones(1, 3)
    assert torch.equal(module(x), torch.nn.functional.linear(x, parameter))
    assert torch.equal(module.state_dict()["weight"], parameter.torch)


def test_requires_grad_of_the_parameter_and_of_its_torch_are_one():
    for parameter in (normal(requires_grad=False), normal(requires_grad=False).init_data()):
        assert not parameter.torch.requires_grad
        parameter.requires_grad = True
        assert parameter.torch.requires_grad
        parameter.torch.requires_grad_(False)
        assert "requires_grad=False" in str(parameter)
        assert not parameter.init_data().torch.requires_grad


def test_integers_have_the_flag_but_no_gradient():
    parameter = Parameter([1, 2], "n")
    assert (type(parameter.torch), parameter.torch.requires_grad, parameter.requires_grad) == (
        torch.Tensor,
        False,
        True,
    )
    parameter.requires_grad = False
    assert not parameter.requires_grad
    storage = parameter.torch
    parameter.set_dtype("float32")
    assert type(storage) is torch.nn.Parameter
    assert parameter.torch is storage
    assert not storage.requires_grad


def test_arithmetic_gives_tensors_and_assignment_keeps_the_parameter():
    parameter = same = Parameter([1.0, 2.0], "w")
    assert type(parameter + parameter) is Tensor
    parameter[0] = 5
    assert (same.asnumpy().tolist(), same.requires_grad) == ([5, 2], True)
    parameter += 1
    assert type(parameter) is Tensor
    assert same.asnumpy().tolist() == [5, 2]


def test_parameter_made_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        lazy, real = normal(), Parameter([1.0])
        lazy.init_data()
    for parameter in (lazy, real):
        torch.sum(parameter * 2).backward()
        assert (parameter.torch.grad == 2).all()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("lazy", [True, False])
def test_copies_keep_name_flags_and_values_to_come(duplicate, lazy):
    parameter = normal("w", requires_grad=False, layerwise_parallel=True, parallel_optimizer=False)
    if not lazy:
        parameter.init_data()
    other = duplicate(parameter)
    assert type(other) is Parameter
    assert (str(other), other.has_init) == (str(parameter), lazy)
    assert (other.layerwise_parallel, other.parallel_optimizer) == (True, False)
    values = parameter.asnumpy().copy()
    parameter[0, 0] = 9
    np.testing.assert_array_equal(other.asnumpy(), values)


def test_example_of_the_guide_prints_what_mindspore_prints():
    x = Parameter(default_input=Tensor(np.arange(2 * 3).reshape((2, 3))), name="x")
    y = Parameter(default_input=initializer("ones", [1, 2, 3], tritonparam.dtype.float32), name="y")
    z = Parameter(default_input=2.0, name="z")
    assert f"{x} \n\n {y} \n\n {z}" == (
        "Parameter (name=x, shape=(2, 3), dtype=Int64, requires_grad=True) \n\n "
        "Parameter (name=y, shape=(1, 2, 3), dtype=Float32, requires_grad=True) \n\n "
        "Parameter (name=z, shape=(), dtype=Float32, requires_grad=True)"
    )
