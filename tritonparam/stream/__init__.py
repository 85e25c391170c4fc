"""What a value is: the law, the key and the index that it follows from. `docs/stream.md` specifies all of it.

`reference/` is the definition in NumPy. Where values are written, and by whom, is for `plan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonparam._lazy import lazily
from tritonparam.stream.constant import SIGNED_BY_WIDTH, constant_bits, constant_tensor
from tritonparam.stream.fingerprint import (
    fingerprint_digest,
    fingerprint_key,
    fingerprint_total,
)
from tritonparam.stream.generator import Generator, get_generator, get_seed, seed_or_default, set_seed
from tritonparam.stream.index import contiguous_start, flat_index
from tritonparam.stream.key import STREAM_VERSION, derive_key, derive_keys
from tritonparam.stream.law import (
    LAWS,
    Constant,
    Law,
    Normal,
    TruncatedNormal,
    Uniform,
    float32_bounds,
    law_from_json,
    law_to_json,
)

if TYPE_CHECKING:
    from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform

__all__ = [
    "LAWS",
    "SIGNED_BY_WIDTH",
    "STREAM_VERSION",
    "Constant",
    "Generator",
    "Law",
    "Normal",
    "TruncatedNormal",
    "Uniform",
    "constant_bits",
    "constant_tensor",
    "contiguous_start",
    "derive_key",
    "derive_keys",
    "fingerprint_digest",
    "fingerprint_key",
    "fingerprint_total",
    "flat_index",
    "float32_bounds",
    "get_generator",
    "get_seed",
    "law_from_json",
    "law_to_json",
    "lower_normal",
    "lower_truncated_normal",
    "lower_uniform",
    "seed_or_default",
    "set_seed",
]

if not TYPE_CHECKING:
    # Lowering computes in decimals, whose modules take long to import.
    __getattr__, __dir__ = lazily(
        __name__, dict.fromkeys(("lower_normal", "lower_truncated_normal", "lower_uniform"), "lowering")
    )
