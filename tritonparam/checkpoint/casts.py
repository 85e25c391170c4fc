"""Which dtypes of a checkpoint go into which: floats into all that a plan casts to, integers where nothing is lost."""

from __future__ import annotations

import torch

from tritonparam.dtype import as_dtype
from tritonparam.parameter import takes
from tritonparam.plan import CAST_DTYPES

# Codes of 8 bits that a plan has no cast for; they are widened by torch on the way, and only read.
WIDENED = frozenset((torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz))


def goes_into(stored: torch.dtype, own: torch.dtype) -> bool:
    """Whether values of dtype `stored` are cast to `own` when they are loaded.

    Of integers and bools, those are that `Parameter.set_data` takes and that keep every value: it takes Int8 for
    UInt8, and Int64 for Float16, where a checkpoint's values would silently become others.

    Examples:
        >>> goes_into(torch.float32, torch.bfloat16), goes_into(torch.int32, torch.int64)
        (True, True)
        >>> goes_into(torch.int64, torch.float32), goes_into(torch.float32, torch.int64)
        (False, False)
        >>> goes_into(torch.float8_e8m0fnu, torch.float32), goes_into(torch.float32, torch.float8_e8m0fnu)
        (True, False)
    """
    if stored == own:
        return True
    if stored in WIDENED:
        return own in CAST_DTYPES and own.is_floating_point
    if stored not in CAST_DTYPES or own not in CAST_DTYPES:
        return False
    if stored.is_floating_point:
        return own.is_floating_point
    return takes(as_dtype(own), as_dtype(stored)) and _keeps(stored, own)


def _keeps(stored: torch.dtype, own: torch.dtype) -> bool:
    """Whether `own` has all integers that `stored` has."""
    if stored == torch.bool:
        return True
    values = torch.iinfo(stored)
    if own.is_floating_point:
        exact = round(2 / torch.finfo(own).eps)  # up to here every integer is one of its numbers
        return -exact <= values.min and values.max <= exact
    limits = torch.iinfo(own)
    return limits.min <= values.min and values.max <= limits.max


def widened(values: torch.Tensor, own: torch.dtype) -> torch.Tensor:
    """Values of a dtype in WIDENED as a plan can cast them to `own`, or as `own` itself: as torch converts them."""
    # Into this one, a plan casts alike whatever the version of torch.
    return values.to(torch.float32 if own == torch.float8_e4m3fn else own)
