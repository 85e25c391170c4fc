"""Layouts as torch says them: which boxes of a tensor a process of a device mesh holds, cut as DTensor cuts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tritonparam._arguments import got, shown
from tritonparam.plan import Box

Runs = list[tuple[int, int]]  # of the indices along a dimension: where each begins, and how many there are


class Cut(NamedTuple):
    """How one dimension of a mesh cuts a tensor.

    Attributes:
        dim: The dimension of the tensor, from 0.
        split: Into how many chunks it is cut first, of each of which every process has its part; as the split factor
            of torch's `_StridedShard`. 1 for a plain shard.
    """

    dim: int
    split: int = 1


class Held(NamedTuple):
    """A box of a tensor that a process holds.

    Attributes:
        box: Which box of the whole.
        place: Which box of what the process holds.
    """

    box: Box
    place: Box


def dtensor_type() -> type[torch.Tensor] | None:
    """The class of torch's DTensors, if anybody has imported it."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def is_dtensor(value: object) -> bool:
    """Whether `value` is a DTensor of torch; nothing is imported to find out."""
    kind = dtensor_type()
    return kind is not None and isinstance(value, kind)


def is_mesh_layout(layout: tuple[Any, ...]) -> bool:
    """Whether `layout` starts with a torch DeviceMesh."""
    if not layout or not torch.distributed.is_available():
        return False
    from torch.distributed.device_mesh import DeviceMesh

    return isinstance(layout[0], DeviceMesh)


def mesh_box(layout: tuple[Any, ...], shape: tuple[int, ...], rank: int | None = None) -> Box:
    """The box of a tensor of `shape` that `torch.distributed.tensor.distribute_tensor` gives to process `rank`.

    Args:
        layout, shape, rank: As for `mesh_boxes`.

    Raises:
        TypeError, ValueError: As for `mesh_boxes`; or what the process holds is more than one box.
    """
    runs = _runs(layout, shape, rank)
    if any(len(each) > 1 for each in runs):
        raise ValueError(f"placements (layout[1]) must give each process one box, got {shown(layout[1])}")
    return Box(tuple(start for ((start, _),) in runs), tuple(size for ((_, size),) in runs))


def mesh_boxes(
    layout: tuple[Any, ...],
    shape: tuple[int, ...],
    rank: int | None = None,
    local: tuple[int, ...] | None = None,
) -> list[Held]:
    """The boxes of a tensor of `shape` that DTensor gives to process `rank`, and where they lie in its local tensor.

    Each placement in turn cuts what those before it left into pieces as `torch.chunk` does: all of one size but the
    last, which may be shorter, or empty as those after it are. Nothing is communicated.

    fully_shard, over what tensor parallelism has cut along the same dimension, cuts again each of these pieces. Its
    placements, a `_StridedShard` and a Shard, say so; but read in turn they say something else where rows do not come
    out even. `local` tells the two apart.

    Args:
        layout: (device_mesh, placements), with a Shard, _StridedShard or Replicate for each dimension of the mesh.
        shape: Of the whole tensor.
        rank: The global rank; None for that of this process.
        local: The shape of the local tensor; None for what the placements say.

    Returns:
        Boxes that have elements, in the order of the local tensor.

    Raises:
        TypeError: placements is no list or tuple of Placements, or rank is no int.
        ValueError: A placement is of another kind or has no dimension to cut, there are more or fewer of them than the
            mesh has dimensions, the process is not in the mesh, or no reading of the placements gives `local`.
    """
    runs = _runs(layout, shape, rank)
    if local is None or _sizes(runs) == tuple(local):
        return held(runs)
    said = _sizes(runs)
    runs = _runs(layout, shape, rank, inner_first=True)
    both_empty = 0 in local and 0 in _sizes(runs) and len(local) == len(said)  # fully_shard cuts nothing to (0, 0, n)
    if _sizes(runs) != tuple(local) and not both_empty:
        raise ValueError(
            f"a local tensor must have the shape {said} that its placements {shown(layout[1])} say, got {local}"
        )
    return held(runs)


def held(runs: Sequence[Runs]) -> list[Held]:
    """The boxes with elements that `runs` along each dimension make, in row-major order of the local tensor.

    Examples:
        >>> held([[(0, 2), (5, 1)], [(3, 4)]])[1]
        Held(box=Box(offsets=(5, 3), sizes=(1, 4)), place=Box(offsets=(2, 0), sizes=(1, 4)))
    """
    placed = [[(start, size, at) for (start, size), at in zip(each, _places(each), strict=True)] for each in runs]
    found = []
    for spans in itertools.product(*placed):
        sizes = tuple(size for _, size, _ in spans)
        if 0 not in sizes:
            box = Box(tuple(start for start, _, _ in spans), sizes)
            found.append(Held(box, Box(tuple(at for _, _, at in spans), sizes)))
    return found


