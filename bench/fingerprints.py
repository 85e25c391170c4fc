"""Who reads values: the sums of fingerprints, against torch's sum of the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bench.cases import ONE_TENSOR_BYTES, gpt2_shapes
from bench.clock import Run
from bench.copies import DTYPES, OURS, CopyCase, CopyMemory
from bench.providers import Provider
from tritonparam.plan import Sum, sums

OP = "fingerprint"
PLAIN_SUM = "torch sum"


@dataclass(frozen=True)
class FingerprintCase(CopyCase):
    """One reader, one job: `shapes` are the tensors that are read."""

    @property
    def moved(self) -> int:
        """Bytes moved by a run: every value is read once."""
        return self.elements * DTYPES[self.dtype][0].itemsize

    @property
    def ceiling(self) -> str:
        """Whose time a run is held against."""
        return PLAIN_SUM


def _operations(memory: CopyMemory) -> list[Sum]:
    return [Sum(source, key=number) for number, source in enumerate(memory.sources)]


def _ours(backend: str) -> Callable[[FingerprintCase, CopyMemory], Run]:
    def prepare(_: FingerprintCase, memory: CopyMemory) -> Run:
        def run() -> None:
            memory.made = [torch.from_numpy(sums(_operations(memory), backend).view(np.int64))]

        return run

    return prepare


def _not_the_sums(_: FingerprintCase, memory: CopyMemory) -> str | None:
    (got,) = memory.made
    want = torch.from_numpy(sums(_operations(memory), "numpy").view(np.int64))
    wrong = (got != want).any(1).nonzero().flatten().tolist()
    return f"tensors {wrong[:5]}: got {got[wrong[0]].tolist()}, want {want[wrong[0]].tolist()}" if wrong else None


def _plain_sum(_: FingerprintCase, memory: CopyMemory) -> Run:
    """One number for each tensor, without a word about where in it the elements are."""

    def run() -> None:
        memory.made = [source.sum() for source in memory.sources]

    return run


def _no_sums(_: FingerprintCase, memory: CopyMemory) -> str | None:
    return None if len(memory.made) == len(memory.sources) else "not every tensor was added up"


ALL_OPS = frozenset({OP})  # the sums come back to the host, which a CUDA graph cannot hold
READERS = {
    OURS["cpu"]: Provider(_ours("cpu"), _not_the_sums, ALL_OPS),
    OURS["cuda"]: Provider(_ours("triton"), _not_the_sums, ALL_OPS),
    PLAIN_SUM: Provider(_plain_sum, _no_sums, ALL_OPS),
}


def fingerprint_cases(device: str, quick: bool = False) -> list[FingerprintCase]:
    """All cases of a device; those that are compared side by side are neighbours.

    Args:
        device: "cpu" or "cuda".
        quick: Small tensors of the same kinds, to see that all runs; nothing to publish.
    """
    nbytes, chosen = 2**20 if quick else ONE_TENSOR_BYTES[device], []
    model = ("GPT-2 cut down", gpt2_shapes(2, 64, 1000, 128)) if quick else ("GPT-2 124M", gpt2_shapes())
    threads = sorted({1, torch.get_num_threads()} if device == "cpu" else {torch.get_num_threads()})
    for dtype in ("float32", "bfloat16"):
        one = f"one tensor of {nbytes // 2**20} MiB", ((nbytes // DTYPES[dtype][0].itemsize,),)
        for count, (name, shapes) in [*((count, one) for count in threads), (threads[-1], model)]:
            readers = (OURS[device], PLAIN_SUM)
            chosen += [FingerprintCase(OP, reader, name, shapes, dtype, count) for reader in readers]
    return chosen
