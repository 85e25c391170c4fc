"""Tensor's methods: numbers, copies, shapes, dtypes, and the protocols of NumPy, torch and DLPack."""

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from tritonparam import Copy, Generator, Parameter, Tensor, derive_key, set_seed
from tritonparam import dtype as mstype
from tritonparam.initializer import Normal, initializer

NOT_IN_NUMPY = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
GRID = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda t: t.T, GRID.T),
        (lambda t: t.reshape(3, 2), GRID.reshape(3, 2)),
        (lambda t: t.reshape((3, -1)), GRID.reshape(3, 2)),
        (lambda t: t.reshape([6]), GRID.reshape(6)),
        (lambda t: t.view(1, 6), GRID.reshape(1, 6)),
        (lambda t: t.flatten(), GRID.reshape(6)),
        (Tensor.copy, GRID),
        (lambda t: t.astype("float32"), GRID),
        (lambda t: t.astype(mstype.int32), GRID.astype(np.int32)),
        (lambda t: t.astype(np.float64), GRID.astype(np.float64)),
    ],
)
@pytest.mark.parametrize("parameter", [False, True])
def test_results_are_tensors_with_storage_of_their_own(make, want, parameter):
    tensor = Parameter(Tensor(GRID), "w") if parameter else Tensor(GRID)
    got = make(tensor)
    assert type(got) is Tensor
    np.testing.assert_array_equal(got.torch.detach().numpy(), want)
    assert got.torch.dtype == torch.from_numpy(want).dtype
    assert got.torch.is_contiguous()
    got[...] = 9
    np.testing.assert_array_equal(tensor.asnumpy(), GRID)


def test_shapes_of_scalars():
    tensor = Tensor(2.5)
    assert (tensor.T.shape, tensor.flatten().shape, tensor.reshape(1, 1).shape, tensor.strides) == (
        (),
        (1,),
        (1, 1),
        (),
    )
    assert tensor.reshape(1).reshape(()).shape == ()


@pytest.mark.parametrize("shape", [(4,), (2, 2), (-1, 4)])
def test_reshape_to_another_size_is_a_value_error(shape):
    with pytest.raises(ValueError, match="6 elements"):
        Tensor(GRID).reshape(shape)


def test_reshape_to_what_is_no_shape_is_a_type_error():
    for shape in ((2.0, 3), ("6",)):
        with pytest.raises(TypeError):
            Tensor(GRID).reshape(shape)


def test_astype_copies_unless_told_not_to():
    tensor = Tensor(GRID)
    assert tensor.astype("float32", copy=False) is tensor
    assert tensor.astype("float16", copy=False) is not tensor
    with pytest.raises(ValueError, match="dtype must be"):
        tensor.astype("nosuch")


def test_item_and_tolist_give_python_numbers():
    tensor = Tensor(GRID)
    assert (tensor.item(4), tensor.item(-1), tensor.item((1, 2)), tensor.item(np.int64(2))) == (4.0, 5.0, 5.0, 2.0)
    assert tensor.tolist() == GRID.tolist()
    for data, want in ((True, bool), (3, int), ([[2.5]], float)):
        assert type(Tensor(data).item()) is want
    assert Tensor(1.5, "bfloat16").tolist() == 1.5


@pytest.mark.parametrize("index", [6, -7, (2, 0), (0,), (0, 0, 0)])
def test_item_of_no_element_is_an_index_error(index):
    with pytest.raises(IndexError):
        Tensor(GRID).item(index)


@pytest.mark.parametrize("data", [GRID, []])
def test_item_of_no_index_needs_exactly_one_element(data):
    with pytest.raises(ValueError, match="exactly one element"):
        Tensor(data).item()
    with pytest.raises(TypeError):
        Tensor(data).item("0")


def test_strides_count_bytes_of_real_and_lazy_tensors():
    assert Tensor(GRID).strides == GRID.strides
    assert initializer("normal", (2, 3), "bfloat16").strides == (6, 2)


@pytest.mark.parametrize("touch", [lambda t: t.T, lambda t: t.flatten(), lambda t: t.item(0), lambda t: t.tolist()])
def test_methods_make_lazy_tensors_real(touch):
    tensor = initializer("normal", (2, 3))
    storage = tensor.torch
    touch(tensor)
    assert not tensor.has_init
    assert tensor.torch is storage


def test_copy_of_a_lazy_parameter_is_a_lazy_tensor_with_the_same_values_to_come():
    parameter = Parameter(initializer("normal", (2, 3)), "w")
    other = Tensor.copy(parameter)
    assert other.has_init
    assert not isinstance(other, Parameter)
    assert torch.equal(other.init_data().torch, parameter.init_data().torch)


def test_gradients_flow_through_methods():
    parameter = Parameter(Tensor(GRID), "w")
    (parameter.T.reshape(6).astype("float64") * 2)[1].torch.backward()
    assert parameter.torch.grad.tolist() == [[0, 0, 0], [2, 0, 0]]


