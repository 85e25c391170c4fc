"""What Tensors can do with their values: operators, indexing, and methods that give new Tensors or numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from tritonparam._arguments import got, integer, integers, shown
from tritonparam.dtype import DTypeLike, as_dtype
from tritonparam.tensor.storage import copy_of_array

# The class whose operators these are, and of which their results are: Tensor.
Result = TypeVar("Result")
# Tensor has a property called torch, which hides the module from its annotations.
TorchTensor = torch.Tensor
Device = torch.device | str | int | None


def unwrapped(value: Any) -> Any:
    """`value` with every Tensor in it replaced by its storage, lazy ones made real."""
    if isinstance(value, Operators):
        return value._real()
    if type(value) in (list, tuple):
        return type(value)(unwrapped(item) for item in value)
    if type(value) is dict:
        return {key: unwrapped(item) for key, item in value.items()}
    return value


def operand(value: Any, device: Device = None) -> Any:
    """`value` as torch takes it beside a tensor on `device`."""
    if isinstance(value, np.generic):
        return value.item()
    return copy_of_array(value).to(device) if isinstance(value, np.ndarray) else unwrapped(value)


def _unary(function: Callable[[Any], Any]) -> Callable[[Operators[Result]], Result]:
    def method(self: Operators[Result]) -> Result:
        return self._wrap(function(self._real()))

    return method


def _binary(function: Callable[[Any, Any], Any], reflected: bool = False) -> Callable[[Operators[Result], Any], Result]:
    def method(self: Operators[Result], other: Any) -> Any:
        if not isinstance(other, (Operators, torch.Tensor, np.ndarray, np.generic, bool, int, float)):
            return NotImplemented
        mine = self._real()
        other = operand(other, mine.device)
        return self._wrap(function(other, mine) if reflected else function(mine, other))

    return method


class Operators(Generic[Result]):
    """The part of Tensor that asks for values. Its results have storage of their own, and gradients flow through."""

    if TYPE_CHECKING:

        def _real(self) -> TorchTensor: ...

        @staticmethod
        def _wrap(storage: TorchTensor) -> Result: ...

        @property
        def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len needs a tensor of at least 1 dimension, got one of shape ()")
        return self.shape[0]

    def __iter__(self) -> Iterator[Result]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Result:
        return self._wrap(self._real()[unwrapped(index)].clone())

    def __setitem__(self, index: Any, value: Any) -> None:
        mine, value = self._real(), operand(value)
        with torch.no_grad():
            mine[unwrapped(index)] = value.to(mine) if isinstance(value, torch.Tensor) else value

    def item(self, index: int | tuple[int, ...] | None = None) -> Any:
        """One element as a Python number.

        Args:
            index: A place in the flattened tensor, or one index a dimension; None for the only element there is.

        Raises:
            ValueError: index is None and there is not exactly one element.
            IndexError: There is no such element.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([[1, 2], [3, 4]]).item(2), Tensor([[1, 2], [3, 4]]).item((0, 1)), Tensor(2.5).item()
            (3, 2, 2.5)
        """
        if index is not None:
            is_one = not isinstance(index, tuple)
            place: Any = integer("index", index) if is_one else integers("index", index)  # type: ignore[arg-type]
            if any(not -(2**63) <= each < 2**63 for each in ([place] if is_one else place)):
                raise IndexError(f"index must lie in a tensor of shape {shown(self.shape)}, got {shown(index)}")
            if isinstance(place, tuple) and len(place) != len(self.shape):
                raise IndexError(
                    f"index must have one int for each of {len(self.shape)} dimensions, got {shown(index)}"
                )
            values = self._real()
            return (values if isinstance(place, tuple) else values.reshape(-1))[place].item()
        if any(size != 1 for size in self.shape):
            raise ValueError(
                "a tensor of exactly one element has one truth and, without an index, one number, "
                f"got shape {shown(self.shape)}"
            )
        return self._real().item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers; of shape (), one number.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([[1, 2]]).tolist()
            [[1, 2]]
        """
        return self._real().tolist()

    def astype(self, dtype: DTypeLike, copy: bool = True) -> Result:
        """The values in another dtype, in a new Tensor; with copy=False this one, where the dtype is already its own.

        Raises:
            TypeError, ValueError: dtype is no dtype, or copy no bool.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([1.7, -1.7]).astype("int8")
            Tensor(shape=[2], dtype=Int8, value= [ 1, -1])
        """
        if not isinstance(copy, (bool, np.bool_)):
            raise TypeError(f"copy must be a bool, {got(copy)}")
        wanted, values = as_dtype(dtype).torch, self._real()
        if not copy and wanted is values.dtype:
            return self  # type: ignore[return-value]
        return self._wrap(values.to(wanted, copy=True))

    @property
    def T(self) -> Result:
        """The transpose: the dimensions in reverse order.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([[1, 2], [3, 4]]).T.tolist()
            [[1, 3], [2, 4]]
        """
        values = self._real()
        return self._wrap(values.permute(tuple(range(values.ndim))[::-1]).clone(memory_format=torch.contiguous_format))

    def reshape(self, *shape: int | Sequence[int]) -> Result:
        """The values in another shape, given as ints or as one list or tuple; one of them may be -1.

        Raises:
            TypeError: The shape holds anything but ints.
            ValueError: It has another number of elements.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([1, 2, 3, 4]).reshape(2, -1).tolist()
            [[1, 2], [3, 4]]
        """
        sizes: Any = shape[0] if len(shape) == 1 and isinstance(shape[0], (list, tuple)) else shape
        wanted, values = integers("shape", sizes), self._real()
        try:
            values = values.reshape(wanted)
        except (RuntimeError, TypeError, ValueError):  # the last two of numbers beyond 64 bits
            raise ValueError(f"shape must have {values.numel()} elements, got {shown(wanted)}") from None
        return self._wrap(values.clone())

    def view(self, *shape: int | Sequence[int]) -> Result:
        """Another name for `reshape`, as in MindSpore: the result does not share memory."""
        return self.reshape(*shape)

    def flatten(self) -> Result:
        """The values in one dimension, in row-major order.

        Examples:
            >>> from tritonparam import Tensor
            >>> Tensor([[1, 2], [3, 4]]).flatten().tolist()
            [1, 2, 3, 4]
        """
        return self.reshape(-1)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(operator.abs)
    __invert__ = _unary(operator.invert)
    __add__ = _binary(operator.add)
    __radd__ = _binary(operator.add, reflected=True)
    __sub__ = _binary(operator.sub)
    __rsub__ = _binary(operator.sub, reflected=True)
    __mul__ = _binary(operator.mul)
    __rmul__ = _binary(operator.mul, reflected=True)
    __truediv__ = _binary(operator.truediv)
    __rtruediv__ = _binary(operator.truediv, reflected=True)
    __floordiv__ = _binary(operator.floordiv)
    __rfloordiv__ = _binary(operator.floordiv, reflected=True)
    __mod__ = _binary(operator.mod)
    __rmod__ = _binary(operator.mod, reflected=True)
    __pow__ = _binary(operator.pow)
    __rpow__ = _binary(operator.pow, reflected=True)
    __matmul__ = _binary(operator.matmul)
    __rmatmul__ = _binary(operator.matmul, reflected=True)
    __lt__ = _binary(operator.lt)
    __le__ = _binary(operator.le)
    __gt__ = _binary(operator.gt)
    __ge__ = _binary(operator.ge)
    __eq__ = _binary(operator.eq)  # type: ignore[assignment]
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]

    def __hash__(self) -> int:
        return object.__hash__(self)
