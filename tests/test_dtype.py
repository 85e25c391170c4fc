"""The dtype objects: MindSpore's text, torch's meaning."""

import copy
import pickle

import numpy as np
import pytest
import torch

import tritonparam
from tritonparam import dtype as mstype
from tritonparam.checkpoint import UsageError, parse_dtype
from tritonparam.initializer import initializer

TEXTS = {
    "bool_": ("Bool", torch.bool),
    "int8": ("Int8", torch.int8),
    "int16": ("Int16", torch.int16),
    "int32": ("Int32", torch.int32),
    "int64": ("Int64", torch.int64),
    "uint8": ("UInt8", torch.uint8),
    "uint16": ("UInt16", torch.uint16),
    "uint32": ("UInt32", torch.uint32),
    "uint64": ("UInt64", torch.uint64),
    "float16": ("Float16", torch.float16),
    "float32": ("Float32", torch.float32),
    "float64": ("Float64", torch.float64),
    "bfloat16": ("BFloat16", torch.bfloat16),
    "float8_e4m3fn": ("Float8E4M3FN", torch.float8_e4m3fn),
    "float8_e5m2": ("Float8E5M2", torch.float8_e5m2),
}
NOT_IN_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


@pytest.mark.parametrize("name", TEXTS)
def test_every_spelling_of_a_dtype_gives_the_one_object(name):
    """Name, printed name, torch dtype, torch's text and NumPy's dtype and scalar type all lead to the same object."""
    text, torch_dtype = TEXTS[name]
    dtype = getattr(mstype, name)
    assert str(dtype) == text
    assert repr(dtype) == f"mindspore.{name}"
    spellings = [dtype, name, text, name.upper(), torch_dtype, str(torch_dtype)]
    if name not in NOT_IN_NUMPY:
        spellings += [np.dtype(name.rstrip("_")), np.dtype(name.rstrip("_")).type]
    assert all(mstype.as_dtype(spelling) is dtype for spelling in spellings)
    assert dtype.itemsize == torch_dtype.itemsize


def test_dtypes_are_equal_to_themselves_and_to_their_torch_dtype_only():
    """Equality and hash agree with torch's, in both directions."""
    for name, (_, torch_dtype) in TEXTS.items():
        dtype = getattr(mstype, name)
        assert dtype == torch_dtype
        assert torch_dtype == dtype
        assert {dtype: 1}[torch_dtype] == 1
        equals = [other for other in TEXTS if getattr(mstype, other) == dtype]
        assert equals == [name]
    assert mstype.float32 != "float32"


def test_copies_are_the_same_object_and_nothing_can_be_changed():
    assert copy.deepcopy(mstype.int8) is mstype.int8
    assert pickle.loads(pickle.dumps(mstype.bfloat16)) is mstype.bfloat16
    with pytest.raises(AttributeError, match="cannot be changed"):
        mstype.int8.name = "int9"


@pytest.mark.parametrize("name", TEXTS)
def test_numpy_counterpart(name):
    """NumPy's dtype of the same values where it has one, a TypeError that says so where not."""
    dtype = getattr(mstype, name)
    if dtype.in_numpy:
        assert torch.from_numpy(np.zeros(1, dtype.numpy)).dtype is dtype.torch
    else:
        assert name in NOT_IN_NUMPY
        with pytest.raises(TypeError, match=str(dtype)):
            _ = dtype.numpy


@pytest.mark.parametrize("bad", [torch.complex64, np.complex128, np.dtype("datetime64[s]"), float, 3, None])
def test_other_types_are_refused_with_a_type_error(bad):
    with pytest.raises(TypeError, match="dtype must be one of bool_"):
        mstype.as_dtype(bad)


@pytest.mark.parametrize("bad", ["", "real", "complex64", "torch.", "float33"])
def test_other_strings_are_refused_with_a_value_error(bad):
    with pytest.raises(ValueError, match="dtype must be one of bool_"):
        mstype.as_dtype(bad)


SHORT = {
    "bf16": torch.bfloat16,
    **dict.fromkeys(("fp16", "f16", "half", "torch.half", "HALF"), torch.float16),
    **dict.fromkeys(("fp32", "f32", "float", "torch.float"), torch.float32),
    **dict.fromkeys(("fp64", "f64", "double", "torch.double"), torch.float64),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_name_is_taken_wherever_a_dtype_is(name, tmp_path):
    """In Python and on the command line, by one table."""
    want = SHORT[name]
    assert mstype.as_dtype(name) == want
    assert mstype.as_float(name) == parse_dtype(name) == want
    assert tritonparam.Parameter(tritonparam.Tensor([1.0], name)).dtype == want
    assert initializer("ones", [2], name).init_data().dtype == want
    with tritonparam.deferred_init():
        module, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    tritonparam.materialize(module, dtype=name)
    assert module.weight.dtype == want
    tritonparam.save(module, tmp_path / "m", dtype=name)
    tritonparam.load(other, tmp_path / "m", dtype=name)
    assert other.weight.dtype == want


@pytest.mark.parametrize(
    ("name", "close"),
    [("bf61", "bf16"), ("flaot32", "float32"), ("torch.float8_e4m3", "float8_e4m3fn"), ("fp31", "fp32")],
)
def test_an_unknown_name_is_told_the_names_and_a_close_one(name, close):
    ending = rf".*float16 \(fp16, f16, half\), .*bf16.*, got {name!r}; did you mean {close!r}\?$"
    for refused in (mstype.as_dtype, mstype.as_float, lambda text: initializer("ones", [2], text)):
        with pytest.raises(ValueError, match=rf"^dtype must be one of {ending}"):
            refused(name)
    with pytest.raises(UsageError, match=rf"^--dtype must be one of {ending}"):
        parse_dtype(name, "--dtype")


def test_a_name_that_is_close_to_none_is_told_the_names_alone():
    with pytest.raises(ValueError, match=r"float8_e5m2, got 'x{50}'$"):
        mstype.as_float("x" * 50)
