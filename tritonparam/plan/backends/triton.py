"""The backend that runs the Triton kernels: it lays fills and copies out as a table each and launches once for each."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from tritonparam._arguments import shown
from tritonparam.kernels.copy import copy
from tritonparam.kernels.fill import fill, is_interpreted
from tritonparam.kernels.fingerprint import box_sums
from tritonparam.plan.backends.copy_table import build_copy_table
from tritonparam.plan.backends.fill_table import build_fill_table
from tritonparam.plan.backends.sum_table import build_sum_table
from tritonparam.plan.fill_columns import outs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tritonparam.plan.box_sum import Sum
    from tritonparam.plan.copy import Copy
    from tritonparam.plan.fill import Fill
    from tritonparam.plan.fill_columns import FillColumns


class TritonPlan:
    """Operations as two tables on their device, to be done in a launch each."""

    def __init__(self, fills: list[Fill] | FillColumns, copies: list[Copy]) -> None:
        outs = [*outs_of(fills), *(each.out for each in copies)]
        self._device = outs[0].device
        self._counted = [each for each in outs if not each.is_inference()]
        # Their memory must outlive the tables, also if a tensor is given other storage meanwhile.
        self._storages = [each.untyped_storage() for each in (*outs, *(each.source for each in copies))]
        self.fills, self.copies = build_fill_table(fills), build_copy_table(copies)
        # In one, so that they need one transfer; the second begins at a multiple of 16 bytes too.
        first = len(self.fills.words) + len(self.fills.words) % 2
        words = np.zeros(first + len(self.copies.words), np.int64)
        words[: len(self.fills.words)] = self.fills.words
        words[first:] = self.copies.words
        self._words = torch.from_numpy(words)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                self._words = self._words.pin_memory().to(self._device, non_blocking=True)
                self._stream = torch.cuda.current_stream()
                self._copied = self._stream.record_event()
        self._fill_words, self._copy_words = self._words[:first], self._words[first:]

    def run(self) -> None:
        """Do everything: two launches at most on the current stream of the device, wherever the plan was built."""
        fills, copies = self.fills, self.copies
        on_device = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        with on_device:
            if self._device.type == "cuda":
                self._follow(torch.cuda.current_stream())
            fill(self._fill_words, fills.rows, fills.programs, fills.kinds, fills.dtypes, fills.strided)
            copy(self._copy_words, copies.rows, copies.programs, copies.codes)
        # Autograd knows by them that a value that it kept was overwritten.
        torch.autograd.graph.increment_version(self._counted)

    def _follow(self, stream: torch.cuda.Stream) -> None:
        """Make `stream` wait for the tables, and their memory for `stream`, if another one copied them."""
        if stream == self._stream:
            return
        if not torch.cuda.is_current_stream_capturing():  # a graph cannot wait for what happened before it
            stream.wait_event(self._copied)
        self._words.record_stream(stream)


def check_device(device: torch.device) -> None:
    """Let CUDA devices pass, and any other where Triton interprets.

    Raises:
        ValueError: The kernels cannot write to `device`.
    """
    if device.type != "cuda" and not is_interpreted():
        raise ValueError(f"backend 'triton' writes to cuda devices only, got device {shown(str(device))}")


def prepare(fills: list[Fill] | FillColumns, copies: list[Copy]) -> TritonPlan:
    """Lay out operations, all on one device, for `run`."""
    return TritonPlan(fills, copies)


def sums(operations: Sequence[Sum]) -> NDArray[np.uint64]:
    """What each operation, all on one device, adds to its sums: uint64 of shape [n, 2]; waits for the device."""
    device, table = operations[0].source.device, build_sum_table(operations)
    on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with on_device:
        words = torch.from_numpy(table.words).to(device)
        found = torch.zeros((len(operations), 2), dtype=torch.int64, device=device)
        box_sums(words, found, table.rows, table.programs, table.paths)
        return found.cpu().numpy().view(np.uint64)
