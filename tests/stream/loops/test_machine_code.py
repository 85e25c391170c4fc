"""The machine code of the loops: vectors, and of floating-point operations those that are written, none joined."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm
import numba

from tritonparam.stream.loops import compiler
from tritonparam.stream.loops.library import LOOPS

FEATURES = llvm.get_host_cpu_features()
IS_X86 = llvm.get_process_triple().startswith("x86_64")
INNER = sorted(set(LOOPS) - {"boxes"})  # which moves, and calls these
# How many fused operations the formula of each loop has; truncated laws have their values twice, even and odd.
FUSED = {"uniform": 2, "normal": 22, "truncated_normal": 2 * 20, "truncated_normal_with_tail": 2 * 32}


@pytest.fixture(scope="module")
def modules() -> dict[str, llvm.ModuleRef]:
    return {name: compiler.optimized(file, name, count) for name, (file, count) in LOOPS.items()}


def assembly(module: llvm.ModuleRef) -> str:
    # From a copy, since writing code changes what it is written from.
    copy = llvm.parse_assembly(str(module))
    return str(compiler.target(copy).emit_assembly(copy))


def loosened(text: str) -> list[str]:
    """The operations that have a flag that allows another rounding."""
    operations = re.findall(r"= ((?:tail )?(?:call|fadd|fsub|fmul|fneg|fcmp|fdiv)[^\n]*)", text)
    flags = re.compile(r"^(?:tail )?(?:call|f\w+) (?:[a-z]+ )*(fast|contract|reassoc|afn|arcp|nnan|ninf|nsz)\b")
    return [each for each in operations if flags.match(each)]


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_nothing_may_be_contracted(name: str, modules: dict[str, llvm.ModuleRef]) -> None:
    """No operation has a flag that allows another rounding; what is divided or joined by LLVM is not there at all."""
    text = str(modules[name])
    assert loosened(text) == []
    assert "fmuladd" not in text
    assert "fdiv" not in text


def test_a_loop_that_may_be_contracted_is_seen() -> None:
    @numba.njit(fastmath=True)
    def product(x: float, y: float, z: float) -> float:
        return x * y + z

    product(1.0, 2.0, 3.0)
    (text,) = product.inspect_llvm().values()
    assert len(loosened(text)) >= 2


@pytest.mark.skipif(not (IS_X86 and FEATURES.get("fma")), reason="an x86 CPU with fma")
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_fused_operations_are_those_that_are_written(name: str, modules: dict[str, llvm.ModuleRef]) -> None:
    written = len(re.findall(r"call [^\n]*@llvm\.fma\.", str(modules[name])))
    made = len(re.findall(r"^\s+vfn?m(?:add|sub)", assembly(modules[name]), re.MULTILINE))
    assert made == written
    assert written % FUSED.get(name, 1) == 0
    assert bool(written) == (name in FUSED)


@pytest.mark.skipif(not (IS_X86 and FEATURES.get("avx2")), reason="an x86 CPU with AVX2")
@pytest.mark.parametrize("name", INNER)
def test_loops_are_vectors_and_call_nobody(name: str, modules: dict[str, llvm.ModuleRef]) -> None:
    code = assembly(modules[name])
    assert re.search(r"[yz]mm\d+", code)
    assert re.findall(r"^\s+call[^\n]*", code, re.MULTILINE) == []
    packed = {"words": "vpmuludq", "uniform": r"vfmadd\d+ps", "normal": r"vfmadd\d+ps"}.get(name)
    if packed is not None:
        assert re.search(packed + r"\s[^\n]*[yz]mm", code)
    # The body of the widest loop does at least eight elements at a time.
    assert re.search(r"<(?:8|16|32|64) x ", str(modules[name]))
