"""The surface of deferred tensors: to the code that builds a model they look like those they stand for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from tritonparam.module.operators import autocast_functions
from tritonparam.module.recognize import is_finite
from tritonparam.module.recording.memory import address
from tritonparam.module.recording.notes import is_random
from tritonparam.module.recording.recorder import Recorder, recorder
from tritonparam.module.tape import History

_META = torch.device("meta")


def _methods(*names: str) -> frozenset[Any]:
    return frozenset(getattr(torch.Tensor, name) for name in names if hasattr(torch.Tensor, name))


# What asks for values.
_LOOKS = _methods(
    *("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
    *("__contains__", "__repr__", "__format__", "is_nonzero", "equal", "allclose"),
) | {torch.is_nonzero, torch.equal, torch.allclose}
# What shows the memory itself, to NumPy or another library.
_SHOWS = _methods("numpy", "__array__", "__dlpack__")
# What C++ makes of Python numbers, or looks into, without a dispatcher that could be told of it.
_MAKES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor, torch.Tensor.new}
_ON_THE_HOST = {
    torch.unravel_index,
    torch.nn.functional.one_hot,
    torch.from_dlpack,  # type: ignore[attr-defined]
    torch.utils.dlpack.from_dlpack,
    torch.Tensor.__dlpack_device__,
}
_SPLITS = (torch.tensor_split, torch.Tensor.tensor_split)
_CALLS_PYTHON = _methods("apply_", "map_", "map2_")
# What is the same for every finite number, such as all that are drawn.
_FINITE = {
    function: name == "isfinite"
    for name in ("isfinite", "isinf", "isnan", "isposinf", "isneginf")
    for function in (getattr(torch, name), getattr(torch.Tensor, name))
}
_INDEXES = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class Surface(TorchFunctionMode):
    """Stands before the recorder at work, where torch's Python functions are called."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _LOOKED_INTO and "out" not in kwargs:
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                at_work = recorder()
                if at_work is None or at_work.is_paused:
                    raise
                return Call(at_work).made_after(error, func, args, kwargs)
        kwargs = _with_out(kwargs)
        at_work = recorder()
        if at_work is None or at_work.is_paused:
            return func(*args, **kwargs)
        return Call(at_work).made(func, args, kwargs)


