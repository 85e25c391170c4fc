"""What is timed, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch

from tritonparam import Constant, Law, Normal, TruncatedNormal, Uniform

LAWS: dict[str, Law] = {
    "ones": Constant(1.0),
    "uniform": Uniform(low=-0.05, high=0.05),
    "normal": Normal(mean=0.0, std=0.02),
    "truncated_normal": TruncatedNormal(mean=0.0, std=0.02, low=-0.04, high=0.04),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLAIN_FILL = "plain fill"
# Makers of values, by device; the plain fill is the ceiling that each is divided by.
PROVIDERS = {
    "cpu": ("tritonparam cpu", "tritonparam numpy", "torch", PLAIN_FILL),
    "cuda": ("tritonparam triton", "tritonparam triton, plan built too", "torch", PLAIN_FILL),
}
ONE_TENSOR_BYTES = {"cpu": 2**28, "cuda": 2**30}
# How the tensors of a case lie in the global ones, or in memory; a column shard is one of so many.
LAYOUTS = WHOLE, COLUMN_SHARD, CHANNELS_LAST = "whole", "column shard", "channels_last"
SHARDS, SHARD_COLUMNS = 8, 1024
STRIDED_OPS = ("uniform", "normal")

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Case:
    """One maker, one job.

    Attributes:
        op: A key of LAWS.
        provider: Who makes the values.
        workload: A name for `shapes`.
        shapes: The tensors that are filled, all of them in one run.
        dtype: A key of DTYPES.
        threads: How many threads torch may use on the host.
        layout: One of LAYOUTS.
    """

    op: str
    provider: str
    workload: str
    shapes: Shapes
    dtype: str
    threads: int
    layout: str = field(default=WHOLE, kw_only=True)

    @property
    def elements(self) -> int:
        """How many values a run makes."""
        return sum(map(prod, self.shapes))

    @property
    def moved(self) -> int:
        """Bytes moved by a run: every value is written once, nothing is read."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def job(self) -> tuple[str, str, str, int]:
        """What cases must have in common to be compared."""
        return self.op, self.workload, self.dtype, self.threads

    @property
    def ceiling(self) -> str:
        """Whose time a run is held against."""
        return PLAIN_FILL

    def place(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The global shape, and the offsets in it, of a tensor of `shape`: of column shards the last but one.

        Examples:
            >>> Case("ones", PLAIN_FILL, "a shard", ((3, 4),), "float32", 1, layout=COLUMN_SHARD).place((3, 4))
            ((3, 32), (0, 24))
        """
        if self.layout != COLUMN_SHARD:
            return shape, (0,) * len(shape)
        *rows, columns = shape
        return (*rows, SHARDS * columns), (*(0 for _ in rows), (SHARDS - 2) * columns)

    def __str__(self) -> str:
        return f"{self.op}, {self.dtype}, {self.workload}, {self.threads} threads, {self.provider}"


def gpt2_shapes(layers: int = 12, width: int = 768, vocabulary: int = 50257, positions: int = 1024) -> Shapes:
    """The parameters of a GPT-2, in the model's order; the output layer is tied to the embedding.

    Examples:
        >>> sum(map(prod, gpt2_shapes()))
        124439808
    """
    norm: Shapes = ((width,), (width,))
    attention: Shapes = ((width, 3 * width), (3 * width,), (width, width), (width,))
    mlp: Shapes = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return ((vocabulary, width), (positions, width), *(norm + attention + norm + mlp) * layers, *norm)


def llama_shapes(layers: int = 32, width: int = 4096, hidden: int = 11008, vocabulary: int = 32000) -> Shapes:
    """The parameters of a Llama 2, in the model's order; the output layer is its own. As given: of 7B.

    Examples:
        >>> sum(map(prod, llama_shapes())), len(llama_shapes())
        (6738415616, 291)
    """
    square, up, down = (width, width), (hidden, width), (width, hidden)
    layer: Shapes = (square, square, square, square, up, up, down, (width,), (width,))
    return ((vocabulary, width), *layer * layers, (width,), (vocabulary, width))


def cases(device: str, quick: bool = False) -> list[Case]:
    """All cases of a device; those that are compared side by side are neighbours.

    On CUDA a model of 7e9 parameters is timed too. On a CPU the one tensor is timed with one thread and with torch's
    own number of threads, all else with the latter. The NumPy definition uses one thread whatever torch may use, so it
    is not timed on the one tensor twice. Two ops are timed on a column shard, as tensor parallelism has it, and on the
    weight of a convolution in channels_last; both have about the bytes of the one tensor.

    Args:
        device: "cpu" or "cuda".
        quick: Small tensors of the same kinds, to see that all runs; nothing to publish.
    """
    makers: tuple[str, ...] = PROVIDERS[device]
    threads = torch.get_num_threads()
    nbytes = 2**22 if quick else ONE_TENSOR_BYTES[device]
    model = ("GPT-2 cut down", gpt2_shapes(2, 64, 1000, 128)) if quick else ("GPT-2 124M", gpt2_shapes())
    chosen = []
    for dtype, kind in DTYPES.items():
        one = (f"one tensor of {nbytes // 2**20} MiB", ((nbytes // kind.itemsize,),))
        jobs = [(*one, threads, makers), (*model, threads, makers)]
        if device == "cuda":
            large = ("Llama cut down", llama_shapes(2, 64, 172, 1000)) if quick else ("Llama 2 7B", llama_shapes())
            jobs.append((*large, threads, makers))
        elif threads > 1:
            jobs[0] = (*one, threads, tuple(maker for maker in makers if maker != "tritonparam numpy"))
            jobs.insert(0, (*one, 1, makers))
        chosen += [
            Case(op, maker, workload, shapes, dtype, count)
            for workload, shapes, count, timed in jobs
            for op in LAWS
            for maker in timed
        ]
        chosen += [
            Case(op, maker, f"{layout} of {nbytes // 2**20} MiB", (shape,), dtype, threads, layout=layout)
            for layout, shape in _strided_shapes(nbytes // kind.itemsize).items()
            for op in STRIDED_OPS
            for maker in makers
        ]
    return chosen


def _strided_shapes(elements: int) -> dict[str, tuple[int, ...]]:
    channels = 512
    return {
        COLUMN_SHARD: (elements // SHARD_COLUMNS, SHARD_COLUMNS),
        CHANNELS_LAST: (elements // (channels * 9), channels, 3, 3),
    }
