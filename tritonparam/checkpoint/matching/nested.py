"""Tensors of a module that show a part of another one, as a fused weight and its pieces; both may be stored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from tritonparam.checkpoint.stored import Checkpoint, StoredTensor, same_bytes
from tritonparam.checkpoint.targets import Slot
from tritonparam.plan import Placement, View, placement


class Nested(NamedTuple):
    """A tensor all of whose elements are elements of another one.

    Attributes:
        inner, outer: The two.
        spot: Where the first lies in the second: as a box, or, of rows of numbers, after how many of them it begins.
    """

    inner: Slot
    outer: Slot
    spot: Placement | int


def nested(slots: Iterable[Slot]) -> list[Nested]:
    """Which of `slots`, of a module, are boxes of another one: each with the largest that it lies in."""
    by_memory: dict[object, list[tuple[Slot, View]]] = {}
    for slot in slots:
        memory, view = _memory(slot)
        if view is not None and view.numel and slot.is_whole:
            by_memory.setdefault(memory, []).append((slot, view))
    found = []
    for group in by_memory.values():
        outermost: list[tuple[Slot, View]] = []
        for slot, view in sorted(group, key=lambda each: -each[1].numel):
            spots = ((outer, _spot(view, whole)) for outer, whole in outermost if whole.dtype == view.dtype)
            hit = next(((outer, spot) for outer, spot in spots if spot is not None), None)
            if hit is None:
                outermost.append((slot, view))
            else:
                found.append(Nested(slot, *hit))
    return found


def _spot(view: View, whole: View) -> Placement | int | None:
    spot = placement(view, whole)
    start = view.offset - whole.offset
    if spot is None and view.row_major() and whole.row_major() and 0 <= start <= whole.numel - view.numel:
        return start
    return spot


def _memory(slot: Slot) -> tuple[object, View | None]:
    """What memory a tensor is in, real or deferred, and as which view."""
    if slot.declaration is not None and slot.declaration.stand_ins:  # each has memory of its own
        return None, None
    if slot.declaration is not None and slot.declaration.history is not None:
        return slot.declaration.history.key, slot.declaration.view
    if type(slot.values) not in (torch.Tensor, torch.nn.Parameter) or slot.values is None:
        return None, None
    if slot.values.layout != torch.strided or slot.values.is_meta:
        return None, None
    return (slot.values.device, slot.values.untyped_storage().data_ptr()), View.of(slot.values)


def agrees(stored: Checkpoint, inner: StoredTensor, outer: StoredTensor, spot: Placement | int) -> bool:
    """Whether what is stored of two nested tensors has the same bytes where both are; they are read for that."""
    if inner.dtype != outer.dtype or len(inner.saved) != 1 or len(outer.saved) != 1:
        return False
    own, whole = inner.saved[0], outer.saved[0]
    if isinstance(spot, int):
        shown = (
            stored.view(outer, whole, whole.box).reshape(-1).narrow(0, spot, math.prod(inner.shape)).view(inner.shape)
        )
    else:
        part = stored.view(outer, whole, spot.box)
        along = [k for k in spot.dims if k is not None]
        rest = [k for k in range(part.dim()) if k not in along]  # where it goes one far
        shown = part.permute(*along, *rest).reshape(inner.shape)
    return same_bytes(stored.view(inner, own, own.box), shown)
