"""The backend that is the definition: it runs `stream.reference` into tensors of any device, chunk by chunk."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tritonparam._underflow import gradual_underflow
from tritonparam.plan.backends.host_copy import HostCopies
from tritonparam.plan.backends.missing import tell_of_compiled_loops
from tritonparam.plan.views import cut_boxes
from tritonparam.stream import SIGNED_BY_WIDTH, Constant, constant_tensor
from tritonparam.stream.reference import box_chunks, box_sums, round_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritonparam.plan.box_sum import Sum
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill

_PIECE = 2**20  # elements that are brought to the host at a time


class NumpyPlan:
    """Operations, checked: fills written by the NumPy definition, copies by torch's own where that meets it."""

    def __init__(self, fills: Sequence[Fill], copies: Sequence[Copy]) -> None:
        self._fills = list(fills)  # those of columns are made here, and once
        self._copies = HostCopies(copies)

    def run(self) -> None:
        """Do everything; one chunk of temporaries at a time."""
        tell_of_compiled_loops(sum(each.out.numel() for each in self._fills if not isinstance(each.law, Constant)))
        for fill in self._fills:
            write_fill(fill)
        with torch.no_grad(), gradual_underflow():
            self._copies.run()


@torch.no_grad()
@gradual_underflow()
def write_fill(fill: Fill) -> None:
    """Write one box by the definition."""
    out = fill.out.detach()
    if isinstance(fill.law, Constant):
        out.copy_(constant_tensor(fill.law, out.dtype).expand(out.shape))
        return
    width = out.element_size()
    contiguous = out.is_contiguous()
    made = out if contiguous else torch.empty(out.shape, dtype=out.dtype, device="cpu")
    flat = made.view(-1).view(SIGNED_BY_WIDTH[width])
    dtype = str(out.dtype).removeprefix("torch.")
    for start, values in box_chunks(fill.law, fill.key, fill.shape, fill.offsets, out.shape):
        bits = round_bits(np.ascontiguousarray(values), dtype).view(f"i{width}")
        flat[start : start + len(bits)].copy_(torch.from_numpy(bits))
    if not contiguous:
        out.copy_(flat.view(out.dtype).view(out.shape))


def check_device(device: torch.device) -> None:
    """Any will do."""


def prepare(fills: Sequence[Fill], copies: Sequence[Copy]) -> NumpyPlan:
    """Lay out operations for `run`."""
    return NumpyPlan(fills, copies)


def sums(operations: Sequence[Sum]) -> NDArray[np.uint64]:
    """What each operation adds to its sums, by the definition: uint64 of shape [n, 2]."""
    found = np.zeros((len(operations), 2), np.uint64)
    for number, each in enumerate(operations):
        width = each.source.element_size()
        bits = each.source.view(SIGNED_BY_WIDTH[width])
        for piece in cut_boxes(bits.shape, _PIECE):
            side_by_side = torch.empty(piece.sizes, dtype=bits.dtype, device="cpu")
            elements = side_by_side.copy_(piece.of(bits)).numpy().reshape(-1, 1).view(np.uint8).reshape(-1, width)
            offsets = tuple(map(operator.add, each.offsets, piece.offsets))
            found[number] += np.array(box_sums(each.key, elements, each.shape, offsets, piece.sizes), np.uint64)
    return found
