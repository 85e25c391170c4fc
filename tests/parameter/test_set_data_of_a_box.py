"""set_data of a box: it is overwritten and nothing else, whatever the data, and a refusal changes nothing."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tests.parameter.contents import drawn, state
from tests.parameter.declared import normal
from tritonparam import Box, Generator, Parameter, derive_key
from tritonparam.initializer import HeNormal, Normal, initializer


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["float32", "bfloat16", "float64"]), st.booleans(), st.booleans())
def test_box_is_overwritten_and_nothing_else(data, dtype, lazy, numpy):
    """Against NumPy; a lazy parameter has its own values outside."""
    with Generator(1):
        parameter = normal("w", (5, 4), dtype)
    want = copy.deepcopy(parameter).init_data().torch.detach().clone()
    if not lazy:
        parameter.init_data()
    storage = parameter.torch
    for _ in range(2):
        offsets = tuple(data.draw(st.integers(0, n)) for n in want.shape)
        sizes = tuple(data.draw(st.integers(0, n - o)) for n, o in zip(want.shape, offsets, strict=True))
        values = np.random.default_rng(0).integers(-9, 9, sizes)
        want[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))] = torch.from_numpy(values).to(want)
        assert parameter.set_data(values if numpy else torch.from_numpy(values), box=Box(offsets, sizes)) is parameter
        assert torch.equal(parameter.torch, want)
    assert (parameter.torch is storage, parameter.sliced) == (True, False)


def test_box_takes_numbers_lazy_tensors_and_initializers():
    """A number everywhere; a lazy tensor of the box's shape by this name; an initializer's part of the whole."""
    parameter = normal("w", (6, 4)).init_data()
    parameter.sliced = True
    box, before = Box((2, 1), (3, 2)), parameter.torch.detach().clone()
    chunk = ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.sizes))
    assert parameter.set_data(5, box=chunk).asnumpy()[2:5, 1:3].tolist() == [[5] * 2] * 3
    with Generator(7):
        parameter.set_data(HeNormal(), box=box)
    np.testing.assert_array_equal(
        box.of(parameter.torch).detach(), box.of(drawn(HeNormal().law((6, 4)), key("w"), (6, 4)))
    )
    with Generator(7):
        parameter.set_data(initializer("normal", [3, 2]), box=box)
    np.testing.assert_array_equal(box.of(parameter.torch).detach(), drawn(Normal().law((3, 2)), key("w"), (3, 2)))
    source = normal("other", (3, 2), "float16")
    parameter.set_data(source, box=box)
    np.testing.assert_array_equal(box.of(parameter.torch).detach(), source.asnumpy().astype(np.float32))
    parameter.set_data(box.of(before), box=box)
    assert torch.equal(parameter.torch, before)
    assert parameter.sliced


def key(name):
    return derive_key(7, name, 0)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_box_can_be_set_to_another_box_of_the_same_parameter(layout):
    """Read as a whole before any of it is written."""
    parameter = Parameter(np.arange(16, dtype=np.float32).reshape(4, 4), "w")
    if layout == "transposed":
        parameter.torch.data = parameter.torch.data.T.contiguous().T
    want = parameter.asnumpy().copy()
    for source in (lambda: parameter.torch[:3], lambda: parameter.asnumpy()[:3], lambda: parameter.torch.T[:3]):
        values = torch.as_tensor(source()).detach().clone().numpy()
        parameter.set_data(source(), box=Box((1, 0), (3, 4)))
        want[1:] = values
        np.testing.assert_array_equal(parameter.asnumpy(), want)


@pytest.mark.parametrize(
    ("data", "options", "error", "text"),
    [
        (torch.ones(2, 2), {}, ValueError, r"the shape of box, \(1, 2\), or be a number, got \(2, 2\)"),
        (initializer("ones", [2, 3]), {}, ValueError, "the shape of box"),
        (torch.ones(1, 2, dtype=torch.float64), {}, TypeError, "Float64"),
        (np.ones((1, 2)), {}, TypeError, "Float64"),
        (1e300, {}, ValueError, "fit into"),
        ("zeros", {}, TypeError, "data must be a Tensor"),
        (torch.ones(1, 2), {"slice_shape": True}, ValueError, "slice_shape must be False"),
        (torch.ones(1, 2), {"slice_shape": 0}, TypeError, "slice_shape must be a bool"),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_bad_data_for_a_box_change_nothing(data, options, error, text, lazy):
    parameter = normal() if lazy else normal().init_data()
    before = state(parameter)
    with Generator(0) as generator:
        with pytest.raises(error, match=text):
            parameter.set_data(data, **options, box=Box((1, 1), (1, 2)))
        assert not generator._occurrences
    assert state(parameter) == before
