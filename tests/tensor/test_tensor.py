"""Tensor: MindSpore's tensor over torch storage, which takes no memory until its values are asked for."""

import copy
import operator
import pickle
import random
import threading
import weakref

import numpy as np
import pytest
import torch

from tritonparam import Fill, Generator, Plan, Tensor, derive_key, set_seed
from tritonparam import dtype as mstype
from tritonparam.initializer import Normal, One, initializer

FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def drawn(law, key, shape, dtype=torch.float32):
    """What a plan writes for (law, key, shape)."""
    out = torch.full(shape, 7, dtype=dtype)
    Plan([Fill(out, law, key)]).run()
    return out


@pytest.mark.parametrize(
    ("data", "shape", "dtype"),
    [
        (3, (), "Int64"),
        (2.5, (), "Float32"),
        (True, (), "Bool"),
        (np.float64(2.5), (), "Float32"),
        (np.int16(3), (), "Int16"),
        ([1, 2], (2,), "Int64"),
        ([[1.5], [2]], (2, 1), "Float32"),
        ((True, False), (2,), "Bool"),
        ([], (0,), "Float32"),
        (np.arange(6).reshape(2, 3), (2, 3), "Int64"),
        (np.ones((2,)), (2,), "Float64"),
        (np.ones((2,), ">f4"), (2,), "Float32"),
        (np.zeros((0, 3), np.uint16), (0, 3), "UInt16"),
        (torch.ones(2, 1, dtype=torch.bfloat16), (2, 1), "BFloat16"),
        (torch.ones(2, requires_grad=True), (2,), "Float32"),
        (Tensor([1, 2]), (2,), "Int64"),
    ],
)
def test_data_gives_shape_and_dtype(data, shape, dtype):
    tensor = Tensor(data)
    assert (tensor.shape, str(tensor.dtype), tensor.has_init) == (shape, dtype, False)
    want = data.float().detach() if isinstance(data, torch.Tensor) else data
    np.testing.assert_array_equal(tensor.torch.float().numpy(), np.asarray(want, np.float32))


def test_metadata_are_those_of_numpy():
    tensor = Tensor(np.zeros((3, 2), np.float32))
    assert (len(tensor), tensor.size, tensor.ndim, tensor.nbytes, tensor.itemsize) == (3, 6, 2, 24, 4)
    with pytest.raises(TypeError, match="at least 1 dimension"):
        len(Tensor(1.0))


@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy, lambda a: a.T, lambda a: torch.from_numpy(a).T])
def test_data_are_copied(make):
    array = np.ones((2, 2), np.float32)
    source = make(array)
    tensor = Tensor(source)
    array[0, 0] = 9
    source[1, 1] = 9
    assert tensor.asnumpy().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dtype", ["int8", torch.float64, np.uint32, mstype.bfloat16])
def test_dtype_converts_data_of_any_kind(dtype):
    for data in ([1, 2], np.array([1.0, 2.0]), torch.tensor([1, 2]), Tensor([1, 2])):
        tensor = Tensor(data, dtype)
        assert tensor.dtype is mstype.as_dtype(dtype)
        assert tensor.torch.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"input_data": "abc"}, TypeError),
        ({"input_data": {"a": 1}}, TypeError),
        ({"input_data": 1j}, TypeError),
        ({"input_data": ["a"]}, TypeError),
        ({"input_data": np.array(["a"])}, TypeError),
        ({"input_data": torch.ones(2, dtype=torch.complex64)}, TypeError),
        ({"input_data": Normal()}, TypeError),
        ({"input_data": [[1], [2, 3]]}, ValueError),
        ({"input_data": 2**64}, ValueError),
        ({"input_data": 300, "dtype": "uint8"}, ValueError),
        ({"input_data": [0, -1], "dtype": "uint64"}, ValueError),
        ({"input_data": 1, "dtype": "nosuch"}, ValueError),
        ({"input_data": 1, "shape": ()}, ValueError),
        ({"init": One()}, ValueError),
        ({"init": One(), "shape": (2,)}, ValueError),
        ({"init": One(), "dtype": "float32"}, ValueError),
        ({"input_data": 1, "init": One(), "dtype": "float32", "shape": (2,)}, ValueError),
        ({"init": One, "dtype": "float32", "shape": (2,)}, TypeError),
        ({"init": "ones", "dtype": "float32", "shape": (2,)}, TypeError),
    ],
)
def test_bad_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        Tensor(**arguments)


