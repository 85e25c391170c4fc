"""copy_slices: boxes of one tensor into boxes of another, or of the same one, in one plan."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from tritonparam._arguments import entries, got, shown
from tritonparam.dtype import as_dtype
from tritonparam.plan import CAST_DTYPES, Box, View, as_box, check_memory, check_writable, meeting_pair, meets_any
from tritonparam.tensor import REALIZING, Tensor, Writes, cast_content, lazy_like, realize, shares_memory

if TYPE_CHECKING:
    import numpy.typing as npt

_Source: TypeAlias = "torch.Tensor | npt.NDArray[Any]"


def copy_slices(dst: torch.Tensor | Tensor, src: _Source | Tensor, boxes: Iterable[Any]) -> None:
    """Copy boxes of `src` into boxes of `dst`, cast to its dtype as by torch's `copy_`, in one plan.

    All is read before anything is written: the two may be one tensor, or share memory in any way, and no more than the
    boxes that meet what is written are staged. Of a lazy `src` the boxes are drawn and nothing else, and it stays lazy;
    a lazy `dst` becomes real first. What lies on another device is moved first, box by box. Autograd takes no note, and
    a `dst` that requires a gradient is written as under `torch.no_grad`; a graph that needs its old values finds out.

    Args:
        dst: A torch tensor, of any strides without overlap, a Tensor or a Parameter.
        src: One of these, of any strides, or a NumPy array.
        boxes: Each entry is a box, the same in both, or a pair (box of dst, box of src) of the same sizes. A box is
            a `Box` or has `offsets` and `sizes`, as the chunks of torch.distributed.checkpoint do.

    Raises:
        TypeError: An argument is of another type, or there is no cast between the two dtypes.
        ValueError: A box does not lie in its tensor, two boxes of a pair differ in size, two boxes of dst meet, dst
            overlaps itself, or one of the two has no values that can be read or written. Nothing has changed then.

    Examples:
        >>> from tritonparam import Box, copy_slices
        >>> x = torch.arange(6)
        >>> copy_slices(x, x, [(Box((1,), (5,)), Box((0,), (5,)))])
        >>> x
        tensor([0, 0, 1, 2, 3, 4])
    """
    lock = REALIZING if isinstance(dst, Tensor) or isinstance(src, Tensor) else nullcontext()
    with lock, torch.no_grad():
        target = _checked("dst", dst)
        source = src if isinstance(src, np.ndarray) else _checked("src", src)
        out_dtype, dtype = as_torch(target.dtype), as_torch(source.dtype, "the dtype of src")
        if out_dtype != dtype and not CAST_DTYPES.issuperset((out_dtype, dtype)):
            raise TypeError(f"src must be of a dtype that can be cast to {out_dtype}, got {dtype}")
        outs, parts = _pairs(boxes, tuple(target.shape), tuple(source.shape))
        if isinstance(target, torch.Tensor):
            check_writable("dst", target)
        else:
            realize([target])
            target = target._torch.detach()
        source = source._torch.detach() if isinstance(source, Tensor) and not source.has_init else source
        writes = Writes()
        if isinstance(source, Tensor):
            lazy = lazy_like(source)
            law = cast_content(lazy._law, lazy.dtype, as_dtype(out_dtype), lazy.shape)  # type: ignore[arg-type]
            for out, part in zip(outs, parts, strict=True):
                writes.law(out.of(target), law, lazy._key, lazy.shape, part.offsets, fresh=False)
        else:
            staged = _to_stage(target, outs, source, parts)
            for out, part, stage in zip(outs, parts, staged, strict=True):
                writes.copy(out.of(target), _part(source, part), stage=stage, fresh=False)
        writes.run()


def as_torch(dtype: Any, argument: str = "dtype") -> torch.dtype:
    """The torch dtype of a dtype of anybody."""
    return dtype if isinstance(dtype, torch.dtype) else as_dtype(dtype, argument).torch


def _checked(argument: str, tensor: Any) -> torch.Tensor | Tensor:
    """A lazy Tensor as it is; else memory, without its history."""
    if isinstance(tensor, Tensor):
        if tensor.has_init:
            return tensor
        tensor = tensor._torch
    if not isinstance(tensor, torch.Tensor):
        allowed = "a torch tensor, a Tensor or a Parameter" + (", or a NumPy array" if argument == "src" else "")
        raise TypeError(f"{argument} must be {allowed}, {got(tensor)}")
    return check_memory(argument, tensor).detach()


def _pairs(boxes: Iterable[Any], out_shape: tuple[int, ...], shape: tuple[int, ...]) -> tuple[list[Box], list[Box]]:
    outs, parts = [], []
    for index, entry in enumerate(entries("boxes", boxes, "an iterable of boxes and pairs of boxes")):
        is_pair = isinstance(entry, (tuple, list)) and not hasattr(entry, "sizes")
        pair = entry if is_pair else (entry, entry)
        if len(pair) != 2:
            raise TypeError(f"boxes must hold boxes and pairs of boxes, got {shown(entry)} at {index}")
        out, part = (as_box("boxes", box) for box in pair)
        for name, box, whole in (("dst", out, out_shape), ("src", part, shape)):
            if not box.lies_in(whole):
                raise ValueError(f"boxes must lie in {name} of shape {shown(whole)}, got {shown(box)} at {index}")
        if out.sizes != part.sizes:
            raise ValueError(
                f"boxes must be of the same sizes in dst and src, got {shown(out)} and {shown(part)} at {index}"
            )
        outs.append(out)
        parts.append(part)
    met = meeting_pair(outs)
    if met is not None:
        raise ValueError(f"boxes must not meet in dst, got {outs[met[0]]} at {met[0]} and {outs[met[1]]} at {met[1]}")
    return outs, parts


def _part(source: _Source, box: Box) -> _Source:
    if isinstance(source, torch.Tensor):
        return box.of(source)
    index: Any = (*map(slice, box.offsets, map(operator.add, box.offsets, box.sizes)), ...)
    part: npt.NDArray[Any] = source[index]
    return part


def _to_stage(target: torch.Tensor, outs: Sequence[Box], source: _Source, parts: Sequence[Box]) -> list[bool]:
    """Of each box of `source`, whether it shares memory with any box of `target` that is written."""
    if not shares_memory(target, source):
        return [False] * len(parts)
    if isinstance(source, torch.Tensor) and source.data_ptr() == target.data_ptr() and _same_view(source, target):
        return meets_any(parts, outs)
    written = [out.of(target) for out in outs]
    return [any(shares_memory(out, part) for out in written) for part in (_part(source, box) for box in parts)]


def _same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    first, second = View.of(one), View.of(other)
    return (first.shape, first.stride, first.dtype) == (second.shape, second.stride, second.dtype)
