"""Layouts: how a mesh cuts each tensor of a model, and which of its ranks have some of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tritonparam.distributed.mesh_shape import MeshShape
from tritonparam.distributed.pipeline import Stages
from tritonparam.distributed.tensor_parallel import checked_tp_plan, own_tp_plan, tp_cut
from tritonparam.module import Declaration
from tritonparam.tensor import Cut, Runs, cut_runs

_MOST_BYTES = 1 << 62  # so that counts of 64 bits hold every sum


@dataclass(frozen=True)
class Layout:
    """How one tensor lies on a mesh.

    Tensor parallelism cuts first, and `fully_shard` cuts what that leaves, along dimension 0: so do torchtitan and
    transformers, and DTensor says so by `_StridedShard` where both cut one dimension.

    Attributes:
        declaration: The tensor.
        dtype: That it will have.
        tp: How tensor parallelism cuts it; None for not at all.
        is_sharded: Whether data parallelism does.
        stages: The stages of the pipeline that have it.

    Examples:
        >>> from tritonparam import declarations, deferred_init
        >>> with deferred_init():
        ...     (weight,) = declarations(torch.nn.Linear(6, 4, bias=False))
        >>> layout = Layout(weight, torch.bfloat16, Cut(1), True, (0,))
        >>> layout.runs(MeshShape(dp_shard=2, tp=3), {"dp_shard": 1, "cp": 0, "tp": 2})
        [[(2, 2)], [(4, 2)]]
    """

    declaration: Declaration
    dtype: torch.dtype
    tp: Cut | None
    is_sharded: bool
    stages: tuple[int, ...]

    @property
    def cuts(self) -> tuple[Cut | None, Cut | None]:
        """What tensor and data parallelism cut, in turn."""
        return self.tp, Cut(0) if self.is_sharded else None

    def runs(self, mesh: MeshShape, at: dict[str, int]) -> list[Runs]:
        """The indices that a rank of its stages has along each dimension."""
        places = at["tp"], mesh.shard_of(at)
        return cut_runs(self.declaration.shape, self.cuts, (mesh.tp, mesh.shards), places)

    @property
    def is_given(self) -> bool:
        """Whether its values are there already, so that nothing is made."""
        return self.declaration.history is None

    @property
    def is_made_whole(self) -> bool:
        """Whether a part of it can only be had by making all of it: what is replayed."""
        return self.declaration.laws is None and not self.is_given


def layouts_of(
    module: torch.nn.Module,
    declared: Sequence[Declaration],
    mesh: MeshShape,
    dtype: torch.dtype | None = None,
    tp_plan: Any = None,
) -> list[Layout]:
    """How `mesh` cuts every tensor that `module` declares; buffers are whole on each rank.

    Args:
        module: The model.
        declared: What it declares.
        mesh: Any.
        dtype: As for `materialize`.
        tp_plan: As for `plan_mesh`.

    Raises:
        TypeError, ValueError: As for `plan_mesh`.
    """
    plan = {} if tp_plan is None else checked_tp_plan(module, tp_plan)
    if mesh.tp > 1 and tp_plan is None:
        own = own_tp_plan(module)
        if own is None:
            raise ValueError(
                f"tp_plan must be given for tp={mesh.tp}, since {type(module).__name__} comes with none: names of its "
                "modules, with * for a number between dots, and their styles, such as {'layers.*.up': 'colwise'}"
            )
        plan = own
    stages = Stages(module, mesh.pp)
    found = []
    for each in declared:
        names = (each.name, *each.aliases)
        is_parameter = each.kind == "parameter"
        if is_parameter and mesh.shards > 1 and not each.shape:
            raise ValueError(
                f"dp_shard must be 1 for a model with parameters without dimensions, which fully_shard refuses, got "
                f"{mesh.shards} shards and {each.name}"
            )
        cut = tp_cut(plan, names, each.shape) if is_parameter and mesh.tp > 1 else None
        found.append(
            Layout(each, each.dtype_in(dtype), cut, is_parameter and mesh.shards > 1, stages.of(each.kind, names))
        )
    if sum(math.prod(each.declaration.shape) * each.dtype.itemsize for each in found) >= _MOST_BYTES:
        raise ValueError("the tensors of module must come to less than 2**62 bytes, and come to more")
    return found
