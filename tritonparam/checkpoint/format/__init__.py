"""The safetensors format: what it calls dtypes, and the JSON of its headers."""

from __future__ import annotations

from tritonparam.checkpoint.format.codes import BITS, CODES, DTYPES, held_shape, named_shape
from tritonparam.checkpoint.format.header_text import METADATA_KEY, Row, parse_header

__all__ = [
    "BITS",
    "CODES",
    "DTYPES",
    "METADATA_KEY",
    "Row",
    "held_shape",
    "named_shape",
    "parse_header",
]
