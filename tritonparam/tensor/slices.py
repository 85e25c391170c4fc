"""Slices as MindSpore's `Tensor.init_data` counts them, as boxes of the whole tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tritonparam._arguments import integer, shown
from tritonparam.plan import Box
from tritonparam.tensor.layout import box_of
from tritonparam.tensor.storage import as_shape


def slice_box(
    whole: tuple[int, ...], slice_index: int | None, shape: int | Sequence[int] | None, opt_shard_group: Any
) -> Box:
    """The box of slice `slice_index` among those of size `shape`, in row-major order, that `whole` consists of.

    Args:
        whole: The shape that is cut.
        slice_index: 0 <= slice_index < number of slices; None where there is only one.
        shape: Each size divides that of `whole`; None for `whole`.
        opt_shard_group: As for layouts.

    Raises:
        TypeError, ValueError: An argument is none of these.

    Examples:
        >>> slice_box((4, 6), 3, (2, 2), None)
        Box(offsets=(2, 0), sizes=(2, 2))
    """
    sizes = whole if shape is None else as_shape(shape)
    if len(sizes) != len(whole) or any(n % size for n, size in zip(whole, sizes, strict=True)):
        raise ValueError(f"shape must cut {shown(whole)} into equal slices, got {shown(sizes)}")
    grid = tuple(n // size for n, size in zip(whole, sizes, strict=True))
    count = math.prod(grid)
    if slice_index is None and count > 1:
        raise ValueError(f"slice_index must be given where shape {sizes} makes {count} slices of {whole}, got None")
    index = 0 if slice_index is None else slice_index
    index = integer("slice_index", index)
    if not 0 <= index < count:
        raise ValueError(f"slice_index must be in [0, {count}), got {shown(index)}")
    axes = tuple(range(len(grid)))[::-1]
    return box_of((grid, axes, sizes, 0, True, opt_shard_group), whole, index)
