"""`tritonparam plan`: what every rank of a mesh would hold and make of a model, as a table, JSON or a picture."""

from __future__ import annotations

from tritonparam.cli.plan.picture import plot_plan
from tritonparam.cli.plan.planning import Planned, checked_mesh, plan_spec, read_tp_plan
from tritonparam.cli.plan.printing import plan_json, plan_text

__all__ = [
    "Planned",
    "checked_mesh",
    "plan_json",
    "plan_spec",
    "plan_text",
    "plot_plan",
    "read_tp_plan",
]
