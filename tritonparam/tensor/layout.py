"""Layouts: which box of a tensor a process holds, as MindSpore's parallel layouts say it, or as torch's do."""

from __future__ import annotations

import math
from typing import Any

import torch

from tritonparam._arguments import got, shown
from tritonparam.plan import Box
from tritonparam.tensor.mesh import is_mesh_layout, mesh_box

_ENTRIES = ("device_matrix", "tensor_map", "slice_shape", "field_size", "uniform_split", "opt_shard_group")


def box_of(layout: Any, shape: tuple[int, ...], rank: int | None = None) -> Box:
    """The box of a tensor of `shape` that `layout` gives to process `rank`; together the boxes are the tensor.

    Args:
        layout: (device_matrix, tensor_map, slice_shape, field_size, uniform_split, opt_shard_group); entries after
            these are not looked at. `device_matrix` is how the processes are arranged, the last axis fastest.
            `tensor_map` says for each dimension along which axis, counted from the last, it is cut: -1 for none.
            `slice_shape` is what that must come to, before opt_shard_group. `field_size` must be 0 and `uniform_split`
            true: other slices are no boxes. `opt_shard_group` cuts the slice once more, along its first dimension: a
            torch ProcessGroup, or a pair (rank in the group, size of the group); None or "" for none.
            Or (device_mesh, placements), as for `mesh_box`.
        shape: Of the whole tensor.
        rank: None for that of torch.distributed.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: An entry is out of range or does not go with the others, or a dimension cannot be cut evenly.
        RuntimeError: rank is None and torch.distributed is not initialized.

    Examples:
        >>> box_of(([2, 4], [1, -1], [2, 4], 0, True, ""), (4, 4), rank=5)
        Box(offsets=(2, 0), sizes=(2, 4))
    """
    if not isinstance(layout, tuple):
        raise TypeError(f"layout must be a tuple {_ENTRIES} or (device_mesh, placements), {got(layout)}")
    if is_mesh_layout(layout):
        return mesh_box(layout, shape, rank)
    if len(layout) < len(_ENTRIES):
        raise ValueError(f"layout must have at least the {len(_ENTRIES)} entries {_ENTRIES}, got {shown(layout)}")
    matrix, axes = _axes(layout, shape)
    coordinates = _coordinates(matrix, _rank(math.prod(matrix), rank))
    offsets, sizes = [0] * len(shape), list(shape)
    for d, axis in enumerate(axes):
        if axis is not None:
            offsets[d], sizes[d] = _cut(d, shape[d], coordinates[axis], matrix[axis])
    if _ints("slice_shape", layout[2], 1) != tuple(sizes):
        raise ValueError(
            f"slice_shape (layout[2]) must be {tuple(sizes)} for shape {shape}, device_matrix {matrix} and tensor_map "
            f"{tuple(layout[1])}, got {shown(layout[2])}"
        )
    if not isinstance(layout[3], int) or layout[3]:
        raise ValueError(
            f"field_size (layout[3]) must be 0: rows interleaved by field are no box, got {shown(layout[3])}"
        )
    if not isinstance(layout[4], int) or not layout[4]:
        raise ValueError(
            f"uniform_split (layout[4]) must be true: uneven slices are not supported, got {shown(layout[4])}"
        )
    group = _group(layout[5])
    if group is not None:
        if not shape:
            raise ValueError("opt_shard_group (layout[5]) must be None for a scalar: there is no dimension to cut")
        start, sizes[0] = _cut(0, sizes[0], *group, "opt_shard_group (layout[5])")
        offsets[0] += start
    return Box(tuple(offsets), tuple(sizes))


def _ints(entry: str, values: Any, least: int) -> tuple[int, ...]:
    where = f"{entry} (layout[{_ENTRIES.index(entry)}])"
    if not isinstance(values, (list, tuple)) or any(type(value) is not int for value in values):
        raise TypeError(f"{where} must be a list or tuple of ints, got {shown(values)}")
    if any(value < least for value in values):
        raise ValueError(f"{where} must hold ints >= {least}, got {shown(values)}")
    return tuple(values)


def _axes(layout: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], list[int | None]]:
    """The device matrix, and for each dimension the axis of it that cuts the dimension."""
    matrix, mapped = _ints("device_matrix", layout[0], 1), _ints("tensor_map", layout[1], -1)
    if len(mapped) != len(shape):
        raise ValueError(
            f"tensor_map (layout[1]) must have one entry for each dimension of {shape}, got {shown(layout[1])}"
        )
    used = [axis for axis in mapped if axis != -1]
    if any(axis >= len(matrix) for axis in used):
        raise ValueError(f"tensor_map (layout[1]) must name axes below {len(matrix)}, or -1, got {shown(layout[1])}")
    if len(used) != len(set(used)):
        raise ValueError(f"tensor_map (layout[1]) must name no axis twice, got {shown(layout[1])}")
    return matrix, [None if axis == -1 else len(matrix) - 1 - axis for axis in mapped]


def _coordinates(matrix: tuple[int, ...], rank: int) -> list[int]:
    coordinates = []
    for size in reversed(matrix):
        rank, coordinate = divmod(rank, size)
        coordinates.append(coordinate)
    return coordinates[::-1]


def _rank(processes: int, rank: int | None) -> int:
    if rank is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise RuntimeError("rank must be given with layout unless torch.distributed is initialized, got None")
        rank = torch.distributed.get_rank()
    if type(rank) is not int:
        raise TypeError(f"rank must be an int, {got(rank)}")
    if not 0 <= rank < processes:
        raise ValueError(f"rank must be in [0, {processes}), the processes of device_matrix, got {shown(rank)}")
    return rank


def _group(group: Any) -> tuple[int, int] | None:
    """Rank in and size of the group."""
    if group is None or (isinstance(group, str) and not group):
        return None
    if torch.distributed.is_available() and isinstance(group, torch.distributed.ProcessGroup):
        group = (torch.distributed.get_rank(group), torch.distributed.get_world_size(group))
    if not isinstance(group, tuple) or len(group) != 2 or any(type(value) is not int for value in group):
        raise TypeError(
            "opt_shard_group (layout[5]) must be None, '', a torch ProcessGroup or a pair of ints (rank, size), "
            f"got {shown(group)}"
        )
    rank, size = group
    if not 0 <= rank < size:
        raise ValueError(f"opt_shard_group (layout[5]) must be (rank, size) with 0 <= rank < size, got {shown(group)}")
    return rank, size


def _cut(d: int, size: int, index: int, parts: int, argument: str = "layout") -> tuple[int, int]:
    """Start and length of part `index` of a dimension."""
    if size % parts:
        raise ValueError(
            f"{argument} must cut every dimension evenly, got {parts} parts of dimension {d} of size {size}"
        )
    return index * (size // parts), size // parts
