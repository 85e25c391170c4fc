"""Boxes that a caller gives: what is taken for one, and which of many meet."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tritonparam._arguments import got, shown
from tritonparam.plan.views import Box

if TYPE_CHECKING:
    import numpy.typing as npt


def as_box(argument: str, box: Any) -> Box:
    """`box` as a Box: one, or anything that has `offsets` and `sizes`, as the chunks of torch's checkpoints do.

    Raises:
        TypeError: It has none, or they hold no ints.

    Examples:
        >>> from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
        >>> import torch
        >>> as_box("box", ChunkStorageMetadata(torch.Size([1]), torch.Size([2])))
        Box(offsets=(1,), sizes=(2,))
    """
    try:
        return Box(box.offsets, box.sizes)
    except ValueError as error:
        raise ValueError(f"{argument} must be a Box: {error}") from None
    except Exception:
        raise TypeError(f"{argument} must be a Box, or have offsets and sizes of ints, {got(box)}") from None


def box_in(argument: str, box: Any, shape: tuple[int, ...]) -> Box:
    """`box` as a Box of a tensor of `shape`.

    Raises:
        TypeError: It is none.
        ValueError: It does not lie in the tensor.
    """
    checked = as_box(argument, box)
    if not checked.lies_in(shape):
        raise ValueError(f"{argument} must lie in a tensor of shape {shown(shape)}, got {shown(checked)}")
    return checked


def box_of_box(outer: Box, inner: Box) -> Box:
    """The box `inner` of what lies in `outer`, as a box of what `outer` is one of.

    Examples:
        >>> box_of_box(Box((4, 2), (3, 3)), Box((1, 0), (2, 3)))
        Box(offsets=(5, 2), sizes=(2, 3))
    """
    return Box(tuple(map(operator.add, outer.offsets, inner.offsets)), inner.sizes)


def _ends(boxes: Sequence[Box], rank: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one past the last index of each box in each dimension. [boxes, rank]"""
    offsets = np.array([box.offsets for box in boxes], np.int64).reshape(len(boxes), rank)
    return offsets, offsets + np.array([box.sizes for box in boxes], np.int64).reshape(len(boxes), rank)


def meeting_pair(boxes: Sequence[Box]) -> tuple[int, int] | None:
    """Two of the boxes, by their numbers, that have an element in common; None where there are none.

    Examples:
        >>> meeting_pair([Box((0,), (2,)), Box((4,), (2,)), Box((1,), (2,))])
        (0, 2)
    """
    numbers = [number for number, box in enumerate(boxes) if all(box.sizes)]
    if len(numbers) < 2:
        return None
    rank = len(boxes[0].sizes)
    if not rank:
        return numbers[0], numbers[1]
    lows, highs = _ends([boxes[number] for number in numbers], rank)
    # Along one dimension a box can only meet those that start before it ends: take that where they are fewest.
    ways = []
    for d in range(rank):
        order = np.argsort(lows[:, d], kind="stable")
        stops = np.searchsorted(lows[order, d], highs[order, d])
        ways.append((int(stops.sum()), order, stops))
    _, order, stops = min(ways, key=lambda way: way[0])
    lows, highs = lows[order], highs[order]
    for place, stop in enumerate(stops):
        later = slice(place + 1, int(stop))
        met = ((lows[later] < highs[place]) & (lows[place] < highs[later])).all(axis=1)
        if met.any():
            pair = sorted((numbers[order[place]], numbers[order[place + 1 + int(met.argmax())]]))
            return pair[0], pair[1]
    return None


def meets_any(boxes: Sequence[Box], others: Sequence[Box]) -> list[bool]:
    """Of each of `boxes`, whether it has an element in common with one of `others`.

    Examples:
        >>> meets_any([Box((0,), (2,)), Box((4,), (2,))], [Box((5,), (3,))])
        [False, True]
    """
    if not boxes or not others:
        return [False] * len(boxes)
    rank = len(others[0].sizes)
    lows, highs = _ends([box for box in others if all(box.sizes)], rank)
    starts, stops = _ends(boxes, rank)
    return [
        all(box.sizes) and bool(((lows < stop) & (start < highs)).all(axis=1).any())
        for box, start, stop in zip(boxes, starts, stops, strict=True)
    ]
