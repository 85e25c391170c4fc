"""Constants as the bits of a dtype: docs/stream.md, section "Constants"."""

from __future__ import annotations

import math
import sys
from functools import lru_cache

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tritonparam._arguments import shown
from tritonparam._underflow import gradual_underflow
from tritonparam.stream.law import FLOAT32_MAX, Constant

SIGNED_BY_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@lru_cache(maxsize=4096)
def _tensor(value: float | int | bool, text: str, dtype: torch.dtype) -> torch.Tensor:
    # `text` tells the cache True from 1 and -0.0 from 0.0. What it keeps must have a value in whatever mode it is made.
    with _disable_current_modes():
        return _made(value, dtype)


@gradual_underflow()
def _made(value: float | int | bool, dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        kind, largest = ("float64", sys.float_info.max) if dtype == torch.float64 else ("float32", FLOAT32_MAX)
        if largest < abs(value) < math.inf:
            raise ValueError(f"value must be a {kind} number for dtype {dtype}, got {shown(value)}")
        wide = torch.tensor(value, dtype=torch.float64, device="cpu")
        if dtype in (torch.float64, torch.complex64):
            return wide.to(dtype)
        if dtype == torch.float8_e4m3fn:  # torch before 2.12 makes NaN of what is too large
            wide = wide.clamp(-448.0, 448.0)
        return wide.to(torch.float32).to(dtype)
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if not low <= value <= high or value != int(value):
        raise ValueError(f"value must be a whole number in [{low}, {high}] for dtype {dtype}, got {shown(value)}")
    return torch.tensor(int(value), dtype=dtype, device="cpu")


def constant_tensor(law: Constant, dtype: torch.dtype) -> torch.Tensor:
    """The constant as a CPU tensor of shape (): through float32 to every narrower float, rounding to nearest even.

    Raises:
        ValueError: `dtype` cannot hold the value: a fraction or a value out of range for an integer or bool, or one
            beyond float32.

    Examples:
        >>> constant_tensor(Constant(0.1), torch.bfloat16)
        tensor(0.1001, dtype=torch.bfloat16)
    """
    value = law.value
    return _tensor(value, f"{type(value).__name__}{math.copysign(1, value) if isinstance(value, float) else ''}", dtype)


def constant_bits(law: Constant, dtype: torch.dtype) -> int:
    """The bits of `constant_tensor`, as a signed integer of the dtype's width."""
    value = constant_tensor(law, dtype)
    return int(value.view(SIGNED_BY_WIDTH[value.element_size()]).item())
