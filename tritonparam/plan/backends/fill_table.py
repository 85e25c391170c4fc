"""Fills as one table that the fill kernel reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam.kernels.dtypes import DTYPES
from tritonparam.kernels.fill import CHUNK, HEADER, KINDS, ROW
from tritonparam.kernels.transforms import LEAD
from tritonparam.plan.backends.strided_rows import build_strided_rows, is_in_reach, parts_in_reach
from tritonparam.plan.fill_columns import columns_of
from tritonparam.stream import (
    Constant,
    Law,
    Normal,
    Uniform,
    constant_bits,
    lower_normal,
    lower_truncated_normal,
    lower_uniform,
)

if TYPE_CHECKING:
    from tritonparam.plan.fill import Fill

_CODES = {getattr(torch, name): code for name, code in DTYPES.items()}
_CONSTANT = {nbytes: DTYPES[f"int{8 * nbytes}"] for nbytes in (1, 2, 4, 8)}  # by the size of an element
_ZERO = np.float32(0)
_ALIGNED = 1 << 16


@dataclass(frozen=True, slots=True)
class FillTable:
    """Fills as the kernel reads them.

    Attributes:
        words: int64 of shape [n]: header, first program of each row, rows, dimensions of strided rows.
        rows: How many fills have elements.
        programs: How many programs write them.
        kinds, dtypes: A bit for each code that occurs.
        strided: A bit for each path that rows take (`kernels.boxes.PATHS`); 0 where all are runs.
    """

    words: NDArray[np.int64]
    rows: int
    programs: int
    kinds: int
    dtypes: int
    strided: int


def build_fill_table(fills: Sequence[Fill]) -> FillTable:
    """Lay out `fills` for one launch; those without elements are left out.

    Column by column, since Python's time for each fill is all that a large plan costs.
    """
    columns = columns_of(fills)
    if not all(columns.counts):
        fills = [each for each in fills if each.out.numel()]
        columns = columns_of(fills)
    rows = len(columns.counts)
    if not rows:
        return FillTable(np.empty(0, np.int64), 0, 0, 0, 0, 0)
    table = np.zeros((rows, ROW), np.int64)
    address, flags, start, stop = table[:, 0], table[:, 2], table[:, 3], table[:, 4]
    which = np.array(columns.law_numbers, np.int64)
    laws = np.array([_pack_law(*pair) for pair in columns.laws], np.uint64).view(np.int64).reshape(-1, 7)
    flags[:] = laws[which, 0]
    table[:, 6:11] = laws[which, 2:]
    address[:] = columns.addresses
    table[:, 1] = columns.keys.view(np.int64)
    start[:] = columns.starts
    stop[:] = columns.counts

    strided = np.nonzero(start < 0)[0]
    if not all(is_in_reach(fills[int(row)]) for row in strided):
        return build_fill_table([part for each in fills for part in parts_in_reach(each)])
    start[strided] = 0
    stop += start
    address -= start * laws[which, 1]
    flags[address & 15 == 0] |= _ALIGNED
    boxes = build_strided_rows(fills[int(row)] for row in strided)
    flags[strided] |= boxes.flags
    stop[strided] = boxes.stop
    table[strided, 5] = HEADER + rows * (1 + ROW) + boxes.places
    table[strided, 11] = boxes.origin

    chunks = (stop + (CHUNK - 1)) // CHUNK - start // CHUNK
    ends = np.cumsum(chunks)
    parts = (LEAD, ends - chunks, table.ravel(), boxes.words)
    return FillTable(
        words=np.concatenate([np.asarray(part, np.int64) for part in parts]),
        rows=rows,
        programs=int(ends[-1]),
        kinds=_bits_of(laws[:, 0] & 0xFF),
        dtypes=_bits_of(laws[:, 0] >> 8 & 0xFF),
        strided=boxes.paths | (len(strided) < rows) if boxes.paths else 0,
    )


def _bits_of(codes: NDArray[np.int64]) -> int:
    return int(np.bitwise_or.reduce(np.int64(1) << codes))


def _pack_law(law: Law, dtype: torch.dtype) -> tuple[int, ...]:
    """The low 16 bits of a row's flags, the size of an element, and the row's five columns of parameters."""
    if isinstance(law, Constant):
        bits = constant_bits(law, dtype) & 0xFFFFFFFFFFFFFFFF
        return KINDS["constant"] | _CONSTANT[dtype.itemsize] << 8, dtype.itemsize, bits, 0, 0, 0, 0
    kind: str = law.kind
    if isinstance(law, Uniform):
        uniform = lower_uniform(law)
        columns = (_pair(uniform.low, uniform.scale), _pair(uniform.cap, _ZERO), 0, 0, 0)
    elif isinstance(law, Normal):
        normal = lower_normal(law)
        s0, s1, s2, s3, s4 = normal.radius
        columns = (_pair(normal.mean, s0), _pair(s1, s2), _pair(s3, s4), 0, 0)
    else:
        cut = lower_truncated_normal(law)
        kind += "_with_tail" if cut.has_tail else ""
        scale_below, above = _pair(cut.scale, cut.below), _pair(cut.above, _ZERO)
        columns = (_pair(cut.mean, cut.std), _pair(cut.low, cut.high), cut.split, scale_below, above)
    return KINDS[kind] | _CODES[dtype] << 8, dtype.itemsize, *columns


def _pair(low: np.float32, high: np.float32) -> int:
    """Two float32 in one 64-bit word."""
    return int(low.view(np.uint32)) | int(high.view(np.uint32)) << 32
