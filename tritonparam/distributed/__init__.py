"""Models on meshes of processes: `plan_mesh` says what every rank would hold and make, before there is one."""

from __future__ import annotations

from tritonparam.distributed.mesh_plan import Family, MeshPlan, Surplus, plan_mesh
from tritonparam.distributed.mesh_shape import DIMENSIONS, MeshShape
from tritonparam.distributed.pipeline import Stages
from tritonparam.distributed.rank_plan import RankBuild, RankTensor
from tritonparam.distributed.speed import BANDWIDTH
from tritonparam.distributed.tensor_parallel import TP_STYLES

__all__ = [
    "BANDWIDTH",
    "DIMENSIONS",
    "TP_STYLES",
    "Family",
    "MeshPlan",
    "MeshShape",
    "RankBuild",
    "RankTensor",
    "Stages",
    "Surplus",
    "plan_mesh",
]
