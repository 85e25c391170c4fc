"""Whether a checkpoint and a target go together: which tensor goes into which, and whether memory can be written."""

from __future__ import annotations

from tritonparam.checkpoint.matching.landing import check_landing
from tritonparam.checkpoint.matching.match import LoadReport, Match

__all__ = ["LoadReport", "Match", "check_landing"]
