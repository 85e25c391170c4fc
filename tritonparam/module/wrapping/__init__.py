"""What torch wraps deferred modules with: FSDP1 makes the values of a model real one module at a time."""

from __future__ import annotations

from tritonparam.module.wrapping.one_by_one import param_init_fn

__all__ = ["param_init_fn"]