def cut_runs(
    shape: Sequence[int], cuts: Sequence[Cut | None], parts: Sequence[int], coordinate: Sequence[int]
) -> list[Runs]:
    """What one process holds along each dimension of a tensor of `shape`: runs of indices, at least one of them.

    Args:
        shape: Of the whole tensor.
        cuts: What each dimension of the mesh cuts, in turn; None for nothing.
        parts: The sizes of the mesh.
        coordinate: Where the process is in it.

    Examples:
        >>> cut_runs((7, 4), (Cut(0), None), (2, 3), (1, 0))
        [[(4, 3)], [(0, 4)]]
        >>> cut_runs((8,), (Cut(0, split=2),), (2,), (1,))
        [[(2, 2), (6, 2)]]
    """
    runs: list[Runs] = [[(0, size)] for size in shape]
    for cut, count, index in zip(cuts, parts, coordinate, strict=True):
        if cut is not None:
            pieces = [_chunk(runs[cut.dim], cut.split, piece) for piece in range(cut.split)]
            runs[cut.dim] = _merged([run for piece in pieces for run in _chunk(piece, count, index)])
    return runs


def _chunk(runs: Runs, parts: int, index: int) -> Runs:
    """One of the pieces that torch.chunk makes of the indices in `runs`; a run of none where it is empty."""
    total = sum(size for _, size in runs)
    step = -(-total // parts)
    first = min(index * step, total)
    last = min(first + step, total)
    found = []
    at = 0
    for start, size in runs:
        low, high = max(first, at), min(last, at + size)
        if low < high:
            found.append((start + low - at, high - low))
        at += size
    end = runs[-1][0] + runs[-1][1]
    return found or [(min(runs[0][0] + first, end), 0)]


def _merged(runs: Runs) -> Runs:
    """The same indices in as few runs as can be."""
    found: Runs = []
    for start, size in runs:
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + size)
        elif size or not found:
            if found and not found[-1][1]:
                found.pop()
            found.append((start, size))
    return found


def _places(runs: Runs) -> list[int]:
    return list(itertools.accumulate((size for _, size in runs[:-1]), initial=0))


def _sizes(runs: Sequence[Runs]) -> tuple[int, ...]:
    return tuple(sum(size for _, size in each) for each in runs)


def _runs(
    layout: tuple[Any, ...], shape: tuple[int, ...], rank: int | None, *, inner_first: bool = False
) -> list[Runs]:
    """`cut_runs` of a layout; with `inner_first`, a strided shard cuts last, and what is left then."""
    if len(layout) != 2:
        raise ValueError(f"layout must be (device_mesh, placements), got {len(layout)} entries: {shown(layout)}")
    mesh, placements = layout
    cuts, parts = cuts_of(placements, mesh.ndim, len(shape)), tuple(mesh.shape)
    coordinate = _coordinates(mesh, rank)
    if inner_first:
        strided = [d for d, cut in enumerate(cuts) if cut is not None and cut.split > 1]
        order = [*(d for d in range(len(cuts)) if d not in strided), *reversed(strided)]
        cuts = [None if (cut := cuts[d]) is None else Cut(cut.dim) for d in order]
        parts, coordinate = tuple(parts[d] for d in order), tuple(coordinate[d] for d in order)
    return cut_runs(shape, cuts, parts, coordinate)


def cuts_of(placements: Any, mesh_ndim: int, ndim: int) -> list[Cut | None]:
    """For each dimension of the mesh, how it cuts a tensor of `ndim` dimensions; errors are as for `mesh_boxes`."""
    from torch.distributed.tensor.placement_types import Placement, Replicate, Shard, _StridedShard

    if not isinstance(placements, (list, tuple)) or not all(isinstance(each, Placement) for each in placements):
        raise TypeError(f"placements (layout[1]) must be a list or tuple of torch Placements, got {shown(placements)}")
    if len(placements) != mesh_ndim:
        raise ValueError(
            f"placements (layout[1]) must have one entry for each of the {mesh_ndim} dimensions of the mesh, "
            f"got {shown(placements)}"
        )
    cuts: list[Cut | None] = []
    for placement in placements:
        if type(placement) in (Shard, _StridedShard):
            if not -ndim <= placement.dim < ndim:
                raise ValueError(
                    f"placements (layout[1]) must cut one of the {ndim} dimensions of the tensor, "
                    f"got {shown(placement)}"
                )
            cuts.append(Cut(placement.dim % ndim, getattr(placement, "split_factor", 1)))
        elif type(placement) is Replicate:
            cuts.append(None)
        else:
            raise ValueError(f"placements (layout[1]) must hold Shard and Replicate only, got {shown(placement)}")
    return cuts


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
