"""Storage: torch tensors made of shapes and of data, and constants made to fit their dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from tritonparam._arguments import got, shown
from tritonparam.dtype import DType, as_dtype, bool_, float32
from tritonparam.plan import ask_for_huge_pages, check_memory, check_strided
from tritonparam.stream import Constant, constant_tensor
from tritonparam.tensor.content import Content

if TYPE_CHECKING:
    import numpy.typing as npt


def as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """`shape` as a tuple of Python ints.

    Raises:
        ValueError: shape is neither an int nor a list or tuple, or an entry is not an int >= 1.

    Examples:
        >>> as_shape(3), as_shape([2, 3]), as_shape([])
        ((3,), (2, 3), ())
    """
    sizes = (shape,) if isinstance(shape, (Integral, float)) else shape
    if not isinstance(sizes, (list, tuple)):
        raise ValueError(f"shape must be an int or a list or tuple of ints, {got(shape)}")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(f"shape must hold ints >= 1, got {shown(shape)}")
    return tuple(int(size) for size in sizes)


def empty(shape: tuple[int, ...], dtype: DType, device: torch.device | str) -> torch.Tensor:
    """Storage that autograd accepts, whatever mode the caller is in."""
    with torch.inference_mode(False):
        return ask_for_huge_pages(torch.empty(shape, dtype=dtype.torch, device=device))


def declare(shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
    """Storage of no bytes for a lazy tensor: it has the shape and the dtype, on the meta device."""
    if math.prod(shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"shape must come to less than 2**63 bytes, got {shown(shape)} of {dtype}")
    return empty(shape, dtype, "meta")


@overload
def fit(law: Constant, dtype: DType) -> Constant: ...


@overload
def fit(law: Content, dtype: DType) -> Content: ...


def fit(law: Content, dtype: DType) -> Content:
    """The law as tensors of `dtype` can have it: a constant is cut to an integer, or to a bool, for these.

    Raises:
        ValueError: dtype cannot hold the constant.
    """
    if not isinstance(law, Constant):
        return law
    if dtype is bool_:
        law = Constant(bool(law.value))
    elif not dtype.is_floating_point and (isinstance(law.value, int) or math.isfinite(law.value)):
        law = Constant(int(law.value))
    constant_tensor(law, dtype.torch)
    return law


def _copy_of_numbers(argument: str, data: Any, dtype: DType | None) -> torch.Tensor:
    """Python numbers, nested or not, as storage: ints Int64, floats Float32, bools Bool unless dtype says else."""
    if isinstance(data, int) and not -(2**63) <= data < 2**64:
        raise ValueError(f"{argument} must fit into 64 bits, got {shown(data)}")
    try:
        array = np.asarray(data)
    except Exception as error:  # ragged, too deep, or what an entry of the user's raises
        raise ValueError(f"{argument} must hold numbers, in lists of equal length, got {shown(data)}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold numbers, got {shown(data)}")
    if dtype is None:
        dtype = float32 if array.dtype == np.float64 else as_dtype(array.dtype, f"the dtype of {argument}")
    if array.dtype.kind in "iu" and array.size and dtype is not bool_ and not dtype.is_floating_point:
        bounds = torch.iinfo(dtype.torch)
        for extreme in (array.min(), array.max()):
            if not bounds.min <= int(extreme) <= bounds.max:
                raise ValueError(f"{argument} must be in [{bounds.min}, {bounds.max}] for {dtype}, got {int(extreme)}")
    return copy_of_array(array).to(dtype.torch)


def copy_of_array(array: npt.NDArray[Any], argument: str = "dtype") -> torch.Tensor:
    """A NumPy array of any strides and byte order as storage of its own.

    Raises:
        TypeError: Its dtype is none of `tritonparam.dtype`.
    """
    dtype = as_dtype(array.dtype, argument)
    copied = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if array.dtype.kind == "u" and dtype.in_numpy:  # NumPy has two of 64 bits, and torch takes one
        copied = copied.view(dtype.numpy)
    if not dtype.in_numpy:  # from ml_dtypes, whose arrays torch takes as bits only
        return torch.from_numpy(copied.view(f"u{dtype.itemsize}")).view(dtype.torch)
    return torch.from_numpy(copied)


def copy_of_data(argument: str, data: Any, dtype: DType | None = None) -> torch.Tensor:
    """Storage of its own with the values of `data`, in `dtype` if that is given.

    Raises:
        TypeError: data is nothing that holds numbers, or of a dtype that is none of `tritonparam.dtype`.
        ValueError: A number does not fit into the dtype, a list is ragged or too deep, or a torch tensor has no values
            in memory as its strides say: see `check_memory`.
    """
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(data, torch.Tensor):
            check_strided(argument, data)
            values = check_memory(argument, data.detach().resolve_neg())
            wanted = as_dtype(values.dtype, f"the dtype of {argument}") if dtype is None else dtype
            return values.to(wanted.torch, copy=True)
        if isinstance(data, (np.ndarray, np.generic)) and not isinstance(data, float):
            storage = copy_of_array(np.asarray(data), f"the dtype of {argument}")
            return storage if dtype is None else storage.to(dtype.torch)
        if isinstance(data, (bool, int, float, list, tuple)):
            return _copy_of_numbers(argument, data, dtype)
    raise TypeError(
        f"{argument} must be a Tensor, a torch tensor, a NumPy array, a number or a list or tuple of numbers, "
        f"{got(data)}"
    )
