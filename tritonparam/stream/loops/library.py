"""The compiled loops by name, each made ready when it is first asked for: from memory, from its file, or compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm

from tritonparam._errors import TritonParamError
from tritonparam._locks import across_forks
from tritonparam.stream.loops import object_files

# The file of this room that has each loop, and how many int64 it takes.
LOOPS = {
    "boxes": ("boxes", 7),
    "sums": ("sums", 8),
    "words": ("philox", 4),
    "uniform": ("transforms", 4),
    "normal": ("transforms", 4),
    "truncated_normal": ("transforms", 4),
    "truncated_normal_with_tail": ("transforms", 4),
    "float64_bits": ("rounding", 4),
    "bfloat16_bits": ("rounding", 4),
    "float16_bits": ("rounding", 4),
    "float8_e4m3fn_bits": ("rounding", 4),
    "float8_e5m2_bits": ("rounding", 4),
}


class CompilerError(TritonParamError, RuntimeError):
    """Numba is installed, and cannot compile: it is of another release than it needs, or told not to."""


_LOCK = across_forks()
_returned = ctypes.c_int64()  # where every loop says that it returns nothing
_NOTHING = ctypes.addressof(_returned)
_loaded: dict[str, tuple[int, llvm.ExecutionEngine]] = {}


def address_of(name: str) -> int:
    """The address of a loop, which stays where it is.

    Args:
        name: A key of LOOPS.
    """
    known = _loaded.get(name)
    if known is None:
        with _LOCK:
            known = _loaded.get(name)
            if known is None:
                known = _loaded[name] = _load(name, _object_file(name))
    return known[0]


@cache
def caller(name: str) -> Callable[..., None]:
    """A loop as a function of its ints, during which other threads run."""
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * LOOPS[name][1])
    loop = kind(address_of(name))

    def call(*arguments: int) -> None:
        if status := loop(_NOTHING, _NOTHING, *arguments):
            raise RuntimeError(f"the compiled loop {name} returned {status}, not 0")

    return call


def _object_file(name: str) -> bytes:
    code = object_files.read(name)
    if code is None:
        file, arguments = LOOPS[name]
        try:
            from tritonparam.stream.loops.compiler import compile_loop

            code = compile_loop(file, name, arguments)
        except Exception as error:
            raise CompilerError(f"{type(error).__name__}: {str(error)[:300]}") from error
        object_files.keep(name, code)
    return code


def _load(name: str, code: bytes) -> tuple[int, llvm.ExecutionEngine]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine.get_function_address(name), engine
