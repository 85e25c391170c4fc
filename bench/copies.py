"""Who moves values: copies, casts, slices, transposes, clones and loads, against torch and a plain copy."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

import torch

import tritonparam
from bench.cases import Case, Shapes, gpt2_shapes
from bench.check import other_bits
from bench.clock import FreshRun, Run
from bench.memory import ALIGNMENT, give_back
from bench.providers import Provider
from tritonparam import Copy, Parameter, ParameterTuple, Plan
from tritonparam.initializer import initializer

OPS = ("copy", "clone", "load", "load as new", "row slices", "column slices", "transposes")
MADE_ANEW = ("clone", "load as new")
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float32 to bfloat16": (torch.float32, torch.bfloat16),
}
PLAIN_COPY = "plain copy"
OURS = {"cpu": "tritonparam cpu", "cuda": "tritonparam triton"}
SIDE = {"cpu": 8192, "cuda": 32768}  # of the matrix that is cut, in float32
SLICES = 8


@dataclass(frozen=True)
class CopyCase(Case):
    """One mover, one job: `shapes` are the tensors that are copied, of the first of the dtypes, into the second."""

    @property
    def moved(self) -> int:
        """Bytes moved by a run: every value is read once and written once."""
        return self.elements * sum(dtype.itemsize for dtype in DTYPES[self.dtype])

    @property
    def ceiling(self) -> str:
        """Whose time a run is held against."""
        return PLAIN_COPY


class CopyMemory:
    """What the movers of one job read and write.

    Attributes:
        sources: The tensors that are copied, with numbers in them.
        pairs: (out, source) for each part that is copied; the outs lie in `block`.
        made: What a mover that makes its own tensors made last, one for each source.
        file: A safetensors file with the sources, for loads.
    """

    def __init__(self, case: CopyCase, device: str) -> None:
        before, after = DTYPES[case.dtype]
        random = torch.Generator(device).manual_seed(0)
        self.sources = [torch.randn(shape, generator=random, device=device).to(before) for shape in case.shapes]
        views = [view for source in self.sources for view in _parts(case.op, source)]
        sizes = [view.numel() * after.itemsize for view in views]
        ends = list(accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))
        self.block = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        self.pairs = [
            (self.block[start : start + size].view(after).view(view.shape), view)
            for view, start, size in zip(views, [0, *ends[:-1]], sizes, strict=True)
        ]
        self.made: list[torch.Tensor] = []
        self._file: Path | None = None

    @property
    def file(self) -> Path:
        """Made when it is first asked for, in the page cache from then on, and removed with this object."""
        if self._file is None:
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._file = Path(folder) / "model.safetensors"
            tritonparam.save({f"{n:04}": source for n, source in enumerate(self.sources)}, self._file)
        return self._file

    def poison(self) -> None:
        """Make every value a NaN, so that one that is not written shows."""
        self.block.fill_(0xFF)
        self.made = []

    def release(self) -> None:
        """Give what was made back to the system: a clone is made once, in memory that was not there before.

        On CUDA torch keeps it, for all movers alike.
        """
        self.made = []
        if self.block.is_cpu:
            give_back()


def _parts(op: str, source: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The views of a source that are copied, each into memory of its own."""
    if op in ("copy", "load", *MADE_ANEW):
        return (source,)
    parts = source.chunk(SLICES, 1 if op == "column slices" else 0)
    return tuple(part.t() for part in parts) if op == "transposes" else parts


MAKES = frozenset({"clone", "load", "load as new"})  # what allocates or reads a file, which a CUDA graph cannot hold


def _ours(backend: str) -> Callable[[CopyCase, CopyMemory], Run]:
    def prepare(case: CopyCase, memory: CopyMemory) -> Run:
        if case.op == "load":
            named = {f"{n:04}": out for n, (out, _) in enumerate(memory.pairs)}
            return lambda: tritonparam.load(named, memory.file, backend=backend)
        if case.op == "load as new":
            return _load_as_new(case, memory, backend)
        if case.op == "clone":
            return _clone(case, memory)
        return Plan([Copy(out, source) for out, source in memory.pairs], backend).run

    return prepare


def _clone(case: CopyCase, memory: CopyMemory) -> Run:
    held = ParameterTuple(Parameter(source, name=str(n)) for n, source in enumerate(memory.sources))
    dtype = DTYPES[case.dtype][1]

    def run() -> None:
        memory.made = [each.torch.detach() for each in held.clone("clone", dtype=dtype)]

    return FreshRun(run, memory.release)


