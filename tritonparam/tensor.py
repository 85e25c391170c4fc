"""Tensor: MindSpore's tensor over torch storage, lazy until a value is asked for."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tritonparam._initializers import Initializer
from tritonparam._law import Constant, Law
from tritonparam._storage import as_shape, copy_of_array, copy_of_data, declare, empty, fit
from tritonparam._swap import become
from tritonparam.dtype import DType, DTypeLike, as_dtype, float32
from tritonparam.generator import get_generator
from tritonparam.plan import Fill, Plan

# The class below has a property called torch, which hides the module from its annotations.
TorchTensor = torch.Tensor
Device = torch.device | str | None

# One thread at a time turns lazy tensors into real ones, so that none is filled twice.
_REALIZING = threading.RLock()


def realize(tensors: Iterable[Tensor], device: Device = None, backend: str | None = None) -> None:
    """Make the lazy ones among `tensors` real, all of them in one plan."""
    with _REALIZING, torch.inference_mode(False), torch.no_grad():
        lazy = {id(tensor): (tensor, tensor._law) for tensor in tensors}
        work = [(tensor, law) for tensor, law in lazy.values() if law is not None]
        if not work:
            return
        try:
            place = torch.get_default_device() if device is None else torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be a torch device, got {device!r}: {error}") from None
        fills = []
        for tensor, law in work:
            # Random numbers are drawn as floats, and only then cut to the integers that MindSpore makes of them.
            drawn = tensor.dtype if tensor.dtype.is_floating_point or isinstance(law, Constant) else float32
            fills.append(Fill(empty(tensor.shape, drawn, place), law, tensor._key))
        Plan(fills, backend).run()
        for (tensor, _), fill in zip(work, fills, strict=True):
            tensor._become(fill.out.to(tensor.dtype.torch))


def _unwrapped(value: Any) -> Any:
    """`value` with every Tensor in it replaced by its storage, lazy ones made real."""
    if isinstance(value, Tensor):
        return value._real()
    if type(value) in (list, tuple):
        return type(value)(_unwrapped(item) for item in value)
    if type(value) is dict:
        return {key: _unwrapped(item) for key, item in value.items()}
    return value


def _operand(value: Any, device: Device = None) -> Any:
    """`value` as torch takes it beside a tensor on `device`."""
    if isinstance(value, np.generic):
        return value.item()
    return copy_of_array(value).to(device) if isinstance(value, np.ndarray) else _unwrapped(value)


def _unary(function: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
    def method(self: Tensor) -> Tensor:
        return Tensor._wrap(function(self._real()))

    return method


def _binary(function: Callable[[Any, Any], Any], reflected: bool = False) -> Callable[[Tensor, Any], Tensor]:
    def method(self: Tensor, other: Any) -> Any:
        if not isinstance(other, (Tensor, torch.Tensor, np.ndarray, np.generic, bool, int, float)):
            return NotImplemented
        mine = self._real()
        other = _operand(other, mine.device)
        return Tensor._wrap(function(other, mine) if reflected else function(mine, other))

    return method


class Tensor:
    """Values of one dtype, held by a torch tensor; or only their shape, dtype and law, which takes no memory.

    A lazy tensor (`has_init`) becomes real when its values are asked for: by `init_data`, `asnumpy`, NumPy, arithmetic
    or a torch function. Printing does not ask. Its values are bound when it is made, so it does not matter when that
    happens. Operators give Tensors and follow torch's promotion and broadcasting; torch functions give torch tensors;
    autograd works through both.

    Args:
        input_data: Values to copy: a Tensor, a torch tensor, a NumPy array, a number or nested lists of numbers.
        dtype: Anything that `as_dtype` takes. None keeps that of the data; for Python numbers it is Int64, Float32 or
            Bool.
        shape: Of a lazy tensor: an int or a sequence of ints >= 1. Goes with init.
        init: An Initializer, which makes the tensor lazy; then dtype and shape must be given, and input_data must not.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: Arguments are given that do not go together, a number does not fit into dtype, or init has no law
            for shape.

    Examples:
        >>> Tensor([1.0, 2.0]) * 2
        Tensor(shape=[2], dtype=Float32, value= [ 2.00000000e+00,  4.00000000e+00])
        >>> from tritonparam.initializer import Normal
        >>> Tensor(shape=(2_500_000, 1_000_000), dtype="float32", init=Normal()).nbytes
        10000000000000
    """

    # NumPy's operators then leave mixed operands to this class, as they do for torch tensors.
    __array_priority__ = 1000

    _torch: TorchTensor
    _law: Law | None
    _key: int

    def __init__(
        self,
        input_data: Any = None,
        dtype: DTypeLike | None = None,
        shape: int | Sequence[int] | None = None,
        init: Initializer | None = None,
    ) -> None:
        wanted = None if dtype is None else as_dtype(dtype)
        if init is None:
            if shape is not None:
                raise ValueError(f"shape goes with init; with input_data it must be None, got {shape!r}")
            self._hold(copy_of_data("input_data", _unwrapped(input_data), wanted), None, 0)
            return
        if input_data is not None or wanted is None or shape is None:
            raise ValueError("init needs dtype and shape and excludes input_data: a tensor is made of data or of a law")
        if not isinstance(init, Initializer):
            raise TypeError(f"init must be an Initializer object, got {init!r} of type {type(init).__name__}")
        sizes = as_shape(shape)
        law: object = init.law(sizes)
        if not isinstance(law, Law):
            raise TypeError(f"init.law must return a law, got {law!r} from {init!r}")
        self._hold(declare(sizes, wanted), fit(law, wanted), get_generator().key(""))

    def _hold(self, storage: TorchTensor, law: Law | None, key: int) -> None:
        self._law, self._key = law, key
        self._torch = storage
        self._torch = self._dressed(storage)

    @staticmethod
    def _wrap(storage: TorchTensor) -> Tensor:
        """A Tensor that shares `storage`."""
        tensor = Tensor.__new__(Tensor)
        tensor._hold(storage, None, 0)
        return tensor

    def _dressed(self, storage: TorchTensor) -> TorchTensor:
        """What `.torch` is to be when its values are in `storage`."""
        return storage

    def _become(self, storage: TorchTensor) -> None:
        """Take over `storage`; `.torch` stays the same object and keeps its attributes and hooks."""
        become(self._torch, self._dressed(storage.detach()))
        self._law = None

    def _real(self) -> TorchTensor:
        if self.has_init:
            realize([self])
        return self._torch

    @property
    def torch(self) -> TorchTensor:
        """The torch tensor that holds the values: always the same object, on the meta device while this is lazy."""
        return self._torch

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""
        return tuple(self._torch.shape)

    @property
    def dtype(self) -> DType:
        """One of the objects of `tritonparam.dtype`."""
        return as_dtype(self._torch.dtype)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._torch.numel()

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._torch.ndim

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self._torch.element_size()

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, whether they exist yet or not."""
        return self.size * self.itemsize

    @property
    def has_init(self) -> bool:
        """Whether this is lazy."""
        return self._law is not None

    def init_data(self, *, device: Device = None, backend: str | None = None) -> Tensor:
        """Make this lazy tensor real, in place.

        The values depend on the seed and on how many unnamed tensors its generator had keyed before, not on device or
        backend.

        Args:
            device: A CPU or CUDA device; None for torch's default device.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Returns:
            This tensor.

        Raises:
            TypeError: It is real already.
            ValueError: There is no such device or backend.

        Examples:
            >>> from tritonparam.initializer import initializer
            >>> print(initializer(3, [2]).init_data())
            [3. 3.]
        """
        if not self.has_init:
            raise TypeError("init_data needs a lazy tensor, made by initializer(...); this one has its values already")
        realize([self], device, backend)
        return self

    def set_dtype(self, dtype: DTypeLike) -> Tensor:
        """Change the dtype in place: of the values, or of what a lazy tensor will hold.

        Raises:
            TypeError, ValueError: dtype is no dtype, or a constant does not fit into it.

        Examples:
            >>> Tensor([1.5]).set_dtype("int32")
            Tensor(shape=[1], dtype=Int32, value= [1])
        """
        wanted = as_dtype(dtype)
        with _REALIZING, torch.inference_mode(False):
            law = None if self._law is None else fit(self._law, wanted)
            if wanted is not self.dtype:
                self._become(self._torch.detach().to(wanted.torch))
            self._law = law
        return self

    def asnumpy(self) -> npt.NDArray[Any]:
        """The values as a NumPy array, which shares memory with this tensor where that is on the CPU.

        Raises:
            TypeError: NumPy has no such dtype (bfloat16 and the 8-bit floats); nothing becomes real.

        Examples:
            >>> Tensor([[1, 2]]).asnumpy()
            array([[1, 2]])
        """
        _ = self.dtype.numpy
        values: npt.NDArray[Any] = self._real().detach().cpu().numpy()
        return values

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.asnumpy(), dtype=dtype, copy=copy)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return function(*_unwrapped(tuple(args)), **_unwrapped(dict(kwargs or {})))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len needs a tensor of at least 1 dimension, got one of shape ()")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor._wrap(self._real()[_unwrapped(index)].clone())

    def __setitem__(self, index: Any, value: Any) -> None:
        mine, value = self._real(), _operand(value)
        with torch.no_grad():
            mine[_unwrapped(index)] = value.to(mine) if isinstance(value, torch.Tensor) else value

    def _item(self) -> Any:
        if self.size != 1:
            raise ValueError(f"a tensor of exactly one element has one truth and one number, got shape {self.shape}")
        return self._real().item()

    def __bool__(self) -> bool:
        return bool(self._item())

    def __int__(self) -> int:
        return int(self._item())

    def __float__(self) -> float:
        return float(self._item())

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

    def __copy__(self) -> Tensor:
        return copy.deepcopy(self)

    def _printable(self) -> npt.NDArray[Any]:
        values = self._torch.detach().cpu()
        array: npt.NDArray[Any] = (values if self.dtype.in_numpy else values.float()).numpy()
        return array

    def __str__(self) -> str:
        return repr(self) if self.has_init else str(self._printable())

    def __repr__(self) -> str:
        if self.has_init:
            value = "<uninitialized>"
        elif self.ndim:
            text = np.array2string(self._printable(), separator=", ", formatter={"float_kind": "{: .8e}".format})
            value = ("\n" if self.ndim > 1 else " ") + text
        else:
            value = f" {self._item():g}" if self.dtype.is_floating_point else f" {self._item()}"
        return f"Tensor(shape={list(self.shape)}, dtype={self.dtype}, value={value})"
