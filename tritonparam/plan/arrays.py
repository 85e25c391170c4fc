"""NumPy arrays as torch tensors of the same memory, those included that torch itself refuses or warns of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonparam.dtype import as_dtype

if TYPE_CHECKING:
    import numpy.typing as npt


class _Writable:
    """An array's memory without its read-only mark, which torch warns of; it keeps the array alive."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        interface = dict(array.__array_interface__)
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def view_of_array(array: npt.NDArray[Any]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A tensor that shows the memory of `array`, for reading, and the dimensions along which it shows it backwards.

    torch has no negative strides: along those dimensions the tensor runs the other way. Arrays that torch cannot show
    (another byte order, strides that are no multiples of the item) are copied.

    Raises:
        TypeError: Its dtype is none of `tritonparam.dtype`.

    Examples:
        >>> view_of_array(np.arange(4)[::-1])
        (tensor([0, 1, 2, 3]), (0,))
    """
    dtype = as_dtype(array.dtype)
    if not (array.size and array.dtype.isnative) or any(stride % array.itemsize for stride in array.strides):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    backwards = tuple(d for d, stride in enumerate(array.strides) if stride < 0)
    shown = np.flip(array, backwards) if backwards else array  # flip would make a scalar of one without dimensions
    if not dtype.in_numpy:  # from ml_dtypes, whose arrays torch takes as bits only
        shown = shown.view(f"u{dtype.itemsize}")
    if not shown.flags.writeable:
        shown = np.asarray(_Writable(shown))
    return torch.from_numpy(shown).view(dtype.torch), backwards
