"""Boxes as the table that the loops read: what each is made of, where it stands in its tensor, where in memory."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tritonparam._arguments import shown
from tritonparam.stream.law import Law, Normal, TruncatedNormal, Uniform
from tritonparam.stream.loops.layout import BOX, DIMS, PARAMETER_WORDS, SCRATCH
from tritonparam.stream.loops.library import address_of, caller
from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform

Dim = tuple[int, int, int]  # size, step in the global tensor, step in memory, in elements


class Maker(NamedTuple):
    """The loops of a law and of a dtype, and the law's parameters.

    Attributes:
        values, store: Addresses of loops; 0 for a constant.
        parameters: 32-bit words in the order in which `transforms.py` reads them, as five of 64 bits.
    """

    values: int
    store: int
    parameters: tuple[int, ...]


CONSTANT = Maker(0, 0, (0,) * (PARAMETER_WORDS // 2))


def maker_of(law: Law, dtype: str) -> Maker:
    """What makes the values of a random law, in a dtype of `reference.rounding`; compiled now if it has to be."""
    if isinstance(law, Uniform):
        uniform = lower_uniform(law)
        kind, parameters = law.kind, _packed((uniform.low, uniform.scale, uniform.cap))
    elif isinstance(law, Normal):
        normal = lower_normal(law)
        kind, parameters = law.kind, _packed((normal.mean, *normal.radius))
    elif isinstance(law, TruncatedNormal):
        cut = lower_truncated_normal(law)
        kind = law.kind + ("_with_tail" if cut.has_tail else "")
        floats = cut.mean, cut.std, cut.low, cut.high, cut.scale, cut.below, cut.above
        always_below = cut.split == 2**32  # which no word can be compared with
        parameters = _packed(floats, (0 if always_below else cut.split, int(always_below)))
    else:
        raise TypeError(f"law must be a random law, got {shown(law)}")
    return Maker(address_of(kind), address_of(f"{dtype}_bits"), parameters)


def _packed(floats: tuple[np.float32, ...], words: tuple[int, ...] = ()) -> tuple[int, ...]:
    packed = np.zeros(PARAMETER_WORDS, np.uint32)
    packed[: len(floats)] = np.array(floats, np.float32).view(np.uint32)
    packed[len(floats) : len(floats) + len(words)] = words
    return tuple(packed.view(np.uint64).tolist())


class BoxRow(NamedTuple):
    """A box to write.

    Attributes:
        out: Address of its first element.
        width: Bytes of an element.
        first: Number of its first element in the global tensor.
        key: The key of the tensor, or the bits of a constant, repeated to 64.
        maker: What makes its values.
        dims: Its dimensions, the innermost first; at least one, and the first one's step in the global tensor is 1.
    """

    out: int
    width: int
    first: int
    key: int
    maker: Maker
    dims: tuple[Dim, ...]


class BoxTable:
    """Boxes that stand one after the other, to be written in pieces, by any thread in any order.

    Attributes:
        elements: How many there are in all.
    """

    def __init__(self, rows: Sequence[BoxRow]) -> None:
        dims = [each for row in rows for dim in row.dims for each in dim]
        self._dims = np.array(dims, np.int64)
        counts, starts, columns = [], [], []
        start = 0
        for row in rows:
            counts.append(math.prod(dim[0] for dim in row.dims))
            starts.append(start)
            maker, ndim = row.maker, len(row.dims)
            columns.append(
                (row.out, row.width, row.first, row.key, maker.values, maker.store, ndim, 0, *maker.parameters)
            )
            start += 3 * ndim
        self._table = np.array(columns, np.uint64).view(np.int64).reshape(-1, BOX)
        self._table[:, DIMS] = self._dims.ctypes.data + 8 * np.array(starts, np.int64)
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._stops: list[int] = self._ends.tolist()
        self.elements = self._stops[-1] if rows else 0
        self._write = caller("boxes")
        self._addresses = self._table.ctypes.data, self._ends.ctypes.data, address_of("words")

    def write(self, start: int, stop: int) -> None:
        """Write the elements [start, stop) of all boxes' elements; no lock of Python is held meanwhile."""
        table, ends, words = self._addresses
        memory = np.empty(SCRATCH // 8, np.int64)
        scratch = memory.ctypes.data
        first = bisect.bisect_right(self._stops, start)
        self._write(table, ends, first, start, stop, words, scratch, scratch=scratch)
