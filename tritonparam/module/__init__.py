"""Any torch model: `deferred_init` runs its constructor without memory, `materialize` gives it its values.

In between, a tape keeps what was done to every tensor. What of it is a law is recognized and written by a plan; the
rest is replayed. Files that hold a model's values are for `checkpoint`.
"""

from __future__ import annotations

from tritonparam.module.declaration import BoxLaw, Declaration, check_written, declarations, declared
from tritonparam.module.deferred import deferred_init, recording_paused
from tritonparam.module.materialization import Materialization, materialize, shown_by
from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import History

__all__ = [
    "BoxLaw",
    "Declaration",
    "Elements",
    "History",
    "Materialization",
    "Source",
    "check_written",
    "declarations",
    "declared",
    "deferred_init",
    "materialize",
    "recording_paused",
    "shown_by",
]
