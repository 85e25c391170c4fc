"""Mesh plans: what every rank of a mesh would hold and make of a model, before there is a mesh."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._arguments import got, shown
from tritonparam.distributed.layouts import Layout, layouts_of
from tritonparam.distributed.loads import Load, load_key, load_of
from tritonparam.distributed.mesh_shape import MeshShape
from tritonparam.distributed.rank_plan import RankBuild, RankTensor, build_rank, rank_tensors
from tritonparam.distributed.spans import Integers
from tritonparam.distributed.speed import BANDWIDTH
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module import declarations

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def family_name(name: str) -> str:
    """The name of a tensor with * for each number between dots.

    Examples:
        >>> family_name("transformer.h.11.mlp.c_fc.weight")
        'transformer.h.*.mlp.c_fc.weight'
    """
    return _NUMBER.sub("*", name)


@dataclass(frozen=True, eq=False)
class Family:
    """Tensors of one shape and layout whose names differ only in numbers.

    Attributes:
        name: Their name, with * for the numbers.
        layouts: Them.
        load: What one of them costs each rank.
        stages: int64 of shape [pp]: how many of them each stage has.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     plan = plan_mesh(torch.nn.Linear(4, 3), "dp_shard=2")
        >>> [(each.name, each.nbytes, each.load.nbytes.tolist()) for each in plan.families]
        [('weight', 48, [[32, 16]]), ('bias', 12, [[8, 4]])]
    """

    name: str
    layouts: tuple[Layout, ...]
    load: Load = field(repr=False)
    stages: Integers

    @property
    def nbytes(self) -> int:
        """Of all of them, whole."""
        first = self.layouts[0]
        return len(self.layouts) * math.prod(first.declaration.shape) * first.dtype.itemsize


class Surplus(NamedTuple):
    """Why one rank holds more than another.

    Attributes:
        family: The tensors.
        nbytes: How much more of them it holds.
        reason: The dimension that does not come out even, with how much of it either rank has, or the stages.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     plan = plan_mesh(torch.nn.Linear(4, 3), "dp_shard=2")
        >>> plan.surplus(0, 1)[0].nbytes
        16
    """

    family: Family
    nbytes: int
    reason: str


@dataclass(frozen=True, eq=False)
class MeshPlan:
    """What every rank of a mesh holds of a model and makes; `plan_mesh` builds it.

    All arrays have one entry for each rank.

    Attributes:
        mesh: The mesh.
        families: The model's tensors.
        bandwidth: GB/s that `seconds` is predicted for.
        nbytes: int64: of the boxes that it holds, buffers included.
        tensors: int64: how many it holds some of.
        boxes: int64: how many boxes are written.
        launches: int64: how many kernel launches write them: one for all that have laws; not counted is what is
            made whole for a moment.
        peak_nbytes: int64: nbytes, and the largest tensor that is made whole for a moment beside them.
        seconds: float64: how long writing the values that have laws takes a GPU, as predicted.
        layouts: How each tensor lies on the mesh, in the order of the model.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     plan = plan_mesh(torch.nn.Linear(4, 3), "dp_shard=2")
        >>> plan.most_loaded, plan.least_loaded, plan.nbytes.tolist(), plan.whole_nbytes
        (0, 1, [40, 20], 60)
    """

    mesh: MeshShape
    families: tuple[Family, ...] = field(repr=False)
    bandwidth: float
    nbytes: Integers = field(repr=False)
    tensors: Integers = field(repr=False)
    boxes: Integers = field(repr=False)
    launches: Integers = field(repr=False)
    peak_nbytes: Integers = field(repr=False)
    seconds: NDArray[np.float64] = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)

    @cached_property
    def most_loaded(self) -> int:
        """The first of the ranks that hold the most bytes."""
        return int(self.nbytes.argmax())

    @cached_property
    def least_loaded(self) -> int:
        """The last of the ranks that hold the fewest bytes."""
        return int(len(self.nbytes) - 1 - self.nbytes[::-1].argmin())

    @property
    def whole_nbytes(self) -> int:
        """The bytes of the model on one rank."""
        return sum(each.nbytes for each in self.families)

    def tensors_of(self, rank: int) -> list[RankTensor]:
        """What a rank holds of each tensor of its stage, in the order of the model.

        Raises:
            TypeError, ValueError: There is no such rank.
        """
        return rank_tensors(self.layouts, self.mesh, rank)

    def build(self, rank: int | None = None) -> RankBuild:
        """Build the plan of a rank, of the most loaded one where None, as on that rank, and time it; nothing is made.

        Raises:
            TypeError, ValueError: There is no such rank.
        """
        return build_rank(self.layouts, self.mesh, self.most_loaded if rank is None else rank)

    def surplus(self, rank: int | None = None, other: int | None = None) -> list[Surplus]:
        """Of which tensors a rank holds more than another, most first.

        Args:
            rank: The one; the most loaded where None.
            other: The other; the least loaded where None.

        Raises:
            TypeError, ValueError: There is no such rank.
        """
        ranks = (
            self.most_loaded if rank is None else rank,
            self.least_loaded if other is None else other,
        )
        more, less = (self.mesh.coordinate(each) for each in ranks)
        found = []
        for family in self.families:
            nbytes = self.held(family, more) - self.held(family, less)
            if nbytes > 0:
                found.append(Surplus(family, nbytes, self._reason(family, *ranks)))
        return sorted(found, key=lambda each: -each.nbytes)

    def held(self, family: Family, at: Mapping[str, int]) -> int:
        """The bytes of a family that a rank holds, from where it is along each dimension of the mesh."""
        nbytes = np.broadcast_to(family.load.nbytes, (self.mesh.tp, self.mesh.shards))
        return int(nbytes[at["tp"], self.mesh.shard_of(at)] * family.stages[at["pp"]])

    def _reason(self, family: Family, more: int, less: int) -> str:
        both = [self.mesh.coordinate(rank) for rank in (more, less)]
        here, there = (int(family.stages[at["pp"]]) for at in both)
        if here != there:
            return f"{here} in stage {both[0]['pp']}, {there} in stage {both[1]['pp']}"
        layout = family.layouts[0]
        sizes = [[sum(size for _, size in runs) for runs in layout.runs(self.mesh, at)] for at in both]
        return "; ".join(
            f"dimension {dim}: {layout.declaration.shape[dim]:,} in {self._parts(layout, dim):,} parts, "
            f"{a:,} on rank {more}, {b:,} on rank {less}"
            for dim, (a, b) in enumerate(zip(*sizes, strict=True))
            if a != b
        )

    def _parts(self, layout: Layout, dim: int) -> int:
        counts = (self.mesh.tp, self.mesh.shards)
        return math.prod(
            count for count, cut in zip(counts, layout.cuts, strict=True) if cut is not None and cut.dim == dim
        )


def plan_mesh(
    module: torch.nn.Module,
    mesh: MeshShape | str | Mapping[str, int],
    *,
    dtype: DTypeLike | None = None,
    tp_plan: Mapping[str, str] | None = None,
    bandwidth: float = BANDWIDTH,
) -> MeshPlan:
    """What every rank of a mesh would hold and make of a deferred model; nothing is allocated or communicated.

    Layouts are those of torchtitan and transformers. tp cuts parameters as a plan says; `fully_shard` cuts what that
    leaves of every parameter along dimension 0, into dp_shard times cp parts; dp_replicate repeats that; pp gives the
    layers to stages in equal parts (`Stages`). Buffers are whole on each rank of their stages, and so are tensors that
    a module holds as attributes. Tied tensors count once; tensors that show parts of one storage count each. What
    `fully_shard` pads is not counted.

    Args:
        module: A model that was built inside `deferred_init`; tensors that are real count, and are not made.
        mesh: Sizes of pp, dp_replicate, dp_shard, cp and tp, as a MeshShape, a mapping, or a text such as
            "dp_shard=128,tp=8".
        dtype: As for `materialize`.
        tp_plan: What tensor parallelism cuts: names of modules or parameters, with * for a number between dots, and
            styles (`TP_STYLES`); None for the plan that a model of transformers comes with.
        bandwidth: Of the memory of a GPU, in GB/s, for the prediction; an H100's where not given.

    Returns:
        The plan; its time and memory grow with the number of ranks, and with that of the tensors.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range; the model has no plan for tp, no single list of layers for pp, or a
            parameter without dimensions for dp_shard; tensors were never written.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 10)
        >>> plan = plan_mesh(model, "dp_shard=4")
        >>> plan.nbytes.tolist(), plan.boxes.tolist()
        ([60, 60, 60, 20], [2, 2, 2, 2])
        >>> plan.surplus()[0].reason
        'dimension 0: 10 in 4 parts, 3 on rank 0, 1 on rank 3'
    """
    shape = MeshShape.of(mesh)
    if isinstance(bandwidth, bool) or not isinstance(bandwidth, (int, float)):
        raise TypeError(f"bandwidth must be a number of GB/s, {got(bandwidth)}")
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be a positive number of GB/s, got {shown(bandwidth)}")
    layouts = layouts_of(module, declarations(module), shape, float_dtype(dtype), tp_plan)
    families = _families(layouts, shape)
    return MeshPlan(shape, families, float(bandwidth), **_columns(families, shape, bandwidth), layouts=tuple(layouts))


def _families(layouts: Sequence[Layout], mesh: MeshShape) -> tuple[Family, ...]:
    groups: dict[tuple[Any, ...], list[Layout]] = {}
    for layout in layouts:
        name = family_name(layout.declaration.name)
        groups.setdefault((name, load_key(layout)), []).append(layout)
    loads: dict[tuple[Any, ...], Load] = {}
    found = []
    for (name, key), group in groups.items():
        if key not in loads:
            loads[key] = load_of(group[0], mesh)
        stages = np.bincount([stage for each in group for stage in each.stages], minlength=mesh.pp)
        found.append(Family(name, tuple(group), loads[key], stages.astype(np.int64)))
    return tuple(found)


def _columns(families: Sequence[Family], mesh: MeshShape, bandwidth: float) -> dict[str, Any]:
    """The arrays of a `MeshPlan`, summed over [pp, tp, shards] and then laid out by rank."""
    shape = (mesh.pp, mesh.tp, mesh.shards)
    names = ("nbytes", "tensors", "boxes", "fills", "whole")
    nbytes, tensors, boxes, fills, whole = (np.zeros(shape, np.int64) for _ in names)
    seconds = np.zeros(shape)
    for family in families:
        load, count = family.load, family.stages[:, None, None]
        nbytes += count * load.nbytes
        tensors += count * (load.nbytes > 0)
        boxes += count * load.boxes
        fills += count * load.fills
        seconds += count * load.seconds
        np.maximum(whole, np.where(count > 0, load.whole_nbytes, 0), out=whole)
    columns: dict[str, NDArray[Any]] = {
        "nbytes": nbytes,
        "tensors": tensors,
        "boxes": boxes,
        "launches": (fills > 0).astype(np.int64),
        "peak_nbytes": nbytes + whole,
        "seconds": seconds / bandwidth,
    }
    return {name: _by_rank(column, mesh) for name, column in columns.items()}


def _by_rank(column: NDArray[Any], mesh: MeshShape) -> NDArray[Any]:
    """[pp, tp, shards] as [ranks], the replicas repeated."""
    ordered = column.transpose(0, 2, 1)[:, None]
    return np.broadcast_to(ordered, (mesh.pp, mesh.dp_replicate, mesh.shards, mesh.tp)).reshape(-1)
