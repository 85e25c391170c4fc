"""set_data: what goes in, what does not, in which order that is found out, and what stays the same object."""

import copy

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.parameter.contents import drawn, state
from tests.parameter.declared import normal
from tritonparam import Box, Copy, Fill, Generator, Parameter, Tensor, derive_key
from tritonparam import dtype as mstype
from tritonparam.initializer import Normal, One, initializer

LADDER = [
    ["bool_"],
    ["int8"],
    ["uint8"],
    ["int16"],
    ["uint16"],
    ["int32"],
    ["uint32"],
    ["int64"],
    ["uint64"],
    ["float8_e4m3fn", "float8_e5m2"],
    ["float16", "bfloat16"],
    ["float32"],
    ["float64"],
]
STEPS = {name: step for step, names in enumerate(LADDER) for name in names}


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (Tensor([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]]),
        (np.arange(6, dtype=np.float32).reshape(3, 2).T, [[0, 2, 4], [1, 3, 5]]),
        (np.arange(6, dtype=">i2").reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (torch.arange(6.0).reshape(3, 2).T, [[0, 2, 4], [1, 3, 5]]),
        (torch.ones(3, dtype=torch.bfloat16).expand(2, 3), [[1, 1, 1]] * 2),
        (torch.ones(2, 3, requires_grad=True) * 2, [[2, 2, 2]] * 2),
        (Parameter(np.full((2, 3), True)), [[1, 1, 1]] * 2),
        (One(), [[1, 1, 1]] * 2),
        (initializer(0.5, [2, 3], "float16"), [[0.5] * 3] * 2),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_values_are_copied_into_the_same_parameter(data, want, lazy):
    """Every kind of data, into a lazy and into a real one: the same dtype, the same objects, nothing shared."""
    parameter = normal() if lazy else normal().init_data()
    storage = parameter.torch
    assert parameter.set_data(data) is parameter
    assert parameter.asnumpy().tolist() == want
    assert parameter.torch is storage
    assert type(storage) is torch.nn.Parameter
    assert (storage.is_leaf, storage.requires_grad, storage.is_contiguous()) == (True, True, True)
    assert parameter.dtype is mstype.float32
    if not isinstance(data, One):
        parameter[0, 0] = 77
        kept = data.torch if isinstance(data, Tensor) else data
        assert kept.is_meta if isinstance(data, Tensor) and data.has_init else kept[0, 0] != 77


@pytest.mark.parametrize(
    ("dtype", "number", "want"),
    [
        ("float32", 1, 1.0),
        ("float32", 0.25, 0.25),
        ("float32", True, 1.0),
        ("float32", np.float64(0.5), 0.5),
        ("float32", np.int64(3), 3.0),
        ("float32", float("inf"), float("inf")),
        ("bfloat16", 1.0, 1.0),
        ("float8_e5m2", 2.0, 2.0),
        ("int32", 2, 2),
        ("int32", np.int64(2), 2),
        ("int32", True, 1),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("bool_", 3, True),
        ("bool_", 0, False),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_numbers_are_scalars_of_the_dtype_of_the_parameter(dtype, number, want, lazy):
    parameter = Parameter(initializer("zeros", [], dtype), "w")
    if not lazy:
        parameter.init_data()
    parameter.set_data(number)
    assert not parameter.has_init
    assert (parameter.shape, parameter.dtype, parameter.torch.item()) == ((), getattr(mstype, dtype), want)
    again = Parameter(initializer("zeros", [], dtype)).init_data().set_data(number)
    again.torch.detach().zero_()
    assert parameter.torch.item() == want


@pytest.mark.parametrize(
    ("dtype", "number", "error"),
    [
        ("int32", 1.0, TypeError),
        ("uint8", 1.7, TypeError),
        ("bool_", 1.0, TypeError),
        ("int64", np.float64(2.0), TypeError),
        ("int32", 2**40, ValueError),
        ("uint8", 300, ValueError),
        ("uint8", -1, ValueError),
        ("uint64", 2**64, ValueError),
        ("float32", 1e300, ValueError),
        ("float64", 10**400, ValueError),
    ],
)
def test_numbers_that_do_not_fit_are_refused(dtype, number, error):
    parameter = Parameter(initializer("ones", [], dtype), "w").init_data()
    before = state(parameter)
    with pytest.raises(error, match="data must"):
        parameter.set_data(number)
    assert state(parameter) == before


@pytest.mark.parametrize("own", STEPS)
@pytest.mark.parametrize("other", STEPS)
def test_dtypes_on_lower_steps_are_cast_and_others_refused(own, other):
    """The ladder, for real data, for lazy ones, and for clones; a refusal comes before any change."""
    data = Tensor(shape=(2,), dtype=other, init=One())
    allowed = own == other or STEPS[other] < STEPS[own]
    for source in (data, copy.deepcopy(data).init_data(), Parameter(data, "p")):
        parameter = Parameter(initializer("zeros", [2], own), "w")
        for lazy in (True, False):
            before = state(parameter)
            if allowed:
                parameter.set_data(source)
                assert parameter.dtype is getattr(mstype, own)
                assert parameter.has_init == (lazy and source.has_init)
                assert parameter.clone(source).init_data().torch.double().tolist() == [1, 1]
                assert parameter.init_data().torch.double().tolist() == [1, 1]
                parameter = Parameter(initializer("zeros", [2], own), "w").init_data()
            else:
                for call in (parameter.set_data, parameter.clone):
                    with pytest.raises(TypeError, match=r"(data|init) must be of dtype .* got"):
                        call(source)
                assert state(parameter) == before
                parameter.init_data()


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ("zeros", TypeError, "data must be a Tensor"),
        (None, TypeError, "data must be a Tensor"),
        ([1.0], TypeError, "data must be a Tensor"),
        (1j, TypeError, "data must be a Tensor"),
        (np.array(["a"]), TypeError, "dtype"),
        (torch.ones(2, 3, dtype=torch.complex64), TypeError, "dtype"),
        (torch.ones(2, 3, device="meta"), ValueError, "with values"),
        (torch.ones(2, 3).to_sparse(), ValueError, "strided"),
        (
            FakeTensorMode().from_tensor(torch.ones(2, 3)),
            ValueError,
            "data must .* memory .*, got FakeTensor",
        ),
        (Tensor(np.ones((3, 2))), ValueError, r"shape \(2, 3\)"),  # and not the dtype
        (1.0, ValueError, r"shape \(2, 3\)"),
        (initializer("ones", [3, 2]), ValueError, r"shape \(2, 3\)"),
        (Tensor(np.ones((2, 3))), TypeError, "Float64"),
        (np.ones((2, 3)), TypeError, "Float64"),
        (torch.ones(2, 3, dtype=torch.float64), TypeError, "Float64"),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_bad_data_change_nothing(data, error, text, lazy):
    parameter = normal()
    if not lazy:
        parameter.init_data().sliced = True
    before = state(parameter)
    with Generator(0) as generator:
        with pytest.raises(error, match=text):
            parameter.set_data(data)
        with pytest.raises(TypeError, match="slice_shape must be a bool"):
            parameter.set_data(torch.ones(2, 3), 1)
        assert not generator._occurrences
    assert state(parameter) == before


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("data", [np.ones(4, np.float32), initializer("ones", [4]), Tensor([True] * 4)])
def test_slice_shape_lets_the_shape_change(data, lazy):
    parameter = normal() if lazy else normal().init_data()
    storage = parameter.torch
    parameter.set_data(data, slice_shape=True)
    assert (parameter.shape, parameter.sliced, parameter.torch is storage) == ((4,), True, True)
    assert parameter.asnumpy().tolist() == [1] * 4
    parameter.set_data(3.0, True)
    assert (parameter.shape, parameter.asnumpy()) == ((), 3.0)
    assert not parameter.set_data(4.0).sliced


def test_lazy_tensor_is_drawn_by_the_name_of_the_parameter():
    """As at construction: the next occurrence of the name, in the parameter's dtype, whether it is lazy or real."""
    source = initializer("normal", [2, 3], "float16")
    for real in (False, True):
        with Generator(5):
            parameter = normal("first")
            if real:
                parameter.init_data()
            parameter.name = "w"
            normal("w")
            parameter.set_data(source)
        assert (source.has_init, parameter.has_init) == (True, not real)
        want = drawn(Normal().law((2, 3)), derive_key(5, "w", 1), (2, 3))
        np.testing.assert_array_equal(parameter.asnumpy(), want.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("real", [True, False])
def test_lazy_parameter_gives_its_own_values_and_stays_lazy(dtype, real):
    source, parameter = normal("source", dtype=dtype), normal("w")
    if real:
        parameter.init_data()
    with Generator(0) as generator:
        parameter.set_data(source)
        assert not generator._occurrences
    assert source.has_init
    np.testing.assert_array_equal(parameter.asnumpy(), source.asnumpy().astype(np.float32))


def test_optimizer_views_gradients_and_hooks_live_on():
    """Values are written where they are: what training holds of the parameter stays valid."""
    parameter = Parameter(np.ones(3, np.float32), "w")
    view, fired = parameter.torch.detach(), []
    parameter.torch.register_hook(fired.append)
    optimizer = torch.optim.SGD([parameter.torch], lr=1.0, momentum=0.5)
    torch.sum(parameter * 2).backward()
    optimizer.step()
    gradient = parameter.torch.grad
    parameter.set_data(np.zeros(3, np.float32))
    assert view.tolist() == [0, 0, 0]
    assert parameter.torch.grad is gradient
    optimizer.step()
    assert parameter.asnumpy().tolist() == [-3, -3, -3]
    assert len(fired) == 1


def test_gradient_goes_where_the_shape_does():
    parameter = Parameter(np.ones(3, np.float32), "w", requires_grad=True)
    torch.sum(parameter * 2).backward()
    parameter.set_data(np.ones(2, np.float32), slice_shape=True)
    assert parameter.torch.grad is None
    torch.sum(parameter * 2).backward()
    assert parameter.torch.grad.tolist() == [2, 2]


def test_stale_graph_is_found_out():
    """Autograd is told of the change: a graph that needs the old values refuses to go on with the new ones."""
    parameter = Parameter(np.ones(3, np.float32), "w")
    loss = (parameter.torch * parameter.torch).sum()
    parameter.set_data(np.zeros(3, np.float32))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameter_can_be_set_to_a_view_of_itself():
    parameter = Parameter(np.arange(9, dtype=np.float32).reshape(3, 3), "w")
    want = parameter.asnumpy().T.copy()
    parameter.set_data(parameter.torch.T)
    np.testing.assert_array_equal(parameter.asnumpy(), want)
    row = torch.from_numpy(parameter.asnumpy()[1]).expand(3, 3)
    want = row.clone().numpy()
    parameter.set_data(row)
    np.testing.assert_array_equal(parameter.asnumpy(), want)
    assert parameter.set_data(parameter) is parameter


def test_empty_parameter_can_be_set():
    parameter = Parameter(np.zeros((0, 3), np.float32), "w")
    parameter.set_data(One()).set_data(torch.ones(0, 3)).set_data(Normal())
    assert (parameter.shape, parameter.clone("ones").shape) == ((0, 3), (0, 3))


def test_set_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        for parameter in (normal(), normal().init_data()):
            parameter.set_data(torch.ones(2, 3))
            parameter.set_data(torch.ones(4), slice_shape=True)
    torch.sum(parameter * 2).backward()
    assert parameter.torch.grad.tolist() == [2] * 4


def test_initializer_takes_a_key_of_the_name_and_no_other():
    with Generator(2) as generator:
        parameter = Parameter(1.0, "w").set_data(Normal())
        assert generator._occurrences == {"w": 1}
    assert parameter.asnumpy() == drawn(Normal().law(()), derive_key(2, "w", 0), ()).numpy()


def test_numpy_view_of_itself_that_runs_backwards():
    parameter = Parameter(np.arange(4, dtype=np.float32), "w")
    parameter.set_data(parameter.asnumpy()[::-1])
    assert parameter.tolist() == [3, 2, 1, 0]


def test_lazy_data_are_drawn_where_they_go(plans):
    """One fill of the parameter's own memory, or of a box of it: nothing is drawn elsewhere and copied."""
    parameter = normal("w", (6, 4)).init_data()
    del plans[:]
    parameter.set_data(Normal())
    parameter.set_data(normal("v", (6, 4)))
    parameter.set_data(Normal(), box=Box((2, 0), (1, 4)))
    operations = [operation for plan in plans for operation in plan.operations]
    assert [type(operation) for operation in operations] == [Fill] * 3
    at = parameter.torch.data_ptr()
    assert [operation.out.data_ptr() for operation in operations] == [at, at, at + 2 * 4 * 4]


def test_values_move_by_copies_of_a_plan(plans):
    parameter = normal().init_data()
    del plans[:]
    parameter.set_data(torch.ones(2, 3))
    parameter.set_data(np.ones((2, 3), np.float32))
    parameter.set_data(torch.ones(3), slice_shape=True)
    normal().set_data(torch.ones(2, 3))
    assert [[type(operation) for operation in plan.operations] for plan in plans] == [[Copy]] * 4
