"""Sizes and dtypes as people write them."""

from __future__ import annotations

import math
import re

import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint.errors import UsageError
from tritonparam.dtype import as_float

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{kind}B": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for kind, base in (("", 1000), ("I", 1024))
}


def parse_dtype(text: str, argument: str = "dtype") -> torch.dtype:
    """The floating-point dtype that `text` names, as everywhere: bf16, bfloat16, torch.bfloat16.

    Raises:
        UsageError: It names none.

    Examples:
        >>> parse_dtype("bf16"), parse_dtype("torch.float8_e5m2")
        (torch.bfloat16, torch.float8_e5m2)
    """
    try:
        return as_float(text, argument)
    except ValueError as error:
        raise UsageError(str(error)) from None


def dtype_name(dtype: torch.dtype) -> str:
    """The name of `dtype` without "torch."

    Examples:
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def parse_size(text: str, argument: str = "size") -> int:
    """A number of bytes: digits with an optional decimal (KB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) unit.

    Raises:
        UsageError: It is not one, or is less than one byte.

    Examples:
        >>> parse_size("5GB"), parse_size("1.5 MiB"), parse_size("4096")
        (5000000000, 1572864, 4096)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    size = float(match[1]) * unit if match and unit else 0.0
    if not 1 <= size < math.inf:
        raise UsageError(f"{argument} must be a positive size such as 5GB, 500MB, 2GiB or 4096, got {shown(text)}")
    return int(size)


def format_size(size: float) -> str:
    """`size` bytes in the decimal unit that suits it.

    Examples:
        >>> format_size(248_894_656), format_size(12)
        ('248.9 MB', '12 B')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
