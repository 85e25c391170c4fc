"""Shortcuts: the operators that constructors consist of, noted without the general way where a call of them is plain.

The general way (`Recorder.dispatch`) follows any operator by its schema. A constructor makes memory, draws into it,
fills it with numbers, shows and copies it; what comes of that is known beforehand, and torch's kernel for the meta
device, which is slow for draws, need not be asked. A shortcut leaves on the tape what the general way would, and
leaves to that way whatever is not plain: given generators, pinned memory, memory that an array shares, tensors that
were written to unseen, dtypes without laws, numbers that torch refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch

from tritonparam.module.covers import recognize
from tritonparam.module.operators import bind, check_drawing
from tritonparam.module.recognize import recognized
from tritonparam.module.source import Elements
from tritonparam.module.tape import Draw, Drawn, History, Version
from tritonparam.plan import View

_META = torch.device("meta")
_HOST = torch.device("cpu")
_NUMBERS = frozenset((float, int, bool))


class Block(Protocol):
    """What a shortcut has to know of the block that it notes in."""

    def begin(self, tensor: torch.Tensor, history: History) -> History:
        """Give a new tensor its history."""

    def is_seen(self, history: History) -> bool:
        """Whether no unseen write to a history needs to be looked for."""


Shortcut = Callable[[Block, Any, tuple[Any, ...], dict[str, Any]], Any]


def _write(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Draw into a tensor, or fill it with a number."""
    tensor, history = args[0], _history(block, args[0])
    if history is None or (kwargs and (len(kwargs) > 1 or kwargs.get("generator", func) is not None)):
        return NotImplemented
    return tensor if _noted(history, tensor, func, args[1:]) else NotImplemented


