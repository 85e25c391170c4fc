"""What concerns a model as a whole, whichever processes hold its parts: fingerprints, replicas, and plans of meshes.

`fingerprint` and `check_replicas`: each process reads what it holds, where it is; of that, a few integers are
communicated. What a tensor of a target is, and which box of it is here, is for `checkpoint`. `plan_mesh` says what
every rank of a mesh would hold and make, before there is one.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.distributed.fingerprints import Fingerprint, digest_of_stored, fingerprint
from tritonparam.distributed.mesh_plan import Family, MeshPlan, Surplus, family_name, plan_mesh
from tritonparam.distributed.mesh_shape import DIMENSIONS, MeshShape
from tritonparam.distributed.pipeline import Stages
from tritonparam.distributed.rank_plan import RankBuild, RankTensor
from tritonparam.distributed.replicas import ReplicaDifference, check_replicas
from tritonparam.distributed.speed import BANDWIDTH
from tritonparam.distributed.tensor_parallel import TP_STYLES

__all__ = [
    "BANDWIDTH",
    "DIMENSIONS",
    "TP_STYLES",
    "Family",
    "Fingerprint",
    "MeshPlan",
    "MeshShape",
    "RankBuild",
    "RankTensor",
    "ReplicaDifference",
    "Stages",
    "Surplus",
    "check_replicas",
    "digest_of_stored",
    "family_name",
    "fingerprint",
    "plan_mesh",
]

__dir__ = public_names(__name__)
