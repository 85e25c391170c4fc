"""Several processes that save or load one checkpoint: who they are, what they compare, and who writes what of it."""

from __future__ import annotations

from tritonparam.checkpoint.joint.agreement import facts_of_load
from tritonparam.checkpoint.joint.division import Division, divide
from tritonparam.checkpoint.joint.offer import BOXES, NOTHING, WHOLE, Held, Offer
from tritonparam.checkpoint.joint.team import Team

__all__ = ["BOXES", "NOTHING", "WHOLE", "Division", "Held", "Offer", "Team", "divide", "facts_of_load"]