def _load_as_new(case: CopyCase, memory: CopyMemory, backend: str) -> Run:
    """Lazy Parameters, which become real by what is loaded."""
    dtype, device = DTYPES[case.dtype][1], memory.block.device

    def run() -> None:
        lazy = [Parameter(initializer("zeros", shape, dtype), f"{n:04}") for n, shape in enumerate(case.shapes)]
        tritonparam.load(lazy, memory.file, device=device, backend=backend)
        memory.made = [each.torch.detach() for each in lazy]

    return FreshRun(run, memory.release)


def _torch_one_by_one(case: CopyCase, memory: CopyMemory) -> Run:
    if case.op == "load":
        return _load_file(memory)
    dtype = DTYPES[case.dtype][1]
    if case.op == "load as new":
        return _load_file_as_new(memory, dtype)
    if case.op == "clone":

        def clone() -> None:
            memory.made = [source.to(dtype, copy=True) for source in memory.sources]

        return FreshRun(clone, memory.release)

    def run() -> None:
        for out, source in memory.pairs:
            out.copy_(source)

    return run


def _load_file(memory: CopyMemory) -> Run:
    """What a user of safetensors does: its tensors, which on a host are the file's own pages, into those of a model."""
    from safetensors.torch import load_file

    outs = [out for out, _ in memory.pairs]
    device = str(outs[0].device)

    def run() -> None:
        loaded = load_file(memory.file, device=device)
        torch._foreach_copy_(outs, [loaded[f"{n:04}"] for n in range(len(outs))])

    return run


def _load_file_as_new(memory: CopyMemory, dtype: torch.dtype) -> Run:
    """Tensors of their own, not the file's pages, which are written to at the price of a copy of each."""
    from safetensors.torch import load_file

    device = memory.block.device

    def run() -> None:
        loaded = load_file(memory.file)
        memory.made = [loaded[f"{n:04}"].to(device, dtype, copy=True) for n in range(len(memory.sources))]

    return FreshRun(run, memory.release)


def _foreach(_: CopyCase, memory: CopyMemory) -> Run:
    outs, sources = map(list, zip(*memory.pairs, strict=True))
    return lambda: torch._foreach_copy_(outs, sources)


def _not_the_source(case: CopyCase, memory: CopyMemory) -> str | None:
    """Every value has the bits of the source's, cast by torch."""
    after = DTYPES[case.dtype][1]
    compared = list(zip(memory.made, memory.sources, strict=True)) if case.op in MADE_ANEW else memory.pairs
    for position, (out, source) in enumerate(compared):
        fault = other_bits(out, source.to(after))
        if fault is not None:
            return f"part {position}, {fault}"
    return None


def _plain_copy(case: CopyCase, memory: CopyMemory) -> Run:
    """As many bytes from one contiguous block to another, in one call."""
    half = case.moved // 2
    source = torch.arange(half, device=memory.block.device, dtype=torch.uint8)
    out = torch.empty_like(source)

    def run() -> None:
        out.copy_(source)

    memory.made = [out, source]
    return run


def _not_the_block(_: CopyCase, memory: CopyMemory) -> str | None:
    return None if torch.equal(*memory.made) else "the block was not copied"


MOVERS = {
    OURS["cpu"]: Provider(_ours("cpu"), _not_the_source, MAKES),
    OURS["cuda"]: Provider(_ours("triton"), _not_the_source, MAKES),
    "torch": Provider(_torch_one_by_one, _not_the_source, MAKES),
    "torch foreach": Provider(_foreach, _not_the_source),
    PLAIN_COPY: Provider(_plain_copy, _not_the_block),
}


def copy_cases(device: str, quick: bool = False) -> list[CopyCase]:
    """All cases of a device; those that are compared side by side are neighbours.

    Args:
        device: "cpu" or "cuda".
        quick: Small tensors of the same kinds, to see that all runs; nothing to publish.
    """
    model = ("GPT-2 cut down", gpt2_shapes(2, 64, 1000, 128)) if quick else ("GPT-2 124M", gpt2_shapes())
    side = 256 if quick else SIDE[device]
    matrix: tuple[str, Shapes] = (f"8 parts of {side:,} x {side // 2:,}", ((side, side // 2),))
    chosen = []
    for op in OPS:
        name, shapes = matrix if op in ("row slices", "column slices", "transposes") else model
        movers = [OURS[device], "torch", PLAIN_COPY]
        if op.startswith("load") and find_spec("safetensors") is None:
            movers.remove("torch")
        if op not in MAKES:
            movers.insert(2, "torch foreach")
        for dtype in DTYPES:
            chosen += [CopyCase(op, mover, name, shapes, dtype, torch.get_num_threads()) for mover in movers]
    return chosen
