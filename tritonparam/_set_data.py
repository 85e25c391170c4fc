"""What a parameter may be set to: which kinds of data, and which dtypes go into which without being asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tritonparam import dtype as mstype
from tritonparam._constant import constant_tensor
from tritonparam._initializers import Initializer
from tritonparam._law import Constant
from tritonparam._storage import copy_of_array, copy_of_data, declare, fit
from tritonparam.dtype import DType, as_dtype, float32, int32
from tritonparam.generator import Generator
from tritonparam.initializer import initializer
from tritonparam.tensor import Device, Tensor, TorchTensor, realize

# MindSpore's ladder, with the dtypes that it leaves out put between their neighbours in width. A dtype takes what
# stands on lower steps, even where that costs precision (Int64 into Float16). Of two on one step neither has all the
# values of the other, so they do not mix.
_STEPS = (
    (mstype.bool_,),
    (mstype.int8,),
    (mstype.uint8,),
    (mstype.int16,),
    (mstype.uint16,),
    (mstype.int32,),
    (mstype.uint32,),
    (mstype.int64,),
    (mstype.uint64,),
    (mstype.float8_e4m3fn, mstype.float8_e5m2),
    (mstype.float16, mstype.bfloat16),
    (mstype.float32,),
    (mstype.float64,),
)
_STEP = {dtype: step for step, dtypes in enumerate(_STEPS) for dtype in dtypes}


def takes(own: DType, incoming: DType) -> bool:
    """Whether a parameter of dtype `own` may be set to data of dtype `incoming`, which are cast.

    Examples:
        >>> takes(mstype.float16, mstype.int64), takes(mstype.float16, mstype.bfloat16)
        (True, False)
    """
    return own is incoming or _STEP[incoming] < _STEP[own]


def _number(argument: str, value: float, dtype: DType) -> TorchTensor:
    if isinstance(value, float) and not dtype.is_floating_point:
        raise TypeError(
            f"{argument} must be an int for a parameter of dtype {dtype}, got the float {value!r}; "
            "set_dtype changes the dtype"
        )
    try:
        constant = fit(Constant(value), dtype)
        return constant_tensor(constant, dtype.torch)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{argument} must fit into {dtype}, got {value!r}: {error}") from None


def copy_of_input(default_input: Any) -> TorchTensor:
    """What a parameter made of data holds: a copy of it, Python ints as Int32 and floats as Float32."""
    if isinstance(default_input, (bool, np.bool_)):
        raise ValueError(f"default_input must not be a bool, got {default_input!r}")
    if isinstance(default_input, Initializer):
        raise TypeError(
            f"default_input must be a Tensor, such as initializer({default_input!r}, shape), got the Initializer itself"
        )
    if isinstance(default_input, Tensor):
        return copy_of_data("default_input", default_input.torch)
    if not isinstance(default_input, (torch.Tensor, int, float, np.ndarray, np.generic, list)):
        raise TypeError(
            "default_input must be a Tensor, a torch tensor, an int, a float, a NumPy array or scalar or a list, "
            f"got {default_input!r} of type {type(default_input).__name__}"
        )
    if isinstance(default_input, torch.Tensor):
        _check_values("default_input", default_input)
    dtype = int32 if isinstance(default_input, int) else float32 if isinstance(default_input, float) else None
    return copy_of_data("default_input", default_input, dtype)


def _by_law(init: Any, owner: Tensor) -> Tensor:
    """`init` as `initializer` makes it for `owner`; no key is taken from the generator in use for it."""
    # A tensor of no elements is the same whatever it is drawn from, and no initializer makes one.
    is_empty = not owner.size and not isinstance(init, Tensor)
    with Generator():
        source = initializer(init, (1,) * owner.ndim if is_empty else owner.shape, owner.dtype)
    return owner if is_empty else source


def declared(source: Tensor, dtype: DType, key: int) -> Tensor:
    """A lazy tensor with the shape and law of `source`."""
    tensor = Tensor.__new__(Tensor)
    law = source._law
    tensor._hold(declare(source.shape, dtype), None if law is None else fit(law, dtype), key)
    return tensor


def drawn(source: Tensor, device: Device = None) -> TorchTensor:
    """The values that a lazy tensor will have; it stays lazy."""
    draft = declared(source, source.dtype, source._key)
    realize([draft], device)
    return draft.torch


def device_of(storage: TorchTensor) -> torch.device | None:
    """Where the values are; None where there are none yet."""
    return None if storage.is_meta else storage.device


def copy_of(storage: TorchTensor, device: torch.device | None, dtype: DType) -> TorchTensor:
    """A contiguous copy of `storage`, in `dtype`; on its own device if that is None."""
    return storage.to(device or storage.device, dtype.torch, copy=True, memory_format=torch.contiguous_format)


def overlap(one: TorchTensor, other: TorchTensor) -> bool:
    """Whether the memory behind the two may be, in part, the same."""
    if one.device != other.device:
        return False
    mine, its = one.untyped_storage(), other.untyped_storage()
    return mine.data_ptr() < its.data_ptr() + its.nbytes() and its.data_ptr() < mine.data_ptr() + mine.nbytes()


def _as_data(argument: str, data: Any, dtype: DType) -> Tensor | TorchTensor:
    """`data` as a lazy tensor or as a torch tensor, which is not always a copy; numbers are of dtype `dtype`."""
    if isinstance(data, Tensor):
        return data if data.has_init else data.torch
    if isinstance(data, torch.Tensor):
        _check_values(argument, data)
        return data
    if isinstance(data, np.ndarray):
        return copy_of_array(data)
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, (bool, int, float)):
        return _number(argument, data, dtype)
    raise TypeError(
        f"{argument} must be a Tensor, an Initializer, an int, a float, a NumPy array or a torch tensor, "
        f"got {data!r} of type {type(data).__name__}"
    )


def _check_values(argument: str, data: TorchTensor) -> None:
    if data.is_meta or data.layout is not torch.strided:
        raise ValueError(f"{argument} must be a strided tensor with values, got {data.layout} on {data.device}")
    as_dtype(data.dtype)


def _taken(argument: str, source: Tensor | TorchTensor, owner: Tensor) -> Tensor | TorchTensor:
    """`source`, if the dtype of `owner` takes it."""
    dtype = as_dtype(source.dtype)
    if not takes(owner.dtype, dtype):
        raise TypeError(
            f"{argument} must be of dtype {owner.dtype} or of one that goes into it, got {dtype}; "
            "set_dtype changes the dtype"
        )
    return source


def incoming(argument: str, data: Any, owner: Tensor, any_shape: bool) -> Tensor | TorchTensor:
    """What the parameter `owner` is set to by `data`: a lazy tensor, or storage that may be someone's.

    Raises:
        TypeError: data is of a type or dtype that it does not take.
        ValueError: data has another shape, or does not fit.
    """
    if isinstance(data, Initializer):
        data = _by_law(data, owner)
    source = _as_data(argument, data, owner.dtype)
    if not any_shape and tuple(source.shape) != owner.shape:
        raise ValueError(
            f"{argument} must have shape {owner.shape} unless slice_shape is True, got {tuple(source.shape)}"
        )
    return _taken(argument, source, owner)


def cloned_data(init: Any, owner: Tensor) -> Tensor | TorchTensor:
    """What a clone of the parameter `owner` is made of by `init`: a lazy tensor, or storage that is someone's."""
    if isinstance(init, str) and init == "same":
        return owner if owner.has_init else owner.torch
    source = _by_law(init, owner)
    return _taken("init", source if source.has_init else source.torch, owner)
