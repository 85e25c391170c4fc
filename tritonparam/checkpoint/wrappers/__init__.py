"""What torch's own wrappers have made of a module: parameters of FSDP, under their first names and as boxes again."""

from __future__ import annotations

from tritonparam.checkpoint.wrappers.flat_parameters import Flat, boxes_of_run, flat_tensors
from tritonparam.checkpoint.wrappers.fully_sharded import check_sharded

__all__ = ["Flat", "boxes_of_run", "check_sharded", "flat_tensors"]
