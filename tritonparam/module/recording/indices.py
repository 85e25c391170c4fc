"""Indices: which elements an index chooses is asked of the index alone, so that what it chooses from stays deferred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_MASKS = (torch.bool, torch.uint8)
_INDEX: Any = torch.ops.aten.index.Tensor

Values = Callable[[torch.Tensor], torch.Tensor]
Known = Callable[[torch.Tensor], torch.Tensor]


def as_index(func: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """`masked_select` as the index that it is; any other call as it came."""
    if func is not torch.ops.aten.masked_select.default:
        return func, args
    tensor, mask = args
    tensor, mask = torch.broadcast_tensors(tensor, mask)  # type: ignore[no-untyped-call]
    return _INDEX, (tensor, [mask])


def is_index(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call chooses elements by tensors whose values say how many these are, or nothing does."""
    return func is _INDEX and all(each is None or each.dtype not in _MASKS or each.dim() for each in args[1])


def without_masks(
    args: tuple[Any, ...], values: Values, known: Known, is_random: Callable[[torch.Tensor], bool]
) -> tuple[Any, ...]:
    """The arguments of an index, with numbers for masks.

    Args:
        args: The tensor and the indices, one for each of its first dimensions, a mask for as many as it has; None for
            all of a dimension.
        values: What gives the values of a deferred tensor.
        known: What gives a deferred tensor of these values.
        is_random: Whether the values of a deferred tensor depend on the seed; those of an index are not asked for then.

    Raises:
        IndexError: A mask has another shape, or a number lies beyond the tensor.
    """
    tensor, indices = args
    asked = [each if each is None or _stays(each, is_random) else values(each) for each in indices]
    if not any(each is not None and each.is_meta for each in asked):
        _INDEX(torch.zeros((), dtype=torch.bool).expand(tensor.shape), asked)
    return tensor, [place for each, real in zip(indices, asked, strict=True) for place in _places(each, real, known)]


def _stays(index: torch.Tensor, is_random: Callable[[torch.Tensor], bool]) -> bool:
    return index.dtype not in _MASKS and is_random(index)


def _places(index: Any, real: Any, known: Known) -> Sequence[Any]:
    if index is None or index.dtype not in _MASKS:
        return [index]
    return [known(places) for places in real.nonzero(as_tuple=True)]