class Call:
    """A call of one of torch's Python functions, as `recorder` has it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def made(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What it gives."""
        if func in _LOOKS:
            return func(*self._real(args), **self._real(kwargs))
        if func in _MAKES:
            made = self._made(func, args, kwargs)
            if _takes_default_dtype(func, args, kwargs) and (begun := History.of(made)) is not None:
                begun.names_dtype = False
            return made
        history = History.of(args[0]) if args else None
        if func in _INDEXES and history is not None:
            return func(args[0], self._index(args[1]), *args[2:], **kwargs)
        if func in _SPLITS and len(args) > 1 and isinstance(args[1], torch.Tensor):
            return func(args[0], self._recorder.values(args[1]).tolist(), *args[2:], **kwargs)
        if func is torch.nn.functional.one_hot and (classes := _classes(*args, **kwargs)) and is_random(args[0]):
            marks = torch.zeros(*args[0].shape, classes, dtype=torch.int64, device=args[0].device)
            return marks.scatter_(-1, args[0].unsqueeze(-1), 1)
        if func in _ON_THE_HOST:
            return tree_map(self._known, func(*self._real(args), **self._real(kwargs)))
        if history is None:
            return func(*args, **kwargs)
        if torch.is_autocast_enabled(history.device.type) and func in autocast_functions():
            # It looks at the device of what it is given, which is none that it knows.
            return tree_map(self._known, func(*self._real(args), **self._real(kwargs)))
        if func in _SHOWS:
            shared = self._recorder.shared(args[0])
            if shared is not None:
                return func(shared, *args[1:], **kwargs)
            return _read_only(func(*self._real(args), **self._real(kwargs)))
        if func in _FINITE:
            known = _FINITE[func] if is_finite(args[0]) else None
            if known is not None:
                return torch.full_like(args[0], known, dtype=torch.bool)
        if func in _CALLS_PYTHON:
            return args[0].copy_(func(self._recorder.values(args[0]).clone(), *self._real(args[1:])))
        if func is torch.Tensor.share_memory_:
            return args[0]
        if func is torch.Tensor.data_ptr:
            return address(self._recorder, args[0], history, sys._getframe(2))
        if func is torch.Tensor.type:
            return _type(*args, **kwargs) if len(args) + len(kwargs) > 1 else _type_name(args[0].dtype, history.device)
        seen = _SEEN.get(func)
        if seen is not None:
            return seen(history.device)
        if func in (torch.Tensor.to, torch.Tensor.cpu) and _stays(func, args, kwargs, history.device):
            return _retyped(args, kwargs) if func is torch.Tensor.to else args[0]
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            return self.made_after(error, func, args, kwargs)

    def made_after(self, error: RuntimeError, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What it gives where torch raised `error`.

        Raises:
            RuntimeError: It is that error, if it is no kernel's that looked into memory of a deferred tensor.
        """
        if "data is not allocated yet" not in str(error) or not args or History.of(args[0]) is None:
            raise error
        return self._at_once(func, args, kwargs)

    def _at_once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `func` gives, and leaves in its arguments, done with their values."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def real(value: object) -> object:
            if not isinstance(value, torch.Tensor) or History.of(value) is None:
                return value
            pairs.append((value, self._recorder.values(value).clone()))
            return pairs[-1][1]

        args, kwargs = tree_map(real, args), tree_map(real, kwargs)
        with self._recorder.paused():
            made = func(*args, **kwargs)
        with torch.no_grad():
            for tensor, after in pairs:
                if not torch.equal(self._recorder.values(tensor), after):
                    tensor.copy_(after)
        back = {id(after): tensor for tensor, after in pairs}
        return tree_map(lambda value: back.get(id(value), self._known(value)), made)

    def _real(self, values: Any) -> Any:
        return tree_map(
            lambda value: self._recorder.values(value) if isinstance(value, torch.Tensor) else value, values
        )

    def _known(self, value: object) -> object:
        return self._recorder.known(value) if isinstance(value, torch.Tensor) else value

    def _made(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor of Python numbers, and of deferred tensors among them."""
        if func not in (torch.Tensor.new_tensor, torch.Tensor.new):
            if _holds_deferred(args[1:]) or not args or History.of(args[0]) is not None:
                return func(*args, **kwargs)
            is_array = isinstance(args[0], np.ndarray)
            shows = is_array if func is torch.as_tensor else not isinstance(args[0], (list, tuple))
            if func in (torch.as_tensor, torch.asarray) and shows:
                with _disable_current_modes():  # it looks into memory, such as a file's, by other means under modes
                    real = func(*args, **kwargs)
                if is_array and not np.may_share_memory(real.numpy(force=True), args[0]):
                    return self._recorder.known(real)
                return self._recorder.sharing(real)
            return func(*self._numbers(args), **kwargs)
        history = History.of(args[0])
        if history is None:
            return func(*self._numbers(args), **kwargs)
        if func is torch.Tensor.new:
            if not (
                len(args) == 2
                and isinstance(args[1], (list, tuple, np.ndarray))
                and not isinstance(args[1], torch.Size)
            ):
                return func(*args, **kwargs)
            kwargs = {}
        data = kwargs.pop("data", None) if len(args) < 2 else args[1]
        kwargs = {"dtype": args[0].dtype, **{key: value for key, value in kwargs.items() if value is not None}}
        kwargs.setdefault("device", history.device)
        gradient = kwargs.pop("requires_grad", False)
        if isinstance(data, torch.Tensor):
            return data.detach().clone().to(kwargs["device"], kwargs["dtype"]).requires_grad_(gradient)
        device = kwargs.pop("device")
        made = torch.tensor(self._numbers((data,))[0], **kwargs)
        return made.to(device).requires_grad_(gradient)

    def _numbers(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Nested sequences with the values of the deferred tensors in them."""

        def number(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value if History.of(value) is None else self._recorder.values(value)
            if type(value) in (list, tuple):
                return type(value)(map(number, value))
            return value

        return tuple(number(value) for value in data)

    def _index(self, index: Any) -> Any:
        """An index with tensors that the recorder knows for sequences, and numbers for tensors without dimensions."""
        if isinstance(index, tuple):
            return tuple(self._one_index(each) for each in index)
        if isinstance(index, list) and _may_be_a_tuple(index):
            return [each if isinstance(each, torch.Tensor) else self._one_index(each) for each in index]
        return self._one_index(index)

    def _one_index(self, index: Any) -> Any:
        if isinstance(index, slice):
            return slice(*(self._bound(each) for each in (index.start, index.stop, index.step)))
        if isinstance(index, torch.Tensor) and not index.dim() and History.of(index) is not None:
            if index.dtype not in (torch.bool, torch.uint8):
                return self._bound(index)
            return bool(self._recorder.values(index)) if index.dtype == torch.bool else index
        if isinstance(index, (list, tuple, range, np.ndarray)):
            with torch.device("cpu"):
                numbers = index if isinstance(index, np.ndarray) else self._numbers((list(index),))[0]
                return torch.tensor(numbers, dtype=None if isinstance(index, np.ndarray) or len(index) else torch.int64)
        return index

    def _bound(self, value: Any) -> Any:
        return int(self._recorder.values(value)) if isinstance(value, torch.Tensor) else value


def _takes_default_dtype(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call makes a tensor of Python's numbers, without saying of which dtype."""
    named = kwargs.get("dtype") is not None or any(isinstance(value, torch.dtype) for value in args)
    data = args[0] if args else kwargs.get("data")
    of_numbers = isinstance(data, (bool, int, float, complex, list, tuple))
    return func in (torch.tensor, torch.as_tensor, torch.asarray) and of_numbers and not named


def _holds_deferred(values: Any) -> bool:
    return any(History.of(value) is not None for value in values)


def _may_be_a_tuple(index: list[Any]) -> bool:
    """Whether torch may take a list for a tuple of indices: if one in it is no number. It decides itself."""
    kinds = (slice, list, tuple, range, torch.Tensor)
    return any(each is None or each is Ellipsis or isinstance(each, kinds) for each in index)


def _read_only(array: Any) -> Any:
    """An array of the values, to which nothing that is written would be kept; dlpack has no word for that."""
    if not isinstance(array, np.ndarray):
        return array
    shown = array.view()
    shown.flags.writeable = False
    return shown


_SEEN: dict[Any, Callable[[torch.device], object]] = {
    torch.Tensor.device.__get__: lambda device: device,
    torch.Tensor.is_meta.__get__: lambda device: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda device: -1 if device.type == "cpu" else device.index or 0,
}


# All that `Call.made` answers, or has answered by other functions; the rest goes straight to torch.
_LOOKED_INTO = frozenset(
    (
        *(*_LOOKS, *_MAKES, *_INDEXES, *_SPLITS, *_ON_THE_HOST, *_SHOWS, *_FINITE, *_CALLS_PYTHON, *_SEEN),
        *(torch.Tensor.share_memory_, torch.Tensor.data_ptr, torch.Tensor.type, torch.Tensor.to, torch.Tensor.cpu),
        *autocast_functions(),
    )
)


def _stays(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> bool:
    """Whether a call of `to` or `cpu` leaves the tensor on the device it was made for."""
    if func is torch.Tensor.cpu:
        return device.type == "cpu"
    # `copy` stands behind non_blocking, and that behind a device and a dtype, or behind one of them, or a tensor.
    places = 4 if len(args) > 2 and (args[2] is None or isinstance(args[2], torch.dtype)) else 3
    if "copy" in kwargs or len(args) > places:
        return False
    target = torch._C._nn._parse_to(*args[1:], **kwargs)[0]
    return target is None or target in (_META, device)


def _retyped(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    _, dtype, _, memory_format = torch._C._nn._parse_to(*args[1:], **kwargs)
    tensor: torch.Tensor = args[0]
    return tensor.to(dtype or tensor.dtype, memory_format=memory_format or torch.preserve_format)


def _classes(tensor: torch.Tensor, num_classes: int = -1) -> int:
    """How many classes a call of `one_hot` names; 0 where it is to look how many there are."""
    return num_classes if isinstance(num_classes, int) and num_classes > 0 and History.of(tensor) else 0


def _type_name(dtype: torch.dtype, device: torch.device) -> str:
    with _disable_current_modes():
        name: str = torch.empty(0, dtype=dtype, device="cpu").type()
    return name if device.type == "cpu" else name.replace("torch.", f"torch.{device.type}.")


def _type(tensor: torch.Tensor, dtype: Any, non_blocking: bool = False) -> torch.Tensor:
    """A tensor as another type, which may name a device too, as in "torch.cuda.FloatTensor"."""
    if isinstance(dtype, torch.dtype):
        return tensor.to(dtype, non_blocking=non_blocking)
    name = dtype if isinstance(dtype, str) else torch.typename(dtype)
    on_host = name.replace("torch.cuda.", "torch.")
    with _disable_current_modes():
        wanted = torch.empty(0, dtype=torch.uint8, device="cpu").type(on_host).dtype
    return tensor.to("cpu" if name == on_host else "cuda", wanted, non_blocking=non_blocking)


def _with_out(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments whose device=, if it is that of a deferred out=, is that which torch will find there."""
    history = History.of(kwargs.get("out"))
    device = kwargs.get("device")
    if history is None or device is None or torch.device(device).type != history.device.type:
        return kwargs
    return {**kwargs, "device": _META}
