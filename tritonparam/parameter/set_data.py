"""What a parameter may be set to: which kinds of data, and which dtypes go into which without being asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonparam import dtype as mstype
from tritonparam._arguments import got, shown
from tritonparam.dtype import DType, as_dtype, float32, int32
from tritonparam.initializer import initializer
from tritonparam.parameter.attributes import Attributes
from tritonparam.plan import Box, box_of_box, check_memory, check_strided
from tritonparam.stream import Constant, Generator
from tritonparam.tensor import (
    Initializer,
    Tensor,
    TorchTensor,
    Writes,
    copy_of_data,
    empty,
    fit,
)

if TYPE_CHECKING:
    import numpy.typing as npt


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


def casts(own: DType, wanted: DType) -> bool:
    """Whether a clone may have dtype `wanted` of a parameter of dtype `own`: any float, or what takes its values.

    Examples:
        >>> casts(mstype.float32, mstype.bfloat16), casts(mstype.int8, mstype.int32), casts(mstype.float16, mstype.int8)
        (True, True, False)
    """
    return wanted.is_floating_point or takes(wanted, own)


def _number(argument: str, value: float, dtype: DType) -> Constant:
    if isinstance(value, float) and not dtype.is_floating_point:
        raise TypeError(
            f"{argument} must be an int for a parameter of dtype {dtype}, got the float {shown(value)}; "
            "set_dtype changes the dtype"
        )
    try:
        return fit(Constant(value), dtype)
    except ValueError as error:
        raise ValueError(f"{argument} must fit into {dtype}, got {shown(value)}: {error}") from None


def copy_of_input(default_input: Any) -> TorchTensor:
    """What a parameter made of data holds: a copy of it, Python ints as Int32 and floats as Float32."""
    if isinstance(default_input, (bool, np.bool_)):
        raise ValueError(f"default_input must not be a bool, got {shown(default_input)}")
    if isinstance(default_input, Initializer):
        raise TypeError(
            f"default_input must be a Tensor, such as initializer({shown(default_input)}, shape), "
            "got the Initializer itself"
        )
    if isinstance(default_input, Tensor):
        return copy_of_data("default_input", default_input.torch)
    if not isinstance(default_input, (torch.Tensor, int, float, np.ndarray, np.generic, list)):
        raise TypeError(
            "default_input must be a Tensor, a torch tensor, an int, a float, a NumPy array or scalar or a list, "
            f"{got(default_input)}"
        )
    if isinstance(default_input, torch.Tensor):
        _check_values("default_input", default_input)
    dtype = int32 if isinstance(default_input, int) else float32 if isinstance(default_input, float) else None
    return copy_of_data("default_input", default_input, dtype)


@dataclass(frozen=True)
class Values:
    """Values that a parameter is to have: those of `source`, or of a box of it.

    Attributes:
        source: A lazy tensor; a torch tensor or an array, which may be someone's; or a constant for any shape.
        box: Of a lazy tensor, what is wanted of it; None for the whole.
    """

    source: Tensor | TorchTensor | npt.NDArray[Any] | Constant
    box: Box | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that they have."""
        if isinstance(self.source, Constant):
            return ()
        return tuple(self.source.shape) if self.box is None else self.box.sizes

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.source.device if isinstance(self.source, torch.Tensor) else torch.device("cpu")

    def of(self, source: Tensor) -> Values:
        """The same of another lazy tensor."""
        return Values(source, self.box)

    def put(self, writes: Writes, out: TorchTensor, fresh: bool = True) -> None:
        """Add the operations that write them into `out`, of their shape."""
        if isinstance(self.source, Constant):
            writes.law(out, self.source, 0, tuple(out.shape), (0,) * out.ndim, fresh)
        elif not isinstance(self.source, Tensor):
            writes.copy(out, self.source, fresh)
        elif self.source._law is not None:
            shape = self.source.shape
            offsets = (0,) * len(shape) if self.box is None else self.box.offsets
            writes.law(out, self.source._law, self.source._key, shape, offsets, fresh)


def _by_law(init: Any, owner: Attributes, dtype: DType) -> Values:
    """`init`, which is no Tensor, as `initializer` makes it for `owner`; no key is taken from the generator for it.

    A parameter that is a box of a whole gets that box of what the whole would have.
    """
    whole = owner.global_shape
    # A tensor of no elements is the same whatever it is drawn from, and no initializer makes one.
    is_empty = 0 in whole
    with Generator():
        source = initializer(init, (1,) * len(whole) if is_empty else whole, dtype)
    if is_empty:
        return Values(empty(owner.shape, dtype, device_of(owner._torch) or "cpu"))
    return Values(source, None if owner.shape == whole else owner.box)


