"""Who makes the values: each prepares a function that writes the tensors of a case, and says when they are wrong."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.cases import LAWS, PLAIN_FILL, WHOLE, Case
from bench.check import key_of, not_plausible, not_the_reference
from bench.memory import Memory
from tritonparam import Constant, Fill, Plan, TruncatedNormal, Uniform

Run = Callable[[], object]
PATTERN = 0x5A


@dataclass(frozen=True)
class Provider:
    """One maker, or mover, of values.

    Attributes:
        prepare: Gives the function that is timed, from a case and its memory.
        fault: What is wrong with the values it wrote there, or None.
        ungraphable: Ops that a CUDA graph cannot hold. They must not be tried: a capture that fails leaves torch's
            generator in capture mode, and later draws fail.
    """

    prepare: Callable[[Any, Any], Run]
    fault: Callable[[Any, Any], str | None]
    ungraphable: frozenset[str] = frozenset()


def _plan(case: Case, memory: Memory, backend: str) -> Plan:
    law = LAWS[case.op]
    if case.layout == WHOLE:
        return Plan([Fill(tensor, law, key_of(position)) for position, tensor in enumerate(memory.tensors)], backend)
    fills = [
        Fill(tensor, law, key_of(position), *case.place(tuple(tensor.shape)))
        for position, tensor in enumerate(memory.tensors)
    ]
    return Plan(fills, backend)


def _ours(backend: str) -> Callable[[Case, Memory], Run]:
    return lambda case, memory: _plan(case, memory, backend).run


def _triton_from_nothing(case: Case, memory: Memory) -> Run:
    def run() -> None:
        _plan(case, memory, "triton").run()

    return run


def _torch(case: Case, memory: Memory) -> Run:
    law = LAWS[case.op]

    def fill(tensor: torch.Tensor) -> None:
        if isinstance(law, Constant):
            tensor.fill_(law.value)
        elif isinstance(law, Uniform):
            tensor.uniform_(law.low, law.high)
        elif isinstance(law, TruncatedNormal):
            torch.nn.init.trunc_normal_(tensor, law.mean, law.std, law.low, law.high)
        else:
            tensor.normal_(law.mean, law.std)

    def run() -> None:
        for tensor in memory.tensors:
            fill(tensor)

    return run


def _torch_fault(case: Case, memory: Memory) -> str | None:
    return (not_the_reference if case.op == "ones" else not_plausible)(case, memory)


def plain_fill(block: torch.Tensor) -> Run:
    """One byte repeated over a block of bytes in one call: the driver's memset, or torch's fill on a host.

    The byte is not zero, since memory may take zeros faster than data.
    """

    def fill() -> None:
        block.fill_(PATTERN)

    return fill if block.is_cpu else _memset(block)


def _memset(block: torch.Tensor) -> Run:
    memset = ctypes.CDLL("libcuda.so.1").cuMemsetD8Async
    memset.argtypes = (ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p)

    def run() -> None:
        error = memset(block.data_ptr(), PATTERN, block.numel(), torch.cuda.current_stream().cuda_stream)
        if error:
            raise RuntimeError(f"cuMemsetD8Async returned error {error}")

    return run


def not_filled(block: torch.Tensor) -> str | None:
    """Which byte the plain fill did not write; None if it wrote all."""
    wrong = block != PATTERN
    return f"byte {int(wrong.nonzero()[0])} was not written" if bool(wrong.any()) else None


PROVIDERS = {
    "tritonparam cpu": Provider(_ours("cpu"), not_the_reference),
    "tritonparam numpy": Provider(_ours("numpy"), not_the_reference),
    "tritonparam triton": Provider(_ours("triton"), not_the_reference),
    "tritonparam triton, plan built too": Provider(_triton_from_nothing, not_the_reference, frozenset(LAWS)),
    # Since torch 2.13 a truncated normal is redrawn until it fits, which the host has to look at.
    "torch": Provider(_torch, _torch_fault, frozenset({"truncated_normal"})),
    PLAIN_FILL: Provider(lambda _, memory: plain_fill(memory.block), lambda _, memory: not_filled(memory.block)),
}
