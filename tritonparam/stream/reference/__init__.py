"""The definition of stream v1 in NumPy: docs/stream.md, line by line, written to be read.

Every value that any backend makes is checked bitwise against what stands here. A file has the name of the kernel that
it defines; `fma` has none, since a GPU has it built in.
"""

from __future__ import annotations

from tritonparam.stream.reference.cast import cast_bits
from tritonparam.stream.reference.fill import block_values, box_chunks, values_at
from tritonparam.stream.reference.fingerprint import box_sums, packed_column_factors
from tritonparam.stream.reference.rounding import round_bits

__all__ = ["block_values", "box_chunks", "box_sums", "cast_bits", "packed_column_factors", "round_bits", "values_at"]
