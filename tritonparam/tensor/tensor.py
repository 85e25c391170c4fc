"""Tensor: MindSpore's tensor over torch storage, lazy until a value is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from tritonparam._arguments import got, shown, warn
from tritonparam._locks import across_forks
from tritonparam.dtype import DType, DTypeLike, as_dtype
from tritonparam.plan import Box, check_memory, check_strided, checked_device
from tritonparam.stream import Law, get_generator
from tritonparam.tensor.content import Content, Initializer, Pattern, content_of
from tritonparam.tensor.operators import Device, Operators, TorchTensor, unwrapped
from tritonparam.tensor.registration import refuse_in_modules
from tritonparam.tensor.slices import slice_box
from tritonparam.tensor.storage import as_shape, copy_of_data, declare, empty, fit
from tritonparam.tensor.swap import become, guard, was_written
from tritonparam.tensor.writes import Writes

if TYPE_CHECKING:
    import numpy.typing as npt

# One thread at a time turns lazy tensors into real ones, so that none is filled twice. Whoever holds it may take keys
# from a generator, whose lock is made before.
REALIZING = across_forks()


def realize(
    tensors: Iterable[Tensor],
    device: Device = None,
    backend: str | None = None,
    boxes: Mapping[Tensor, Box] | None = None,
) -> None:
    """Make the lazy ones among `tensors` real, all of them in one plan.

    Args:
        tensors: Any; those that are real stay as they are.
        device: A CPU or CUDA device; None for torch's default device.
        backend: What writes the values, as for `Plan`.
        boxes: Of the tensors in it, only this box becomes real: it is all that they are from then on.

    Raises:
        ValueError: There is no such device or backend. Then nothing has changed.
        RuntimeError: device is a CUDA device, and this process the fork of one that had used CUDA. Nothing has changed.
    """
    with REALIZING, torch.inference_mode(False), torch.no_grad():
        lazy = {id(tensor): (tensor, tensor._law) for tensor in tensors}
        work = [(tensor, law) for tensor, law in lazy.values() if law is not None]
        if not work:
            return
        place = checked_device(device, backend)
        if lost := [tensor for tensor, _ in work if was_written(tensor._torch)]:
            many = "a lazy tensor" if len(lost) == 1 else f"{len(lost)} lazy tensors"
            warn(f"what torch wrote into {many} is lost, as by an optimizer: call init_data() before training")
        writes = Writes()
        outs = []
        for tensor, law in work:
            box = (boxes or {}).get(tensor) or Box.whole(tensor.shape)
            outs.append(empty(box.sizes, tensor.dtype, place))
            writes.law(outs[-1], law, tensor._key, tensor.shape, box.offsets)
        writes.run(backend)
        for (tensor, _), out in zip(work, outs, strict=True):
            tensor._become(out)


def _plain(data: Any) -> Any:
    """`unwrapped` of what a user gives: too deep lists are left for the check of numbers to refuse."""
    try:
        return unwrapped(data)
    except RecursionError:
        return data


class Tensor(Operators["Tensor"]):
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
        name: Of a lazy tensor: what its random numbers are drawn by. Those of one name are counted by the generator, so
            that no two draw the same; those of different names do not disturb each other. It is not kept.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: Arguments are given that do not go together, a number does not fit into dtype, or init has no law
            for shape.
        NotImplementedError: The class of init says nothing: it writes neither `law` nor `_initialize`.

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
    _law: Content | None
    _key: int

    def __init__(
        self,
        input_data: Any = None,
        dtype: DTypeLike | None = None,
        shape: int | Sequence[int] | None = None,
        init: Initializer | None = None,
        *,
        name: str = "",
    ) -> None:
        refuse_in_modules(Tensor)
        wanted = None if dtype is None else as_dtype(dtype)
        if init is None:
            if shape is not None:
                raise ValueError(f"shape goes with init; with input_data it must be None, got {shown(shape)}")
            self._hold(copy_of_data("input_data", _plain(input_data), wanted), None, 0)
            return
        if input_data is not None or wanted is None or shape is None:
            raise ValueError("init needs dtype and shape and excludes input_data: a tensor is made of data or of a law")
        if not isinstance(init, Initializer):
            raise TypeError(f"init must be an Initializer object, {got(init)}")
        sizes = as_shape(shape)
        law: object = content_of(init, sizes)
        if not isinstance(law, (Law, Pattern)):
            raise TypeError(f"init.law must return a law, got {shown(law)} from {shown(init)}")
        self._hold(declare(sizes, wanted), fit(law, wanted), get_generator().key(name))

    def _hold(self, storage: TorchTensor, law: Content | None, key: int) -> None:
        self._law, self._key = law, key
        self._torch = storage
        self._torch = self._dressed(storage)
        guard(self._torch)

    @staticmethod
    def _wrap(storage: TorchTensor, law: Content | None = None, key: int = 0) -> Tensor:
        """A Tensor that shares `storage`; lazy, if `law` says what it is to hold."""
        tensor = Tensor.__new__(Tensor)
        tensor._hold(storage, law, key)
        return tensor

    def _dressed(self, storage: TorchTensor) -> TorchTensor:
        """What `.torch` is to be when its values are in `storage`."""
        return storage

    def _become(self, storage: TorchTensor) -> None:
        """Take over `storage`; `.torch` stays the same object and keeps its attributes and hooks."""
        become(self._torch, self._dressed(storage.detach()))
        guard(self._torch)
        self._law = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Only for what is not there: where torch's tensors have it, the error says so."""
            hint = f"; its .torch has: .torch.{name}" if name[:1] != "_" and hasattr(torch.Tensor, name) else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name)

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
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, dimension by dimension.

        Examples:
            >>> Tensor([[1, 2], [3, 4]]).strides
            (16, 8)
        """
        return tuple(step * self.itemsize for step in self._torch.stride())

    @property
    def has_init(self) -> bool:
        """Whether this is lazy."""
        return self._law is not None

    if TYPE_CHECKING:
        # Parameter's takes a layout in its first place, as MindSpore's does; no signature suits both.
        init_data: Callable[..., Tensor]
    else:

        def init_data(
            self,
            slice_index: int | None = None,
            shape: int | Sequence[int] | None = None,
            opt_shard_group: Any = None,
            *,
            device: Device = None,
            backend: str | None = None,
        ) -> Tensor:
            """Make this lazy tensor real, in place: all of it, or one slice.

            The values depend on the seed, on the name it was given and on how many tensors of that name its generator
            had keyed before, not on device or backend. Slices are parts of the whole: put together, they are the
            tensor that `init_data()` makes. (In MindSpore they are draws of their own.)

            Args:
                slice_index: Which slice of size `shape`, counted in row-major order; needed where there are several.
                shape: Of a slice; each size must divide that of the tensor. None for the whole.
                opt_shard_group: Where not None or "": a torch process group, or (rank in it, size of it), over which
                    the first dimension is cut once more.
                device: A CPU or CUDA device; None for torch's default device.
                backend: What writes the values, as for `Plan`; None for the device's own.

            Returns:
                This tensor; its shape is that of the slice from then on.

            Raises:
                TypeError: It is real already, or an argument is of another type.
                ValueError: There is no such slice, device or backend.

            Examples:
                >>> from tritonparam.initializer import initializer
                >>> print(initializer(3, [2]).init_data())
                [3. 3.]
                >>> print(initializer("identity", [4, 4]).init_data(slice_index=3, shape=[2, 2]))
                [[1. 0.]
                 [0. 1.]]
            """
            if not self.has_init:
                raise TypeError(
                    "init_data needs a lazy tensor, made by initializer(...); this one has its values already"
                )
            box = slice_box(self.shape, slice_index, shape, opt_shard_group)
            realize([self], device, backend, {self: box})
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
        with REALIZING, torch.inference_mode(False):
            law = None if self._law is None else fit(self._law, wanted)
            if wanted is not self.dtype:
                self._become(self._torch.detach().to(wanted.torch))
            self._law = law
        return self

    def assign_value(self, value: Any) -> Tensor:
        """Overwrite the values in place, on the device where they are, with others of the same shape and dtype.

        Returns:
            This tensor.

        Raises:
            TypeError: value is neither a Tensor nor a torch tensor, or its dtype is another.
            ValueError: Its shape is another, or it has no values in memory.

        Examples:
            >>> Tensor([1, 2]).assign_value(Tensor([3, 4])).tolist()
            [3, 4]
        """
        if not isinstance(value, (Tensor, torch.Tensor)):
            raise TypeError(f"value must be a Tensor or a torch tensor, {got(value)}")
        if isinstance(value, torch.Tensor):
            check_strided("value", value)
        dtype = as_dtype(value.dtype, "the dtype of value")
        if dtype is not self.dtype:
            raise TypeError(f"value must be of dtype {self.dtype}, got {dtype}")
        if tuple(value.shape) != self.shape:
            raise ValueError(f"value must be of shape {shown(self.shape)}, got {shown(tuple(value.shape))}")
        with torch.no_grad():
            source = check_memory("value", unwrapped(value).detach().resolve_neg())
            writes = Writes()
            writes.copy(self._real().detach(), source, fresh=False)
            writes.run()
        return self

    def copy(self) -> Tensor:
        """A Tensor of its own with these values; of a lazy one, lazy, with the same values to come.

        Examples:
            >>> a = Tensor([1.0, 2.0])
            >>> b = a.copy()
            >>> b[0] = 9
            >>> print(a, b)
            [1. 2.] [9. 2.]
        """
        with REALIZING:
            if self._law is None:
                return Tensor._wrap(self._torch.clone())
            return Tensor._wrap(empty(self.shape, self.dtype, "meta"), self._law, self._key)

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
        if self.dtype.in_numpy or dtype is None:
            return np.array(self.asnumpy(), dtype=dtype, copy=copy)
        if copy is False:
            raise ValueError(
                f"copy must not be False: NumPy has no dtype for {self.dtype}, so its values are converted"
            )
        return np.array(self._real().detach().cpu().float().numpy(), dtype=dtype)

    def __dlpack__(self, **arguments: Any) -> Any:
        return self._real().detach().__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self._real().__dlpack_device__()

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return function(*unwrapped(tuple(args)), **unwrapped(dict(kwargs or {})))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        guard(self._torch)

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
            value = f" {self.item():g}" if self.dtype.is_floating_point else f" {self.item()}"
        return f"Tensor(shape={list(self.shape)}, dtype={self.dtype}, value={value})"
