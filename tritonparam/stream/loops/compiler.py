"""Compiles a loop into an object file: bytes that any process on such a CPU can load. Imports Numba."""

from __future__ import annotations

import importlib

import llvmlite.binding as llvm
import numba
from numba import types

from tritonparam.stream.loops.arithmetic import OPTIONS
from tritonparam.stream.loops.object_files import cpu


def compile_loop(file: str, name: str, arguments: int) -> bytes:
    """The object file of a loop, in which it has its own name.

    Args:
        file: Of this room, that has it.
        name: Its name there.
        arguments: How many int64 it takes.
    """
    module = optimized(file, name, arguments)
    code: bytes = target(module).emit_object(module)
    return code


def optimized(file: str, name: str, arguments: int) -> llvm.ModuleRef:
    """What `compile_loop` makes machine code of: LLVM's language, vectorized for this CPU."""
    written = getattr(importlib.import_module(f"{__package__}.{file}"), name)
    loop = numba.njit(**OPTIONS)(written)
    loop.compile(types.void(*[types.int64] * arguments))
    module = llvm.parse_assembly(loop.inspect_llvm(loop.signatures[0]))
    (own,) = [each for each in module.functions if not each.is_declaration and each.linkage is llvm.Linkage.external]
    own.name = name
    return module


def target(module: llvm.ModuleRef) -> llvm.TargetMachine:
    """What writes machine code for this CPU."""
    llvm.initialize_all_asmprinters()
    name, features = cpu()
    return llvm.Target.from_triple(module.triple).create_target_machine(cpu=name, features=features, opt=3)