def test_assign_value_writes_in_place():
    tensor = Tensor(GRID)
    storage, array = tensor.torch, tensor.asnumpy()
    assert tensor.assign_value(Tensor(GRID + 1)) is tensor
    assert tensor.torch is storage
    np.testing.assert_array_equal(array, GRID + 1)
    for value, error in (
        (GRID, TypeError),
        (Tensor([[1, 2, 3]] * 2), TypeError),
        (Tensor(GRID.T), ValueError),
        (torch.zeros(()), ValueError),
        (torch.from_numpy(GRID).to_sparse(), ValueError),
        (torch.from_numpy(GRID).to("meta"), ValueError),
        (FakeTensorMode().from_tensor(torch.from_numpy(GRID)), ValueError),
    ):
        with pytest.raises(error, match="value must be"):
            tensor.assign_value(value)
    np.testing.assert_array_equal(array, GRID + 1)


@pytest.mark.parametrize("make", [lambda: Tensor(GRID), lambda: initializer("normal", (2, 3)), lambda: Parameter(2.0)])
def test_dlpack_shares_memory_with_numpy_and_torch(make):
    """A lazy tensor becomes real, and then says where it is."""
    tensor = make()
    given = torch.from_dlpack(tensor)
    assert torch.equal(given, tensor.torch.detach())
    assert given.data_ptr() == tensor.torch.data_ptr()
    assert not given.requires_grad
    assert np.from_dlpack(tensor).shape == tensor.shape
    assert tensor.__dlpack_device__() == torch.zeros(()).__dlpack_device__()


@pytest.mark.parametrize("dtype", NOT_IN_NUMPY)
def test_numpy_takes_what_it_has_not_as_another_dtype_or_not_at_all(dtype):
    tensor = Tensor([[1.5, -2.0]], dtype)
    for wanted in (np.float32, np.float64, "int8"):
        got = np.asarray(tensor, wanted)
        assert got.dtype == np.dtype(wanted)
        np.testing.assert_array_equal(got, np.array([[1.5, -2.0]], wanted))
    with pytest.raises(TypeError, match="Float32"):
        np.asarray(tensor)
    with pytest.raises(ValueError, match="copy must not be False"):
        tensor.__array__(np.float32, copy=False)


@pytest.mark.parametrize("dtype", NOT_IN_NUMPY)
def test_arrays_of_ml_dtypes_are_taken_bit_for_bit(dtype):
    """Every bit pattern there is, in either byte order of bfloat16's two."""
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype))
    count = 2 ** (8 * kind.itemsize)
    array = np.arange(count, dtype=f"u{kind.itemsize}").view(kind)[::-1]
    tensor = Tensor(array)
    assert tensor.dtype is getattr(mstype, dtype)
    want = np.ascontiguousarray(array).view(np.uint8)
    np.testing.assert_array_equal(tensor.torch.view(torch.uint8).numpy(), want)


@pytest.mark.parametrize("dtype", NOT_IN_NUMPY)
def test_narrow_floats_print_like_wide_ones(dtype):
    tensor = Tensor([1.5, -2.0], dtype)
    assert str(tensor) == "[ 1.5 -2. ]"
    assert repr(tensor) == f"Tensor(shape=[2], dtype={tensor.dtype}, value= [ 1.50000000e+00, -2.00000000e+00])"
    assert (tensor.tolist(), tensor.item(1), tensor.nbytes) == ([1.5, -2.0], -2.0, 2 * tensor.itemsize)


def test_a_name_makes_values_independent_of_what_was_made_before():
    """Tensors of one name are counted among themselves; a key is that of a Parameter of this name."""
    with Generator(3):
        first, second = (initializer("normal", [40], name="w") for _ in range(2))
    with Generator(3) as generator:
        initializer("normal", [40])
        Tensor(shape=[40], dtype="float32", init=Normal(), name="b")
        again = Tensor(shape=[40], dtype="float32", init=Normal(), name="w")
        assert generator._occurrences == {"": 1, "b": 1, "w": 1}
    with Generator(3):
        parameter = Parameter(initializer("normal", [40]), "w")
    assert first._key == again._key == parameter._key == derive_key(3, "w")
    assert second._key == derive_key(3, "w", 1)
    assert torch.equal(first.init_data().torch, parameter.init_data().torch)
    with pytest.raises(TypeError, match="name must be"):
        initializer("normal", [2], name=None)


def test_values_depend_on_the_flat_index_not_on_the_shape():
    """As in MindSpore: the same seed gives the same numbers in any shape."""
    values = []
    for shape in ([1000], [10, 100]):
        set_seed(42)
        values.append(initializer("uniform", shape).asnumpy().ravel())
    set_seed(0)
    np.testing.assert_array_equal(*values)


def test_assigned_values_are_read_before_they_are_written(plans):
    tensor = Tensor(np.arange(9).reshape(3, 3))
    want = tensor.asnumpy().T.copy()
    assert tensor.assign_value(tensor.torch.T) is tensor
    np.testing.assert_array_equal(tensor.asnumpy(), want)
    assert [type(operation) for plan in plans for operation in plan.operations] == [Copy, Copy]
