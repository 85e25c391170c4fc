"""Layouts as torch says them: which box of a tensor a process of a device mesh holds, cut as DTensor cuts."""

from __future__ import annotations

from typing import Any

import torch

from tritonparam._arguments import got, shown
from tritonparam.plan import Box


def is_mesh_layout(layout: tuple[Any, ...]) -> bool:
    """Whether `layout` starts with a torch DeviceMesh."""
    if not layout or not torch.distributed.is_available():
        return False
    from torch.distributed.device_mesh import DeviceMesh

    return isinstance(layout[0], DeviceMesh)


def mesh_box(layout: tuple[Any, ...], shape: tuple[int, ...], rank: int | None = None) -> Box:
    """The box of a tensor of `shape` that `torch.distributed.tensor.distribute_tensor` gives to process `rank`.

    Each placement in turn cuts what those before it left into pieces as `torch.chunk` does: all of one size but the
    last, which may be shorter, or empty as those after it are. Nothing is communicated.

    Args:
        layout: (device_mesh, placements), with a Shard or Replicate for each dimension of the mesh.
        shape: Of the whole tensor.
        rank: The global rank; None for that of this process.

    Raises:
        TypeError: placements is no list or tuple of Placements, or rank is no int.
        ValueError: A placement is of another kind or has no dimension to cut, there are more or fewer of them than
            the mesh has dimensions, or the process is not in the mesh.
    """
    if len(layout) != 2:
        raise ValueError(f"layout must be (device_mesh, placements), got {len(layout)} entries: {shown(layout)}")
    mesh, placements = layout
    dims = _dims(placements, mesh.ndim, len(shape))
    offsets, sizes = [0] * len(shape), list(shape)
    for d, parts, index in zip(dims, mesh.shape, _coordinates(mesh, rank), strict=True):
        if d is not None:
            step = -(-sizes[d] // parts)
            start = min(index * step, sizes[d])
            offsets[d] += start
            sizes[d] = min(step, sizes[d] - start)
    return Box(tuple(offsets), tuple(sizes))


def _dims(placements: Any, mesh_ndim: int, ndim: int) -> list[int | None]:
    """For each dimension of the mesh, the dimension of the tensor that it cuts."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import Placement

    if not isinstance(placements, (list, tuple)) or not all(isinstance(each, Placement) for each in placements):
        raise TypeError(f"placements (layout[1]) must be a list or tuple of torch Placements, got {shown(placements)}")
    if len(placements) != mesh_ndim:
        raise ValueError(
            f"placements (layout[1]) must have one entry for each of the {mesh_ndim} dimensions of the mesh, "
            f"got {shown(placements)}"
        )
    dims: list[int | None] = []
    for placement in placements:
        # Not its subclasses: in torch 2.7 the strided shards, which are no boxes, are among them.
        if type(placement) is Shard:
            if not -ndim <= placement.dim < ndim:
                raise ValueError(
                    f"placements (layout[1]) must cut one of the {ndim} dimensions of the tensor, "
                    f"got {shown(placement)}"
                )
            dims.append(placement.dim % ndim)
        elif type(placement) is Replicate:
            dims.append(None)
        else:
            raise ValueError(f"placements (layout[1]) must hold Shard and Replicate only, got {shown(placement)}")
    return dims


def _coordinates(mesh: Any, rank: int | None) -> tuple[int, ...]:
    if rank is None:
        own = mesh.get_coordinate()
        if own is None:
            raise ValueError(
                f"rank must be given where this process is not in the device mesh: it is rank "
                f"{torch.distributed.get_rank()}, which is none of the mesh's {mesh.size()}"
            )
        return tuple(own)
    if type(rank) is not int:
        raise TypeError(f"rank must be an int, {got(rank)}")
    found = (mesh.mesh == rank).nonzero().tolist()
    if not found:
        raise ValueError(f"rank must be one of the {mesh.size()} ranks of the device mesh, got {shown(rank)}")
    return tuple(found[0])
