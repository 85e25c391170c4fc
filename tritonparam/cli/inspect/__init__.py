"""`tritonparam inspect`: every tensor of a checkpoint against what it should have been drawn from, told or drawn."""

from __future__ import annotations

from tritonparam.cli.inspect.inspection import Inspection, inspect_checkpoint, stored_bytes, to_json
from tritonparam.cli.inspect.plot import check_plot, plot_inspection

__all__ = ["Inspection", "check_plot", "inspect_checkpoint", "plot_inspection", "stored_bytes", "to_json"]