def device_of(storage: TorchTensor) -> torch.device | None:
    """Where the values are; None where there are none yet."""
    return None if storage.is_meta else storage.device


def _as_data(argument: str, data: Any, dtype: DType) -> Values:
    """`data` as it is, or a number as a constant of `dtype`."""
    if isinstance(data, Tensor):
        return Values(data if data.has_init else data.torch)
    if isinstance(data, torch.Tensor):
        _check_values(argument, data)
        return Values(check_memory(argument, data.resolve_neg()))
    if isinstance(data, np.ndarray):
        as_dtype(data.dtype, f"the dtype of {argument}")
        return Values(data)
    if isinstance(data, np.generic):
        data = data.item()
    if isinstance(data, (bool, int, float)):
        return Values(_number(argument, data, dtype))
    raise TypeError(
        f"{argument} must be a Tensor, an Initializer, an int, a float, a NumPy array or a torch tensor, {got(data)}"
    )


def _check_values(argument: str, data: TorchTensor) -> None:
    check_strided(argument, data)
    if data.is_meta or data.layout is not torch.strided:
        raise ValueError(f"{argument} must be a strided tensor with values, got {data.layout} on {data.device}")
    as_dtype(data.dtype, f"the dtype of {argument}")


def _taken(argument: str, values: Values, own: DType) -> Values:
    """`values`, if dtype `own` takes theirs."""
    if isinstance(values.source, Constant):
        return values
    dtype = as_dtype(values.source.dtype)
    if not takes(own, dtype):
        raise TypeError(
            f"{argument} must be of dtype {own} or of one that goes into it, got {dtype}; set_dtype changes the dtype"
        )
    return values


def incoming(argument: str, data: Any, owner: Attributes, any_shape: bool) -> Values:
    """What the parameter `owner` is set to by `data`.

    Raises:
        TypeError: data is of a type or dtype that it does not take.
        ValueError: data has another shape, or does not fit.
    """
    is_law = isinstance(data, Initializer)
    values = _by_law(data, owner, owner.dtype) if is_law else _as_data(argument, data, owner.dtype)
    if not any_shape and values.shape != owner.shape:
        raise ValueError(
            f"{argument} must have shape {shown(owner.shape)} unless slice_shape is True, got {shown(values.shape)}"
        )
    return _taken(argument, values, owner.dtype)


def incoming_box(argument: str, data: Any, owner: Attributes, box: Box) -> Values:
    """What the box `box` of the parameter `owner` is set to by `data`; raises as `incoming` does."""
    if isinstance(data, Initializer):
        values = _by_law(data, owner, owner.dtype)
        if isinstance(values.source, Tensor):
            return Values(values.source, box_of_box(owner.box, box))
        return Values(box.of(values.source))  # type: ignore[arg-type]
    values = _as_data(argument, data, owner.dtype)
    if values.shape != box.sizes and not isinstance(values.source, Constant):
        raise ValueError(
            f"{argument} must have the shape of box, {shown(box.sizes)}, or be a number, got {shown(values.shape)}"
        )
    return _taken(argument, values, owner.dtype)


def check_cast(own: DType, dtype: DType) -> None:
    """Refuse a clone of dtype `dtype` of a parameter of dtype `own` that would lose what it is.

    Raises:
        TypeError: It would.
    """
    if not casts(own, dtype):
        raise TypeError(f"dtype must be a float or a dtype that {own} goes into, got {dtype}")


def cloned_data(init: Any, owner: Attributes, own: DType, dtype: DType) -> Values:
    """What a clone, of dtype `dtype`, of the parameter `owner`, of dtype `own`, is made of by `init`."""
    check_cast(own, dtype)
    if isinstance(init, str) and init == "same":
        return Values(owner if owner.has_init else owner.torch.resolve_neg())
    if not isinstance(init, Tensor):
        return _by_law(init, owner, dtype)
    if init.shape != owner.shape:
        raise ValueError(f"init must have shape {shown(owner.shape)}, got {shown(init.shape)}")
    return _taken("init", _as_data("init", init, dtype), dtype)
