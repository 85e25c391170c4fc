"""What is to be written where: `Fill` and `Copy` on boxes of tensors, gathered in a `Plan` that a backend runs.

Nothing else writes to a tensor's memory. `backends/` is who runs a plan; it alone imports the kernels. Which values a
box has is for `stream`, and what a tensor is to hold, for `tensor`.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.plan.arrays import view_of_array
from tritonparam.plan.backends import CompileStep, Launches, kernels_ahead, launches_of, loops_ahead, resolve_backend
from tritonparam.plan.box_set import BoxSet
from tritonparam.plan.box_sum import Sum
from tritonparam.plan.boxes import as_box, box_in, box_of_box, meeting_pair, meets_any
from tritonparam.plan.copy import CAST_DTYPES, Copy, CopyColumns
from tritonparam.plan.devices import MissingDeviceError, checked_device, named_device
from tritonparam.plan.fill import RANDOM_DTYPES, Fill
from tritonparam.plan.fill_columns import FillColumns
from tritonparam.plan.huge_pages import ask_for_huge_pages
from tritonparam.plan.memory import (
    bytes_spanned,
    check_memory,
    check_strided,
    check_writable,
    is_a_run,
    is_deferred,
    overlap,
)
from tritonparam.plan.plan import Plan
from tritonparam.plan.summing import sums
from tritonparam.plan.views import Box, Placement, View, apart, cut_boxes, placement

__all__ = [
    "CAST_DTYPES",
    "RANDOM_DTYPES",
    "Box",
    "BoxSet",
    "CompileStep",
    "Copy",
    "CopyColumns",
    "Fill",
    "FillColumns",
    "Launches",
    "MissingDeviceError",
    "Placement",
    "Plan",
    "Sum",
    "View",
    "apart",
    "as_box",
    "ask_for_huge_pages",
    "box_in",
    "box_of_box",
    "bytes_spanned",
    "check_memory",
    "check_strided",
    "check_writable",
    "checked_device",
    "cut_boxes",
    "is_a_run",
    "is_deferred",
    "kernels_ahead",
    "launches_of",
    "loops_ahead",
    "meeting_pair",
    "meets_any",
    "named_device",
    "overlap",
    "placement",
    "resolve_backend",
    "sums",
    "view_of_array",
]

__dir__ = public_names(__name__)
