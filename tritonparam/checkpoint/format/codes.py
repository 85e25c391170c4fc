"""What safetensors calls dtypes, and how many bits an element of each has; torch has no dtype for some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

CODES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PAIRS: torch.dtype | None = getattr(torch, "float4_e2m1fn_x2", None)  # an element holds two; from torch 2.8 on
if _PAIRS is not None:
    CODES[_PAIRS] = "F4"
DTYPES = {code: dtype for dtype, code in CODES.items()}
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6} | {
    code: 8 * dtype.itemsize for dtype, code in CODES.items() if dtype != _PAIRS
}


def named_shape(dtype: torch.dtype, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a header gives for a tensor of `shape`: it counts numbers, of which an element may hold two.

    Raises:
        ValueError: Such a tensor has no last dimension.

    Examples:
        >>> named_shape(torch.float32, (2, 3))
        (2, 3)
    """
    if dtype != _PAIRS:
        return tuple(shape)
    if not shape:
        raise ValueError(f"a tensor of {dtype} must have a dimension")
    return (*shape[:-1], 2 * shape[-1])


def held_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch of a tensor for which a header gives `shape`.

    Raises:
        ValueError: Its last dimension is odd, where an element holds two numbers.
    """
    if dtype != _PAIRS:
        return shape
    if not shape or shape[-1] % 2:
        raise ValueError(f"two of its numbers are an element of {dtype}, and its last size is odd")
    return (*shape[:-1], shape[-1] // 2)
