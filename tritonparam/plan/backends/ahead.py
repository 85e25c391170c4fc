"""What backends compile when it is first needed, compiled beforehand; kernels also for GPUs that are not here."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import torch

from tritonparam.plan.backends.missing import require
from tritonparam.plan.copy import Copy
from tritonparam.plan.fill import Fill
from tritonparam.stream import Constant, Law, Normal, TruncatedNormal, Uniform

CompileStep = tuple[str, Callable[[], object]]  # what is compiled, and what compiles it

_LAWS: tuple[Law, ...] = (
    Normal(),
    Uniform(),
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
    TruncatedNormal(mean=0.0, std=1.0, low=-9.0, high=9.0),
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ARCHITECTURES = range(70, 130)  # compute capabilities, as 10 * major + minor


def loops_ahead() -> list[CompileStep]:
    """Steps that compile the loops of the backend "cpu" for this host, where no file of them is kept yet.

    Raises:
        ImportError: Numba is not installed.
    """
    require("the loops of a host need", "numba")
    loops = importlib.import_module("tritonparam.stream.loops")
    return [(name, functools.partial(loops.address_of, name)) for name in loops.LOOPS]


def kernels_ahead(architecture: int) -> list[CompileStep]:
    """Steps that compile the kernels that plans of models launch, for a CUDA device that need not be here.

    They are a constant, a law, or both, in one dtype of 32 or 16 bits, and copies of and between those dtypes, of whole
    tensors; and the sums of fingerprints. Triton keeps them in its own cache, where a process with the same release of
    it and of this package finds them.

    Args:
        architecture: Its compute capability, as 90 for an H100.

    Raises:
        ImportError: Triton is not installed.
        ValueError: There is no such architecture, or Triton interprets.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"architecture must be a compute capability such as 80, 90 or 100, got {architecture}")
    require("the kernels need", "triton")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise ValueError("kernels are not compiled where TRITON_INTERPRET is set: unset it")
    return [
        (name, functools.partial(_compiled_for, architecture, act)) for name, act in (*_fills(), *_copies(), *_sums())
    ]


def _fills() -> Iterator[CompileStep]:
    kernel = importlib.import_module("tritonparam.kernels.fill")
    build = importlib.import_module("tritonparam.plan.backends.fill_table").build_fill_table
    for dtype in _DTYPES:
        out = torch.empty(1, dtype=dtype)
        sets: list[list[Law]] = [[Constant(0)], *([law] for law in _LAWS), *([Constant(0), law] for law in _LAWS)]
        for laws in sets:
            t = build([Fill(out, law) for law in laws])
            name = f"{' + '.join(map(repr, laws))}, {str(dtype).removeprefix('torch.')}"
            yield name, functools.partial(kernel.compile_fill, torch.int64, t.kinds, t.dtypes, t.strided)


def _copies() -> Iterator[CompileStep]:
    kernel = importlib.import_module("tritonparam.kernels.copy")
    build = importlib.import_module("tritonparam.plan.backends.copy_table").build_copy_table
    for source, out in product(_DTYPES, _DTYPES):
        # Large enough for the widest loads; what is smaller, or lies oddly, is of further codes.
        table = build([Copy(torch.empty(4096, dtype=out), torch.empty(4096, dtype=source))])
        names = (str(dtype).removeprefix("torch.") for dtype in (source, out))
        yield f"copy, {' to '.join(names)}", functools.partial(kernel.compile_copy, torch.int64, table.codes)


def _sums() -> Iterator[CompileStep]:
    kernel = importlib.import_module("tritonparam.kernels.fingerprint")
    run, units = (1 << kernel.PATHS[path] for path in ("run", "units"))
    for name, paths in (("fingerprint", run), ("fingerprint, shards", run | units)):
        yield name, functools.partial(kernel.compile_box_sums, torch.int64, paths)


def _compiled_for(architecture: int, act: Callable[[], object]) -> None:
    with _current_device(architecture):
        act()


@contextmanager
def _current_device(architecture: int) -> Iterator[None]:
    """Let Triton take a CUDA device of this architecture for the current one, to compile for it."""
    runtime = importlib.import_module("triton.runtime")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", architecture, 32)

    class Absent:
        """As much of a driver as compiling needs. Triton keeps what it compiled by the number of the device."""

        def get_current_device(self) -> int:
            return -architecture

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> object:
            return target

    # Asking for the one that is active would look for a GPU.
    held = vars(runtime.driver)
    before = held.get("_active", held.get("active"))
    runtime.driver.set_active(Absent())
    try:
        yield
    finally:
        runtime.driver.set_active(before)
