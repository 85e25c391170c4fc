"""MindSpore's dtype objects, each one a name for a torch dtype.

    >>> from tritonparam import dtype as mstype
    >>> print(mstype.float32, mstype.bool_, mstype.bfloat16)
    Float32 Bool BFloat16

`as_dtype` turns whatever names a dtype elsewhere (torch, NumPy, a string such as "bf16") into one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from tritonparam._arguments import did_you_mean, shown

# The class below has an attribute called torch, which hides the module from its annotations.
TorchDType = torch.dtype


class DType:
    """A dtype that prints as MindSpore's, equal to itself and to the torch dtype that it stands for.

    The objects of this module are the only ones: copies and unpickled objects are the same object. Its `repr` is
    MindSpore's too (`mindspore.float32`), so that a script prints the same text under either package.

    Attributes:
        name: The name in this module, such as "float32" or "bool_".
        torch: The torch dtype.

    Examples:
        >>> str(float32), repr(float32), float32 == torch.float32
        ('Float32', 'mindspore.float32', True)
    """

    __slots__ = ("_text", "name", "torch")

    name: str
    torch: TorchDType

    def __init__(self, name: str, text: str, torch_dtype: TorchDType) -> None:
        for attribute, value in (("name", name), ("_text", text), ("torch", torch_dtype)):
            object.__setattr__(self, attribute, value)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"a dtype cannot be changed: {shown(attribute)} of {self}")

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.torch.itemsize

    @property
    def is_floating_point(self) -> bool:
        """Whether it is a float of any width."""
        return self.torch.is_floating_point

    @property
    def in_numpy(self) -> bool:
        """Whether NumPy has it too; it has neither bfloat16 nor the 8-bit floats."""
        return self not in _NOT_IN_NUMPY

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of the same values.

        Raises:
            TypeError: NumPy has none (bfloat16 and the 8-bit floats).

        Examples:
            >>> int16.numpy
            dtype('int16')
        """
        if not self.in_numpy:
            raise TypeError(f"NumPy has no dtype for {self}; convert to Float32 first")
        return np.dtype(self.name.rstrip("_"))

    def __str__(self) -> str:
        return self._text  # type: ignore[attr-defined, no-any-return]

    def __repr__(self) -> str:
        return f"mindspore.{self.name}"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, torch.dtype) and self.torch is other)

    def __hash__(self) -> int:
        return hash(self.torch)

    def __reduce__(self) -> str:
        return self.name


bool_ = DType("bool_", "Bool", torch.bool)
int8 = DType("int8", "Int8", torch.int8)
int16 = DType("int16", "Int16", torch.int16)
int32 = DType("int32", "Int32", torch.int32)
int64 = DType("int64", "Int64", torch.int64)
uint8 = DType("uint8", "UInt8", torch.uint8)
uint16 = DType("uint16", "UInt16", torch.uint16)
uint32 = DType("uint32", "UInt32", torch.uint32)
uint64 = DType("uint64", "UInt64", torch.uint64)
float16 = DType("float16", "Float16", torch.float16)
float32 = DType("float32", "Float32", torch.float32)
float64 = DType("float64", "Float64", torch.float64)
bfloat16 = DType("bfloat16", "BFloat16", torch.bfloat16)
float8_e4m3fn = DType("float8_e4m3fn", "Float8E4M3FN", torch.float8_e4m3fn)
float8_e5m2 = DType("float8_e5m2", "Float8E5M2", torch.float8_e5m2)

_NOT_IN_NUMPY = (bfloat16, float8_e4m3fn, float8_e5m2)
_DTYPES = {value.name: value for value in list(globals().values()) if isinstance(value, DType)}
FLOATS = tuple(value for value in _DTYPES.values() if value.is_floating_point)
_BY_TORCH = {value.torch: value for value in _DTYPES.values()}
_SHORT = {
    float16: ("fp16", "f16", "half"),
    float32: ("fp32", "f32", "float"),
    float64: ("fp64", "f64", "double"),
    bfloat16: ("bf16",),
}
_BY_TEXT = {
    text.lower(): value for value in _DTYPES.values() for text in (value.name, str(value), *_SHORT.get(value, ()))
}

DTypeLike = DType | torch.dtype | np.dtype[Any] | type[np.generic] | str


def as_dtype(dtype: DTypeLike, argument: str = "dtype") -> DType:
    """The dtype of this module that `dtype` names.

    Args:
        dtype: One of this module's, of torch's or of NumPy's (also a scalar type such as `np.float32`), or a string:
            its name here, in torch ("torch.float32"), as printed ("Float32") or a short one ("fp32", "bf16", "half"),
            in any case.
        argument: What an error calls it.

    Raises:
        TypeError: It is nothing of the kind, or a torch or NumPy dtype without a counterpart here, such as complex64.
        ValueError: It is a string that names no dtype; the error lists those that do, and one that is close.

    Examples:
        >>> as_dtype("bf16"), as_dtype(torch.int8), as_dtype(np.float64)
        (mindspore.bfloat16, mindspore.int8, mindspore.float64)
    """
    if isinstance(dtype, DType):
        return dtype
    found: DType | None
    if isinstance(dtype, str):
        found = _BY_TEXT.get(_plain(dtype))
        if found is None:
            raise ValueError(f"{argument} must be one of {_names(_DTYPES.values())}, got {shown(dtype)}{_close(dtype)}")
        return found
    if isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
        found = _BY_TEXT.get(np.dtype(dtype).name)
    else:
        found = _BY_TORCH.get(dtype) if isinstance(dtype, torch.dtype) else None
    if found is None:
        raise TypeError(
            f"{argument} must be one of {', '.join(_DTYPES)}, or what torch or NumPy call it, got {shown(dtype)}"
        )
    return found


def _plain(text: str) -> str:
    return text.lower().removeprefix("torch.")


def _names(dtypes: Iterable[DType]) -> str:
    """The names of some dtypes, each with its short ones."""
    return ", ".join(f"{each.name} ({', '.join(_SHORT[each])})" if each in _SHORT else each.name for each in dtypes)


def _close(text: str) -> str:
    """A question whether a name that is close to `text` was meant; nothing where none is."""
    plain = _plain(text[:40])
    longer = [name for name in _BY_TEXT if plain and name.startswith(f"{plain}_")]
    return did_you_mean(longer[0] if longer else plain, _BY_TEXT)


def as_float(dtype: DTypeLike, argument: str = "dtype") -> torch.dtype:
    """The torch dtype of the float that `dtype` names.

    Args:
        dtype: As for `as_dtype`.
        argument: What an error calls it.

    Raises:
        TypeError: As `as_dtype`.
        ValueError: It names no floating-point dtype; the error lists those that there are, and one that is close.

    Examples:
        >>> as_float("bf16")
        torch.bfloat16
    """
    if isinstance(dtype, str) and _plain(dtype) not in _BY_TEXT:
        raise ValueError(f"{argument} must be one of {_names(FLOATS)}, got {shown(dtype)}{_close(dtype)}")
    found = as_dtype(dtype, argument)
    if found not in FLOATS:
        raise ValueError(f"{argument} must be a floating-point dtype, got {shown(dtype)}; there are {_names(FLOATS)}")
    return found.torch


def float_dtype(dtype: DTypeLike | None) -> torch.dtype | None:
    """As `as_float`; None for None.

    Examples:
        >>> float_dtype("bf16"), float_dtype(None)
        (torch.bfloat16, None)
    """
    return None if dtype is None else as_float(dtype)


def __dir__() -> list[str]:
    return sorted([*_DTYPES, "DType", "DTypeLike", "as_dtype"])
