"""`tritonparam inspect`: every tensor of a checkpoint against what it should have been drawn from, told or drawn."""

from __future__ import annotations

from tritonparam.cli.inspect.inspection import inspect_checkpoint, stored_bytes
from tritonparam.cli.inspect.plot import check_plot, plot_inspection
from tritonparam.cli.inspect.printing import inspection_json, print_inspection

__all__ = [
    "check_plot",
    "inspect_checkpoint",
    "inspection_json",
    "plot_inspection",
    "print_inspection",
    "stored_bytes",
]
