"""What holds for a model as a whole, whichever processes hold its parts: its fingerprint, whether replicas are alike.

Each process reads what it holds, where it is; of that, a few integers are communicated. What a tensor of a target is,
and which box of it is here, is for `checkpoint`.
"""

from __future__ import annotations

from tritonparam.distributed.fingerprints import Fingerprint, digest_of_stored, dtype_text, fingerprint
from tritonparam.distributed.replicas import ReplicaDifference, check_replicas

__all__ = ["Fingerprint", "ReplicaDifference", "check_replicas", "digest_of_stored", "dtype_text", "fingerprint"]
