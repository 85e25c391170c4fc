"""Boxes as the table that the loops read: what each is made of, where it stands in its tensor, where in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritonparam._arguments import shown
from tritonparam.stream.law import Law, Normal, TruncatedNormal, Uniform
from tritonparam.stream.loops.layout import (
    BOX,
    DIMS,
    FIRST,
    KEY,
    NDIM,
    OUT,
    PARAMETER_WORDS,
    PARAMETERS,
    ROUND,
    SCRATCH,
    SUM_BOX,
    SUM_SCRATCH,
    VALUES,
    WIDTH,
)
from tritonparam.stream.loops.library import address_of, caller
from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform

Dim = tuple[int, int, int]  # size, step in the global tensor, step in memory, in elements


class Maker(NamedTuple):
    """The loops of a law and of a dtype, and the law's parameters.

    Attributes:
        values: Address of the law's loop; 0 for a constant.
        round: Address of the dtype's; 0 for a constant and for float32.
        bits: Those of a constant, repeated to 64.
        parameters: 32-bit words in the order in which `transforms.py` reads them, as five of 64 bits.
    """

    values: int
    round: int
    bits: int
    parameters: tuple[int, ...]


def constant_maker(bits: int, width: int) -> Maker:
    """What makes a constant of `width` bytes with these bits, read as unsigned."""
    repeated = sum(bits << at for at in range(0, 64, 8 * width))
    return Maker(0, 0, repeated, (0,) * (PARAMETER_WORDS // 2))


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
    return Maker(address_of(kind), 0 if dtype == "float32" else address_of(f"{dtype}_bits"), 0, parameters)


def _packed(floats: tuple[np.float32, ...], words: tuple[int, ...] = ()) -> tuple[int, ...]:
    packed = np.zeros(PARAMETER_WORDS, np.uint32)
    packed[: len(floats)] = np.array(floats, np.float32).view(np.uint32)
    packed[len(floats) : len(floats) + len(words)] = words
    return tuple(packed.view(np.uint64).tolist())


def _dims(
    counts: Sequence[int], dims: Mapping[int, Sequence[Dim]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The dimensions of boxes one after the other, how many each box has, and the address of its first."""
    boxes = len(counts)
    strided = [dim for own in dims.values() for dim in own]
    laid = np.ones((boxes + len(strided), 3), np.int64)
    laid[:boxes, 0] = counts
    laid[boxes:] = np.array(strided, np.int64).reshape(-1, 3)
    ndim, place = np.ones(boxes, np.int64), np.arange(boxes)
    rows, lengths = list(dims), np.array([len(own) for own in dims.values()], np.int64)
    ndim[rows], place[rows] = lengths, boxes + np.cumsum(lengths) - lengths
    return laid, ndim, laid.ctypes.data + laid.strides[0] * place


class BoxTable:
    """Boxes that stand one after the other, to be written in pieces, by any thread in any order.

    Args:
        addresses: Of each box's first element.
        widths: Bytes of an element.
        firsts: Number of its first element in the global tensor.
        keys: uint64: the keys of the tensors.
        counts: How many elements each box has; at least one.
        makers: What makes values.
        which: The number of each box's maker.
        dims: Of the boxes that are not one run, by their number, the dimensions, the innermost first; the first one's
            step in the global tensor is 1.

    Attributes:
        elements: How many there are in all.
    """

    def __init__(
        self,
        addresses: Sequence[int],
        widths: Sequence[int],
        firsts: Sequence[int],
        keys: NDArray[np.uint64],
        counts: Sequence[int],
        makers: Sequence[Maker],
        which: Sequence[int],
        dims: Mapping[int, Sequence[Dim]],
    ) -> None:
        boxes = len(addresses)
        made = np.array([(m.values, m.round, m.bits, *m.parameters) for m in makers], np.uint64).view(np.int64)
        made = made.reshape(-1, 3 + PARAMETER_WORDS // 2)[np.array(which, np.int64)]
        self._dims, ndim, places = _dims(counts, dims)
        self._table = table = np.empty((boxes, BOX), np.int64)
        table[:, OUT], table[:, WIDTH], table[:, FIRST] = addresses, widths, firsts
        table[:, VALUES], table[:, ROUND], table[:, PARAMETERS:] = made[:, 0], made[:, 1], made[:, 3:]
        table[:, KEY] = np.where(made[:, 0] == 0, made[:, 2], keys.view(np.int64))
        table[:, NDIM], table[:, DIMS] = ndim, places
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.elements = int(self._ends[-1]) if boxes else 0
        self._write = caller("boxes")
        words = address_of("words") if made[:, 0].any() else 0  # constants have none
        self._addresses = table.ctypes.data, self._ends.ctypes.data, words

    def write(self, start: int, stop: int) -> None:
        """Write the elements [start, stop) of all boxes' elements; no lock of Python is held meanwhile."""
        table, ends, words = self._addresses
        memory = np.empty(SCRATCH // 8, np.int64)
        scratch = memory.ctypes.data
        first = int(self._ends.searchsorted(start, "right"))
        self._write(table, ends, first, start, stop, words, scratch)


class SumTable:
    """Boxes that stand one after the other, to be added up in pieces, by any thread in any order.

    Args:
        addresses, widths, firsts, keys, counts, dims: As for `BoxTable`; widths of 1, 2, 4 or 8.
        columns: The factors of the words of a block, as `packed_column_factors` has them: uint64 of shape [1024].

    Attributes:
        elements: How many there are in all.
    """

    def __init__(
        self,
        addresses: Sequence[int],
        widths: Sequence[int],
        firsts: Sequence[int],
        keys: NDArray[np.uint64],
        counts: Sequence[int],
        dims: Mapping[int, Sequence[Dim]],
        columns: NDArray[np.uint64],
    ) -> None:
        self._dims, ndim, places = _dims(counts, dims)
        self._table = table = np.zeros((len(addresses), SUM_BOX), np.int64)
        table[:, OUT], table[:, WIDTH], table[:, FIRST] = addresses, widths, firsts
        table[:, KEY], table[:, NDIM], table[:, DIMS] = keys.view(np.int64), ndim, places
        self._columns = columns
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.elements = int(self._ends[-1]) if len(addresses) else 0
        self._add = caller("sums")

    def add(self, start: int, stop: int) -> tuple[int, NDArray[np.uint64]]:
        """The sums over the elements [start, stop) of all boxes' elements; no lock of Python is held meanwhile.

        Returns:
            The box of element start, and the sums of that box and of those after it: uint64 of shape [n, 2].
        """
        first, last = (int(each) for each in self._ends.searchsorted((start, stop - 1), "right"))
        sums, scratch = np.zeros((last - first + 1, 2), np.uint64), np.empty(SUM_SCRATCH // 8, np.int64)
        places = self._columns.ctypes.data, sums.ctypes.data, scratch.ctypes.data
        self._add(self._table.ctypes.data, self._ends.ctypes.data, first, start, stop, *places)
        return first, sums