def _make(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a tensor of a shape."""
    device = kwargs.get("device")
    device = _HOST if device is None or device == _META else device
    names_dtype = kwargs.get("dtype") is not None
    return _made(block, func, args, 1, kwargs, device, names_dtype)


def _make_like(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a tensor like another one: of its shape, or of one that is given."""
    like, device, history = args[0], kwargs.get("device"), _history(block, args[0])
    if history is None:
        return NotImplemented
    device = history.device if device is None else _HOST if device == _META else device
    names_dtype = kwargs.get("dtype") is not None or (history.names_dtype and like.is_floating_point())
    return _made(block, func, args, 2 if func in _OF_A_GIVEN_SHAPE else 1, kwargs, device, names_dtype)


def _made(
    block: Block,
    func: Any,
    args: tuple[Any, ...],
    leading: int,
    kwargs: dict[str, Any],
    device: torch.device,
    names_dtype: bool,
) -> Any:
    """The new tensor of a call that has `leading` arguments before its numbers."""
    if kwargs.get("pin_memory") or kwargs.get("layout") not in (None, torch.strided):
        return NotImplemented
    on_meta = {**kwargs, "device": _META}
    try:
        # What these are like is told by their shapes; the rest of their kernels' work is for nothing.
        out = torch.empty(args[0], **on_meta) if func in _AS_EMPTY else func(*args, **on_meta)
    except RuntimeError:  # which the general way raises, if it cannot help it
        return NotImplemented
    if func in _EMPTY:
        block.begin(out, History(device, names_dtype))
        return out
    begun = History(device, names_dtype)
    if not _noted(begun, out, func, args[leading:], leading):
        return NotImplemented
    block.begin(out, begun)
    return out


def _show(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a view, which its storage tells all of."""
    history = History.of(args[0])
    if history is None or kwargs or not block.is_seen(history):
        return NotImplemented
    try:
        return func(*args)
    except RuntimeError:
        return NotImplemented


def _clone(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Copy a tensor that has laws."""
    tensor, history = args[0], _history(block, args[0])
    if history is None:
        return NotImplemented
    place = _place_of(tensor)
    pieces = None if place is None else recognize(history.head, place.view)
    if pieces is None:
        return NotImplemented
    out = torch.Tensor.clone(tensor, **kwargs)
    begun = History(history.device, history.names_dtype and tensor.is_floating_point())
    copied = _place_of(out)
    if len(pieces) == 1 and copied is not None:
        _note(begun, out, copied, pieces[0].drawn)
    else:
        begun.write_pieces(out, pieces)
    block.begin(out, begun)
    return out


def _history(block: Block, tensor: torch.Tensor) -> History | None:
    """The history of a tensor that is deferred, has no memory, and was not written to unseen; None of any other."""
    history = History.of(tensor)
    return history if history is not None and history.live is None and block.is_seen(history) else None


def _noted(history: History, tensor: torch.Tensor, func: Any, numbers: tuple[Any, ...], leading: int = 0) -> bool:
    """Note that all of `tensor` was filled by a call with these numbers; False where that is not plain."""
    place = _place_of(tensor)
    if place is None or not _NUMBERS.issuperset(map(type, numbers)):
        return False
    # What 0.0 stands for is not what -0.0, 0 and False do, though they are equal.
    drawn = _filled(func, tensor.dtype, leading, numbers, repr(numbers) if numbers else "")
    if drawn is None:
        return False
    if drawn.draw is not None:
        shape = place.view.shape
        drawn = Drawn(drawn.law, Draw(shape), _all_of(len(shape)))
    _note(history, tensor, place, drawn)
    return True


def _note(history: History, tensor: torch.Tensor, place: _Place, drawn: Drawn) -> None:
    nbytes = tensor.untyped_storage().nbytes()
    history.head = Version(None if place.is_all else history.head, place.view, drawn, nbytes)


@dataclass(frozen=True, slots=True)
class _Place:
    """Which elements of a storage a tensor shows, and whether these are all."""

    view: View
    is_all: bool


def _place_of(tensor: torch.Tensor) -> _Place | None:
    """None where two of the elements may be one, or the storage has their conjugates or negatives."""
    if tensor.is_conj() or tensor.is_neg() or type(tensor.numel()) is not int:  # as while something is traced
        return None
    nbytes = tensor.untyped_storage().nbytes()
    return _place(tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, nbytes)


@lru_cache(maxsize=4096)
def _place(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: torch.dtype, nbytes: int
) -> _Place | None:
    view = View(tuple(shape), stride, offset, dtype)
    return None if view.numel and view.axes() is None else _Place(view, view.fills(nbytes))


@lru_cache(maxsize=64)
def _all_of(dimensions: int) -> Elements:
    return Elements.all_of((1,) * dimensions)


@lru_cache(maxsize=4096)
def _filled(func: Any, dtype: torch.dtype, leading: int, numbers: tuple[Any, ...], text: str) -> Drawn | None:
    """What the general way makes of such a call, tried on two elements; None where that, or torch, has no law.

    Torch looks less closely at what it fills one element or none with: all the more is left to the general way.
    """
    sample = torch.empty(2, dtype=dtype, device=_META)
    args: tuple[Any, ...] = ((sample,), (sample if _is_like(func) else (2,),), (sample, (2,)))[leading]
    kwargs = {"dtype": dtype, "device": _META} if leading else {}
    bound = bind(func, (*args, *numbers), kwargs)
    try:
        check_drawing(func, bound, [] if leading else [sample])
        out = func(*args, *numbers, **kwargs)
        pieces = recognized(func, bound, out)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return None
    return pieces[0].drawn if pieces is not None and len(pieces) == 1 and out.dtype == dtype else None


def _is_like(func: Any) -> bool:
    return bool(func._schema.arguments[0].name == "self")


_aten = torch.ops.aten
_EMPTY = frozenset((_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default))
_AS_EMPTY = frozenset(
    (_aten.empty.memory_format, *(getattr(_aten, name).default for name in ("zeros", "ones", "rand", "randn")))
)
_OF_A_GIVEN_SHAPE = frozenset(
    (_aten.new_empty.default, _aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default)
)
SHORTCUTS: dict[Any, Shortcut] = {
    **dict.fromkeys((_aten.uniform_.default, _aten.normal_.default, _aten.fill_.Scalar, _aten.zero_.default), _write),
    **dict.fromkeys((_aten.empty.memory_format, _aten.zeros.default, _aten.ones.default, _aten.full.default), _make),
    **dict.fromkeys((_aten.rand.default, _aten.randn.default), _make),
    **dict.fromkeys(_OF_A_GIVEN_SHAPE, _make_like),
    **dict.fromkeys((_aten.empty_like.default, _aten.zeros_like.default, _aten.ones_like.default), _make_like),
    **dict.fromkeys((_aten.full_like.default, _aten.rand_like.default, _aten.randn_like.default), _make_like),
    **dict.fromkeys((_aten.detach.default, _aten.select.int, _aten.slice.Tensor), _show),
    **dict.fromkeys((_aten.view.default, _aten.expand.default, _aten.t.default, _aten.transpose.int), _show),
    **dict.fromkeys((_aten.permute.default, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.unbind.int), _show),
    **dict.fromkeys((_aten.split.Tensor, _aten.split_with_sizes.default), _show),
    _aten.clone.default: _clone,
}
"""The shortcut of each operator that has one: NotImplemented is what it gives where a call is not plain."""
