"""Loads: what a tensor costs every rank of a mesh, worked out once for all tensors of one shape and layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritonparam.distributed.layouts import Layout
from tritonparam.distributed.mesh_shape import MeshShape
from tritonparam.distributed.spans import Integers, spans_of
from tritonparam.distributed.speed import fraction_of_bandwidth
from tritonparam.plan import Box


@dataclass(frozen=True, eq=False)
class Load:
    """What one tensor costs the ranks of the stages that have it.

    All arrays are of shape [tp, shards], or have 1 there where the ranks do not differ.

    Attributes:
        nbytes: int64: of the boxes that they hold.
        boxes: int64: how many boxes are written.
        fills: int64: how many of them are rows of a launch.
        whole_nbytes: int64: what is made beside them for a moment: the whole tensor, or 0.
        seconds: float64: how long the values take to be written at 1 GB/s, as predicted.
    """

    nbytes: Integers
    boxes: Integers
    fills: Integers
    whole_nbytes: Integers
    seconds: NDArray[np.float64]


def load_key(layout: Layout) -> tuple[Any, ...]:
    """What a load depends on beside the mesh: tensors with equal keys have equal loads."""
    each = layout.declaration
    laws = None if each.laws is None else tuple((law.offsets, law.sizes, law.law.kind) for law in each.laws)
    return each.shape, layout.dtype, layout.cuts, laws, layout.is_made_whole, layout.is_given


def load_of(layout: Layout, mesh: MeshShape) -> Load:
    """What a tensor costs; dimension by dimension, so that only coordinates that differ are looked at."""
    each, size = layout.declaration, layout.dtype.itemsize
    cuts = list(zip((mesh.tp, mesh.shards), layout.cuts, strict=True))
    dimensions = []
    for dim, extent in enumerate(each.shape):
        mine = [(count, cut) for count, cut in cuts if cut is not None and cut.dim == dim]
        shape = [count if cut is not None and cut.dim == dim else 1 for count, cut in cuts]
        dimensions.append((spans_of(extent, [(count, cut.split) for count, cut in mine]), shape))

    def met(box: Box) -> tuple[Integers, Integers]:
        """How many elements of a box of the tensor each rank has, and in how many boxes."""
        elements = boxes = np.ones((1, 1), np.int64)
        for (spans, shape), low, extent in zip(dimensions, box.offsets, box.sizes, strict=True):
            along, runs = spans.met(low, low + extent)
            elements, boxes = elements * along.reshape(shape), boxes * runs.reshape(shape)
        return elements, boxes

    elements, boxes = met(Box.whole(each.shape))
    seconds, none = np.zeros((1, 1)), np.zeros((1, 1), np.int64)
    if layout.is_given:
        return Load(elements * size, none, none, none, seconds)
    is_part = elements < math.prod(each.shape)
    is_made_whole = (is_part & (elements > 0) & layout.is_made_whole).astype(np.int64)
    if each.laws is None:
        return Load(elements * size, boxes, none, is_made_whole * math.prod(each.shape) * size, seconds)
    fills = none
    for law in each.laws:
        inside, rows = met(Box(law.offsets, law.sizes))
        fills = fills + rows
        seconds = seconds + inside * (size / 1e9 / fraction_of_bandwidth(law.law.kind, layout.dtype))
    # Of a tensor that is made whole first, boxes are copied out of it.
    written = np.where(is_made_whole > 0, boxes, fills)
    fills = np.where(is_made_whole > 0, 0, fills)
    return Load(elements * size, written, fills, is_made_whole * math.prod(each.shape) * size, seconds)
