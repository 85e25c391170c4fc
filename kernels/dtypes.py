"""The dtypes of rows, for fills and copies alike: their codes, and what is stored for each."""

import triton
import triton.language as tl

# Floats, the narrow ones last; then integers: what is below int32, or it, counts in int32, the next ones in 64 bits.
DTYPES = {
    "float32": 0,
    "float64": 1,
    "bfloat16": 2,
    "float16": 3,
    "float8_e4m3fn": 4,
    "float8_e5m2": 5,
    "bool": 6,
    "int8": 7,
    "uint8": 8,
    "int16": 9,
    "uint16": 10,
    "int32": 11,
    "uint32": 12,
    "int64": 13,
    "uint64": 14,
}

# What is stored for each, in the order of DTYPES.
_TYPES = tl.constexpr(
    (
        *(tl.float32, tl.float64, tl.bfloat16, tl.float16, tl.uint8, tl.uint8, tl.uint8),
        *(tl.int8, tl.uint8, tl.int16, tl.uint16, tl.int32, tl.uint32, tl.int64, tl.uint64),
    )
)
_BOOL = tl.constexpr(DTYPES["bool"])
_INT8 = tl.constexpr(DTYPES["int8"])
_INT32 = tl.constexpr(DTYPES["int32"])
_INT64 = tl.constexpr(DTYPES["int64"])
_UINT64 = tl.constexpr(DTYPES["uint64"])


@triton.jit
def _pointer(address, DTYPE: tl.constexpr):
    """`address` as a pointer to what is stored for this dtype."""
    return address.to(tl.pointer_type(_TYPES[DTYPE]))
