"""From what the user names as a model and a mesh to a plan; what is wrong is found before the model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint import UsageError, read_json_object
from tritonparam.cli.init import model_of
from tritonparam.distributed import BANDWIDTH, MeshPlan, MeshShape, RankBuild, plan_mesh

_MOST_RULES = 1_000_000  # bytes


@dataclass(frozen=True)
class Planned:
    """A plan and what it is of.

    Attributes:
        spec: SPEC as the user wrote it.
        dtype: That parameters have; None for each tensor's own.
        plan: What every rank would hold.
        rank: The rank that was asked for; None where none was.
        build: Its plan, or that of the most loaded rank, as it was built here.
    """

    spec: str
    dtype: torch.dtype | None
    plan: MeshPlan
    rank: int | None
    build: RankBuild


def checked_mesh(text: str, rank: int | None) -> MeshShape:
    """The mesh of --mesh, if it has the rank of --rank.

    Raises:
        UsageError: It is none, or has no such rank.
    """
    try:
        mesh = MeshShape.parse(text, "--mesh")
    except ValueError as error:
        known = str(error).startswith("--mesh")
        raise UsageError(str(error) if known else f"--mesh {shown(text)}: {error}") from None
    if rank is not None and rank >= mesh.ranks:
        raise UsageError(f"--rank must be an int in [0, {mesh.ranks}), the ranks of --mesh, got {rank}")
    return mesh


def read_tp_plan(path: Path | None) -> dict[str, str] | None:
    """The rules in the file of --tp-plan.

    Raises:
        UsageError: It is no JSON object of names and styles.
        OSError: It cannot be read.
    """
    if path is None:
        return None
    try:
        values = read_json_object(path, _MOST_RULES)
    except ValueError as error:
        raise UsageError(f"--tp-plan {path}: {error}") from None
    if not all(isinstance(style, str) for style in values.values()):
        raise UsageError(f"--tp-plan {path}: must hold names and styles, such as {{'layers.*.up': 'colwise'}}")
    return values


def plan_spec(
    spec: str,
    mesh: MeshShape,
    *,
    dtype: torch.dtype | None = None,
    tp_plan: Mapping[str, str] | None = None,
    bandwidth: float | None = None,
    rank: int | None = None,
) -> Planned:
    """Plan the model of SPEC, and build one rank's plan.

    Args:
        spec: As for `tritonparam init`.
        mesh: The mesh.
        dtype: Of parameters; that of SPEC where None.
        tp_plan, bandwidth: As for `plan_mesh`; None for an H100's bandwidth.
        rank: Whose plan is built; the most loaded one's where None.

    Raises:
        UsageError: SPEC names no model, or one that cannot lie on the mesh.
        CheckpointError: The model cannot be built here.
    """
    module, own = model_of(spec)
    chosen = own if dtype is None else dtype
    try:
        speed = BANDWIDTH if bandwidth is None else bandwidth
        plan = plan_mesh(module, mesh, dtype=chosen, tp_plan=tp_plan, bandwidth=speed)
        build = plan.build(rank)
    except ValueError as error:
        raise UsageError(f"{spec}: {str(error).replace('tp_plan', '--tp-plan')}") from None
    return Planned(spec, chosen, plan, rank, build)
