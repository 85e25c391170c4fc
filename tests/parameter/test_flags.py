"""What a Parameter carries besides its data: defaults, what may be set, and what each refusal says."""

import numpy as np
import pytest

from tritonparam import Parameter, Tensor
from tritonparam.initializer import initializer


def lazy(name="w"):
    return Parameter(initializer("normal", [2, 3]), name)


def test_defaults():
    for parameter in (lazy(), Parameter(1.0, "w")):
        assert (parameter.requires_grad, parameter.layerwise_parallel, parameter.parallel_optimizer) == (
            True,
            False,
            True,
        )
        assert (parameter.sliced, parameter.is_init, parameter.unique, parameter.cache_enable) == (False,) * 4
        assert (parameter.is_param_ps, parameter.init_in_server) == (False, False)
        assert (type(parameter.comm_fusion), parameter.comm_fusion, parameter.cache_shape) == (int, 1, [])
        assert parameter.inited_param is None


@pytest.mark.parametrize("name", ["sliced", "is_init", "unique", "is_param_ps", "init_in_server", "my_note"])
def test_what_is_not_checked_takes_anything(name):
    parameter, anything = lazy(), object()
    setattr(parameter, name, anything)
    assert getattr(parameter, name) is anything


@pytest.mark.parametrize(
    ("name", "good", "bad", "error"),
    [
        ("cache_enable", [True, False], [1, None, np.bool_(True), "yes"], TypeError),
        ("comm_fusion", [0, 3], [True, 1.0, None, "1"], TypeError),
        ("comm_fusion", [2], [-1], ValueError),
        ("cache_shape", [[], [1, 2]], [3, None, "ab", np.ones(2)], TypeError),
    ],
)
def test_what_is_checked_says_what_it_takes(name, good, bad, error):
    parameter = lazy()
    for value in good:
        setattr(parameter, name, value)
        assert getattr(parameter, name) == value
    for value in bad:
        with pytest.raises(error, match=f"^{name} must be .*, got "):
            setattr(parameter, name, value)
        assert getattr(parameter, name) == good[-1]


def test_cache_shape_is_a_list_of_its_own():
    parameter, shape = lazy(), [1, 2]
    parameter.cache_shape = shape
    shape.append(3)
    assert parameter.cache_shape == [1, 2]
    parameter.cache_shape = (3, 4)
    assert parameter.cache_shape == [3, 4]
    assert Parameter(1.0).cache_shape is not Parameter(1.0).cache_shape


@pytest.mark.parametrize("name", ["data", "inited_param", "init_mode", "has_init", "shape", "dtype"])
def test_what_cannot_be_set_says_so(name):
    for parameter in (lazy(), Parameter(1.0)):
        with pytest.raises(AttributeError):
            setattr(parameter, name, 1)


def test_inited_param_is_the_parameter_once_it_was_lazy_and_is_real():
    by_init, by_data, by_use = lazy(), lazy(), lazy()
    by_init.init_data()
    by_data.set_data(np.ones((2, 3), np.float32))
    by_use.asnumpy()
    for parameter in (by_init, by_data, by_use):
        assert parameter.inited_param is parameter
    assert Parameter(1.0).init_data().inited_param is None


def test_init_mode_is_a_lazy_tensor_of_the_same_values():
    parameter = lazy()
    source = parameter.init_mode
    assert (type(source), source.has_init, source.shape, source.dtype) == (Tensor, True, (2, 3), parameter.dtype)
    np.testing.assert_array_equal(source.asnumpy(), parameter.asnumpy())
    assert parameter.init_mode is None


def test_set_param_ps_sets_the_flags_and_does_not_take_them_back():
    parameter = lazy("net.embedding_table")
    assert parameter.set_param_ps() is None
    assert (parameter.is_param_ps, parameter.init_in_server) == (True, False)
    parameter.set_param_ps(True)
    assert (parameter.is_param_ps, parameter.init_in_server) == (True, True)
    parameter.set_param_ps(init_in_server=False)
    assert (parameter.is_param_ps, parameter.init_in_server, parameter.has_init) == (True, False, True)


@pytest.mark.parametrize(
    ("value", "error"), [(1, TypeError), (None, TypeError), ("yes", TypeError), (True, RuntimeError)]
)
def test_bad_set_param_ps_sets_nothing(value, error):
    parameter = lazy("w")
    with pytest.raises(error, match="init_in_server must be"):
        parameter.set_param_ps(value)
    assert (parameter.is_param_ps, parameter.init_in_server) == (False, False)