def test_lazy_tensor_of_ten_terabytes_takes_no_memory():
    """Shape, dtype, size and print of 10 TB; storage of zero bytes; printing does not ask for values."""
    tensor = Tensor(shape=(2_500_000, 1_000_000), dtype=mstype.float32, init=Normal())
    assert (tensor.shape, tensor.size, tensor.nbytes) == ((2_500_000, 1_000_000), 2_500_000_000_000, 10**13)
    assert tensor.torch.device.type == "meta"
    want = "Tensor(shape=[2500000, 1000000], dtype=Float32, value=<uninitialized>)"
    assert (str(tensor), repr(tensor)) == (want, want)
    assert tensor.has_init
    with pytest.raises(ValueError, match="2\\*\\*63"):
        Tensor(shape=(2**31, 2**31), dtype="float16", init=One())


TOUCHES = {
    "init_data": lambda t: t.init_data(),
    "asnumpy": lambda t: t.asnumpy(),
    "numpy": np.asarray,
    "operator": lambda t: t + 1,
    "reflected": lambda t: 1 - t,
    "negation": operator.neg,
    "comparison": lambda t: t == 1,
    "index": lambda t: t[0],
    "assignment": lambda t: t.__setitem__(slice(0, 0), 1.0),
    "iteration": list,
    "torch function": torch.exp,
    "nested in a torch function": lambda t: torch.cat([torch.zeros(1, 3), t]),
    "copy": Tensor,
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_touching_values_makes_the_tensor_real(touch):
    """Each way of asking gives the values of (seed, "", occurrence), and the torch tensor stays the same object."""
    with Generator(3):
        initializer("normal", [5])
        tensor = initializer("normal", [2, 3])
    storage = tensor.torch
    touch(tensor)
    assert not tensor.has_init
    assert tensor.torch is storage
    assert torch.equal(storage, drawn(Normal().law((2, 3)), derive_key(3, "", 1), (2, 3)))


def test_values_do_not_depend_on_when_they_are_asked_for():
    with Generator(3):
        first, second = initializer("normal", [50]), initializer("normal", [50])
        third = initializer("normal", [50])
    with Generator(3):
        again = [initializer("normal", [50]) for _ in range(3)]
    set_seed(8)
    values = [tensor.asnumpy() for tensor in (third, first, second)]
    for got, want in zip(values, (again[2], again[0], again[1]), strict=True):
        np.testing.assert_array_equal(got, want.asnumpy())
    assert not np.array_equal(values[0], values[1])
    set_seed(0)


def test_init_data_twice_is_a_type_error():
    tensor = initializer("ones", [2])
    assert tensor.init_data(device="cpu", backend="numpy") is tensor
    with pytest.raises(TypeError, match="values already"):
        tensor.init_data()


@pytest.mark.parametrize("place", [{"device": "nosuch"}, {"device": "meta"}, {"backend": "nosuch"}])
def test_bad_device_or_backend_leaves_the_tensor_lazy(place):
    tensor = initializer("ones", [2])
    with pytest.raises(ValueError, match="must be"):
        tensor.init_data(**place)
    assert tensor.has_init
    assert tensor.torch.is_meta
    assert tensor.asnumpy().tolist() == [1, 1]


def test_storage_stays_one_object_with_its_attributes_and_weak_references():
    """torch swaps no tensor that C++ refers to weakly: then nothing changes, and it works once that is gone."""
    tensor = initializer("ones", [2])
    tensor.torch.note = "kept"
    reference = weakref.ref(tensor.torch)
    inner = torch._C._WeakTensorRef(tensor.torch)
    with pytest.raises(RuntimeError, match="weakref"):
        tensor.init_data()
    assert tensor.has_init
    assert tensor.torch.is_meta
    del inner
    tensor.init_data()
    assert (tensor.torch.tolist(), tensor.torch.note, reference() is tensor.torch) == ([1, 1], "kept", True)


def test_two_threads_make_one_tensor_real_once(monkeypatch):
    """The second waits and finds it real: no values are drawn twice, no write is lost."""
    tensor, runs, run = initializer("normal", [100]), [], Plan.run
    start = threading.Barrier(2)

    def counted(plan):
        runs.append(plan)
        run(plan)

    def ask():
        start.wait()
        tensor.asnumpy()

    monkeypatch.setattr(Plan, "run", counted)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_float_dtype_holds_what_a_plan_writes(dtype):
    with Generator(3):
        tensor = initializer(Normal(1.0), [40], dtype).init_data()
    want = drawn(Normal(1.0).law((40,)), derive_key(3, ""), (40,), mstype.as_dtype(dtype).torch)
    assert torch.equal(tensor.torch.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("dtype", FLOATS[3:])
def test_asnumpy_of_a_dtype_that_numpy_has_not(dtype):
    """A TypeError before anything becomes real; printing works all the same."""
    tensor = initializer(2, [2], dtype)
    with pytest.raises(TypeError, match="Float32"):
        tensor.asnumpy()
    assert tensor.has_init
    assert str(tensor.init_data()) == "[2. 2.]"


def test_asnumpy_and_numpy_share_memory_with_the_tensor():
    tensor = Tensor([1.0, 2.0])
    tensor.asnumpy()[0] = 9
    np.asarray(tensor)[1] = 8
    assert tensor.torch.tolist() == [9, 8]
    assert np.array(tensor, dtype=np.int32).tolist() == [9, 8]
    copied = np.array(tensor)
    copied[0] = 1
    assert tensor.torch.tolist() == [9, 8]


@pytest.mark.parametrize(
    ("tensor", "text", "representation"),
    [
        (
            Tensor(np.ones((2, 2), np.float32)),
            "[[1. 1.]\n [1. 1.]]",
            "Tensor(shape=[2, 2], dtype=Float32, value=\n[[ 1.00000000e+00,  1.00000000e+00],\n"
            " [ 1.00000000e+00,  1.00000000e+00]])",
        ),
        (
            Tensor(np.ones((2,), np.float32)),
            "[1. 1.]",
            "Tensor(shape=[2], dtype=Float32, value= [ 1.00000000e+00,  1.00000000e+00])",
        ),
        (Tensor([1, -2]), "[ 1 -2]", "Tensor(shape=[2], dtype=Int64, value= [ 1, -2])"),
        (Tensor(2.5), "2.5", "Tensor(shape=[], dtype=Float32, value= 2.5)"),
        (Tensor(True), "True", "Tensor(shape=[], dtype=Bool, value= True)"),
    ],
)
def test_prints_as_mindspore_does(tensor, text, representation):
    assert (str(tensor), repr(tensor)) == (text, representation)


@pytest.mark.parametrize("lazy", [True, False])
def test_set_dtype_changes_in_place_and_keeps_the_torch_object(lazy):
    """Of a lazy tensor it changes what will be drawn, and nothing becomes real."""
    with Generator(2):
        tensor = initializer(Normal(2.0), [30])
    storage = tensor.torch if lazy else tensor.init_data().torch
    before = None if lazy else storage.clone()
    assert tensor.set_dtype("float16") is tensor
    assert (tensor.has_init, tensor.torch is storage, str(tensor.dtype)) == (lazy, True, "Float16")
    want = drawn(Normal(2.0).law((30,)), derive_key(2, ""), (30,), torch.float16) if lazy else before.half()
    assert np.array_equal(tensor.asnumpy(), want.numpy())


def test_set_dtype_that_is_refused_changes_nothing():
    tensor = initializer(300, [2])
    with pytest.raises(ValueError, match="300"):
        tensor.set_dtype("uint8")
    assert (str(tensor.dtype), tensor.asnumpy().tolist()) == ("Float32", [300, 300])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_have_storage_of_their_own_and_the_same_values_to_come(duplicate):
    real, lazy = Tensor([1.0, 2.0]), initializer("normal", [20])
    other, later = duplicate(real), duplicate(lazy)
    real[0] = 9
    assert other.torch.tolist() == [1, 2]
    assert later.has_init
    values = lazy.asnumpy().copy()
    assert later.has_init
    lazy[0] = 9
    assert np.array_equal(later.asnumpy(), values)


def test_tensors_made_real_in_inference_mode_can_be_trained_later():
    with torch.inference_mode():
        tensors = [initializer("ones", [2]), initializer("normal", [2], "int8"), Tensor([1.0])]
        for tensor in tensors:
            tensor.asnumpy()
    assert not any(tensor.torch.is_inference() for tensor in tensors)


def test_default_device_of_torch_is_where_values_go():
    tensor = initializer("ones", [2])
    with torch.device("meta"), pytest.raises(ValueError, match="meta"):
        tensor.asnumpy()
    assert tensor.has_init
    with torch.device("meta"):
        assert tensor.init_data(device="cpu").torch.tolist() == [1, 1]


def test_random_states_of_torch_numpy_and_python_are_neither_read_nor_changed():
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        with Generator(4):
            values.append(initializer("normal", [10]).asnumpy())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
        assert random.getstate() == before[2]
    np.testing.assert_array_equal(*values)
