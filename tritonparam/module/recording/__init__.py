"""What a block of `deferred_init` does: every operator goes to the meta device, and the tape notes what it wrote.

The recorder stands at torch's dispatcher, the surface before its Python functions; threads that a constructor starts
record too, and what people do with a model after its block is watched. What the tape says is for the files beside.
"""

from __future__ import annotations

from tritonparam.module.recording.deferred import deferred_init, recording_paused
from tritonparam.module.recording.refusals import DeferredWarning, unguard
from tritonparam.module.recording.watch import check_unseen_writes

__all__ = ["DeferredWarning", "check_unseen_writes", "deferred_init", "recording_paused", "unguard"]
