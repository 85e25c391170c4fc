"""Parameter.slice: a box of a parameter as a parameter of its own, of which the rest need not exist."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from tritonparam import Box, Generator, Parameter
from tritonparam.initializer import initializer


def weight(init="normal", shape=(8, 6), dtype="float32", name="w"):
    with Generator(4):
        return Parameter(initializer(init, shape, dtype), name)


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(["float32", "bfloat16", "int32"]), st.booleans())
def test_slices_of_slices_are_boxes_of_the_whole(data, dtype, lazy):
    """Bit for bit those of a NumPy slice, lazy or real; `box` says where they lie in the whole."""
    parameter, whole = weight(dtype=dtype), weight(dtype=dtype).init_data()
    part = parameter if lazy else parameter.init_data()
    array, start = whole.torch.detach(), [0, 0]
    for _ in range(data.draw(st.integers(1, 3))):
        offsets = tuple(data.draw(st.integers(0, n)) for n in part.shape)
        sizes = tuple(data.draw(st.integers(0, n - o)) for n, o in zip(part.shape, offsets, strict=True))
        part = part.slice(Box(offsets, sizes))
        array = array[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
        start = [s + o for s, o in zip(start, offsets, strict=True)]
        assert (part.box, part.global_shape) == (Box(tuple(start), sizes), (8, 6))
        assert torch.equal(bits(part.torch), bits(array))
        assert (part.sliced, part.has_init, part.inited_param) == (True, False, None)
    assert parameter.has_init == lazy


@pytest.mark.parametrize("init", ["identity", "orthogonal", "he_uniform", 3])
def test_patterns_and_fans_are_those_of_the_whole(init):
    part = weight(init).slice(Box((3, 2), (4, 3)))
    assert torch.equal(part.torch, weight(init).init_data().torch[3:7, 2:5])


@pytest.mark.parametrize("lazy", [True, False])
def test_flags_go_along_and_nothing_is_shared(lazy):
    parameter = weight()
    parameter.requires_grad, parameter.layerwise_parallel, parameter.comm_fusion = False, True, 3
    if not lazy:
        parameter.init_data()
    part = parameter.slice(ChunkStorageMetadata(torch.Size([1, 2]), torch.Size([3, 2])))
    assert str(part) == "Parameter (name=w, shape=(3, 2), dtype=Float32, requires_grad=False)"
    assert (part.layerwise_parallel, part.comm_fusion, type(part.torch)) == (True, 3, torch.nn.Parameter)
    assert part.torch.is_contiguous()
    assert part.torch.untyped_storage().nbytes() == 24
    part[...] = 9
    assert (parameter.asnumpy() != 9).all()


def test_ten_terabytes_can_be_sliced_and_stay_lazy(plans):
    parameter = weight(shape=(2_500_000, 1_000_000))
    part = parameter.slice(Box((2_000_000, 999_990), (3, 10)))
    assert parameter.has_init
    assert part.shape == (3, 10)
    assert len(plans) == 1
    assert [operation.out.numel() for operation in plans[0].operations] == [30]


def test_slice_of_what_a_layout_cut_lies_in_the_whole():
    layout = ([2, 2], [1, 0], [4, 3], 0, True, "")
    local = weight().init_data(layout, rank=3)
    part = local.slice(Box((1, 1), (2, 2)))
    assert (part.box, part.global_shape) == (Box((5, 4), (2, 2)), (8, 6))
    assert torch.equal(part.torch, weight().init_data().torch[5:7, 4:6])


def test_place_goes_where_the_shape_does():
    part = weight().slice(Box((1, 1), (2, 2)))
    part.set_data(np.zeros((2, 2), np.float32))
    part.set_data(1.0, box=Box((0, 0), (1, 1)))
    assert (part.box.offsets, part.sliced) == ((1, 1), False)
    part.set_data(np.zeros((3, 3), np.float32), slice_shape=True)
    assert (part.box, part.global_shape) == (Box((0, 0), (3, 3)), (3, 3))
    part.set_data(np.zeros((2, 2), np.float32), slice_shape=True)
    assert (part.box, part.global_shape) == (Box((0, 0), (2, 2)), (2, 2))
    other = weight().slice(Box((1, 1), (2, 2)))
    other.torch.data = torch.zeros(5)
    assert (other.box, other.global_shape) == (Box((0,), (5,)), (5,))


def test_slice_of_a_negative_view_has_its_values():
    parameter = Parameter(torch.zeros(2), "w")
    parameter.torch.data = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert parameter.slice(Box((1,), (1,))).torch.tolist() == [-4]


def test_slice_trains_alone():
    parameter = weight().init_data()
    part = parameter.slice(Box((0, 0), (2, 6)))
    optimizer = torch.optim.SGD([part.torch], lr=1.0)
    part.torch.sum().backward()
    optimizer.step()
    assert parameter.torch.grad is None
    assert torch.equal(part.torch, parameter.torch[:2] - 1)


@pytest.mark.parametrize(
    ("box", "error"),
    [
        (Box((0, 0), (9, 1)), ValueError),
        (Box((-1, 0), (1, 1)), ValueError),
        (Box((0,), (1,)), ValueError),
        (None, TypeError),
        ((0, 0), TypeError),
    ],
)
@pytest.mark.parametrize("lazy", [True, False])
def test_what_is_no_box_of_it_is_refused(box, error, lazy):
    parameter = weight() if lazy else weight().init_data()
    with pytest.raises(error, match="box must"):
        parameter.slice(box)
    if box is not None:
        with pytest.raises(error, match="box must"):
            parameter.set_data(1.0, box=box)
    with pytest.raises(ValueError, match="backend must"):
        parameter.slice(Box((0, 0), (1, 1)), backend="nosuch")
    with pytest.raises(ValueError, match="device must"):
        parameter.slice(Box((0, 0), (1, 1)), device="nosuch")
    with pytest.raises(ValueError, match="device must be a cpu or cuda device, got 'meta'"):
        parameter.slice(Box((0, 0), (1, 1)), device="meta")
    assert parameter.has_init == lazy


@pytest.mark.gpu
def test_device_of_a_slice():
    for parameter in (weight(), weight().init_data(device="cpu")):
        part = parameter.slice(Box((1, 1), (2, 2)), device="cuda")
        assert part.torch.is_cuda
        assert torch.equal(part.torch.cpu(), weight().init_data(device="cpu").torch[1:3, 1:3])
