"""What holds for a model as a whole, whichever processes hold its parts: its fingerprint.

Each process reads what it holds, where it is; of that, a few integers are communicated. What a tensor of a target is,
and which box of it is here, is for `checkpoint`.
"""

from __future__ import annotations

from tritonparam.distributed.fingerprints import Fingerprint, digest_of_stored, dtype_text, fingerprint

__all__ = ["Fingerprint", "digest_of_stored", "dtype_text", "fingerprint"]
