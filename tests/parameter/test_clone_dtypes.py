"""clone in another dtype: the original's values, rounded once more, or a refusal where the kind would be lost."""

import numpy as np
import pytest
import torch

from tests.parameter.contents import bits
from tests.parameter.declared import FLOATS, MIXED, normal
from tritonparam import Box, Generator, Parameter, ParameterTuple, Tensor
from tritonparam import dtype as mstype
from tritonparam.initializer import Normal, initializer
from tritonparam.tensor import writes as _writes


@pytest.mark.parametrize("own", MIXED)
@pytest.mark.parametrize("wanted", FLOATS)
@pytest.mark.parametrize("lazy", [True, False])
def test_dtype_of_a_clone_is_that_of_its_values_cast(own, wanted, lazy):
    """Of a real one as of a lazy one: the values that the original has, rounded as torch rounds them, bit for bit."""
    with Generator(3):
        parameter = Parameter(initializer(Normal(30.0, 1.0), [7, 11], own), "w")
    clone = (parameter if lazy else parameter.init_data()).clone(dtype=wanted)
    assert (clone.has_init, clone.dtype.name, parameter.has_init) == (lazy, wanted, lazy)
    wide = clone.clone(dtype="float64")
    assert wide.has_init == lazy
    values = parameter.init_data().torch.detach()
    if wanted == "float8_e4m3fn":  # torch saturates from 2.12 on
        values = values.double().clamp(-448, 448)
    want = values.to(clone.dtype.torch)
    assert torch.equal(bits(clone.init_data().torch), bits(want))
    assert torch.equal(wide.init_data().torch, want.double())


@pytest.mark.parametrize("value", [0.1, 3, -1e30, float("nan"), float("inf"), 2.0**53 + 2])
@pytest.mark.parametrize("own", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_constant_that_was_rounded_stays_rounded(value, own, wanted):
    parameter = Parameter(initializer(value, [3], own), "w")
    clone = parameter.clone(dtype=wanted)
    want = parameter.init_data().clone(dtype=wanted)
    assert clone.has_init
    torch.testing.assert_close(clone.init_data().torch, want.torch, rtol=0, atol=0, equal_nan=True)


def test_default_device_has_no_say_in_what_a_constant_is():
    with torch.device("meta"):
        parameter = Parameter(initializer(0.3, [2], "bfloat16"), "w")
        clone = parameter.clone(dtype="float32")
    assert clone.init_data(device="cpu").tolist() == parameter.init_data(device="cpu").tolist()


def test_whole_numbers_beyond_what_float64_holds_are_rounded_once():
    parameter = Parameter(initializer(2**54 + 2**30 + 1, [2], "int64"), "w")
    clone = parameter.clone(dtype="float32")
    assert torch.equal(clone.init_data().torch, parameter.init_data().torch.to(torch.float32))


@pytest.mark.parametrize("lazy", [True, False])
def test_boxes_of_a_rounded_clone_are_parts_of_it(lazy, monkeypatch):
    """Drawn piece by piece, whatever the pieces."""
    with Generator(1):
        clone = normal("w", (30, 7), "bfloat16").clone(dtype="float32")
    part = clone.slice(Box((4, 2), (20, 3)))
    monkeypatch.setattr(_writes, "_AT_ONCE", 5)
    again = clone.slice(Box((4, 2), (20, 3)))
    if not lazy:
        clone.init_data()
    assert torch.equal(part.torch, again.torch)
    assert torch.equal(part.torch, clone.init_data().torch[4:24, 2:5])


def test_optimizer_state_in_another_dtype():
    group = ParameterTuple([normal("w", dtype="bfloat16").init_data(), Parameter([1, 2], "n")])
    state = group.clone("exp_avg", init="zeros", dtype=torch.float32)
    assert [str(p) for p in state] == [
        "Parameter (name=exp_avg.w, shape=(2, 3), dtype=Float32, requires_grad=True)",
        "Parameter (name=exp_avg.n, shape=(2,), dtype=Float32, requires_grad=True)",
    ]
    assert [p.tolist() for p in state] == [[[0] * 3] * 2, [0, 0]]


@pytest.mark.parametrize("init", ["same", "zeros", Normal()])
@pytest.mark.parametrize(
    ("own", "wanted"),
    [("float32", "int32"), ("float64", "bool_"), ("int64", "int32"), ("uint8", "int8"), ("int8", "bool_")],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_dtype_that_loses_the_kind_is_refused(own, wanted, init, lazy):
    parameter = Parameter(initializer("ones", [2], own), "w")
    member = parameter if lazy else parameter.init_data()
    with Generator(0) as generator:
        for clone in (lambda: member.clone(init, wanted), lambda: ParameterTuple([member]).clone("m", init, wanted)):
            with pytest.raises(
                TypeError, match=rf"dtype must .* {member.dtype} goes into, got {mstype.as_dtype(wanted)}"
            ):
                clone()
        assert not generator._occurrences
    with pytest.raises(ValueError, match="dtype must be one of"):
        member.clone(init, "float31")


def test_init_tensor_must_go_into_the_dtype_of_the_clone():
    parameter, values = normal(dtype="bfloat16").init_data(), np.full((2, 3), 1 / 3, np.float32)
    with pytest.raises(TypeError, match="init must be of dtype BFloat16"):
        parameter.clone(Tensor(values))
    assert parameter.clone(Tensor(values), "float32").asnumpy().tobytes() == values.tobytes()
