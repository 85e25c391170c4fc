"""Compile the kernels for GPUs that need not be here and count what the machine code does for one element.

    python tools/count_instructions.py                 print the figures of the fill kernel as CSV
    python tools/count_instructions.py copy            print those of the copy kernel, or of fingerprint
    python tools/count_instructions.py [copy] --write  put them into tests/data/instructions.csv, or
    copy_instructions.csv or fingerprint_instructions.csv there, which the tests hold the code to

The hot path is the cheapest cycle of the control flow graph through the widest stores: one iteration of the loop over
tiles. Of a box that is of two dimensions, for whose others there is a loop within, which the path passes by.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonparam.kernels import copy, fill, fingerprint
from tritonparam.kernels.boxes import PATHS
from tritonparam.kernels.dtypes import DTYPES

DATA = Path(__file__).parents[1] / "tests" / "data"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
CASES = (
    ("constant", "16"),
    ("constant", "32"),
    ("uniform", "float32"),
    ("uniform", "bfloat16"),
    ("normal", "float32"),
    ("normal", "bfloat16"),
    ("normal", "float16"),
    ("normal", "float8_e4m3fn"),
    ("truncated_normal", "float32"),
    ("truncated_normal", "bfloat16"),
    ("truncated_normal_with_tail", "float32"),
    # What models are: several kinds and dtypes in one launch. There is no one hot path to count, but nothing may spill.
    ("constant+normal", "16+bfloat16"),
    ("constant+uniform+normal+truncated_normal", "32+float32"),
    ("constant+normal strided", "16+bfloat16"),
    # Boxes that are no run, by the path of their rows: column shards, then channels_last. Of blocks without 128-bit
    # stores those by element are counted, as in transposed memory.
    *(("constant pairs", "16"), ("constant blocks", "32")),
    *(("uniform pairs", "bfloat16"), ("uniform blocks", "float32")),
    *(("normal pairs", "bfloat16"), ("normal blocks", "float32"), ("normal blocks", "bfloat16")),
    *(("truncated_normal pairs", "bfloat16"), ("truncated_normal blocks", "float32")),
    *(("normal parts", "float32"), ("normal parts", "bfloat16"), ("truncated_normal parts", "float32")),
)
# Path, "wide" or "narrow", dtypes of the source and of out; several codes joined by "+". Integers of one width are
# moved as bits, for any dtype of that width; wide moves of int32 are those of 16 bytes.
COPY_CASES = (
    *("run wide int32 int32", "run narrow int8 int8", "run narrow int16 int16"),
    *("run wide float32 bfloat16", "run wide bfloat16 float32", "run wide float32 float16", "run wide int64 int32"),
    *("run wide float32 float8_e4m3fn", "run wide float8_e4m3fn bfloat16", "run wide float64 uint64"),
    *("run narrow float32 bfloat16", "run narrow bfloat16 float32"),
    *("gather wide int32 int32", "gather narrow int16 int16", "gather narrow int64 int64"),
    *("gather wide float32 bfloat16", "gather wide bfloat16 float32", "gather narrow float32 bfloat16"),
    *("transpose narrow int8 int8", "transpose narrow int16 int16", "transpose narrow int32 int32"),
    *("transpose narrow int64 int64", "transpose narrow float32 bfloat16", "transpose narrow bfloat16 float32"),
    # A checkpoint: parameters in 16 bytes, odd ones, shards by columns, and casts of some.
    "run wide int32 int32+run narrow int16 int16+gather wide int32 int32",
    "run wide float32 bfloat16+run narrow float32 bfloat16+run wide int32 int32+transpose narrow int16 int16",
)
SUM_CASES = ("run", "units", "1", "2", "4", "8", "run+units", "+".join(fingerprint.PATHS))  # paths of the rows
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# The predicate stands before the instruction or is its first operand.
_BRANCH = re.compile(r"^(@!?U?P\d+ )?(?:BRA|JMP)\S*\s+(!?U?P\d+, ?)?.*?`\((\.L\w+)\)")


@dataclass(frozen=True)
class Figures:
    """What one compiled kernel does.

    Attributes:
        triton: The release that compiled it, with its own ptxas.
        architecture, kind, dtype: Of the kernel.
        instructions: An element, on the hot path; 0 where it was not counted.
        fma: Float32 fused multiply-adds an element, on the hot path; likewise.
        wide_stores: 128-bit stores of one thread in one iteration, or in the whole code where no path was counted.
        registers: Of one thread.
        spilled: Bytes of stack and local memory of one thread.
        divisions: Calls of the subroutines that divide 64-bit integers, in the whole code.
    """

    triton: str
    architecture: str
    kind: str
    dtype: str
    instructions: float
    fma: float
    wide_stores: int
    registers: int
    spilled: int
    divisions: int


@dataclass(frozen=True)
class CopyFigures:
    """What one compiled copy kernel does.

    Attributes:
        triton: The release that compiled it, with its own ptxas.
        architecture, case: Of the kernel.
        instructions: Of one thread in one iteration of a wide run, on the hot path; 0 where not counted.
        wide_loads, wide_stores: 128-bit accesses to global memory in the whole code.
        shared_stores, shared_loads: Accesses to shared memory.
        load_lanes, store_lanes: Neighbouring lanes along the contiguous dimension of the last tile loaded and stored.
        registers: Of one thread.
        spilled: Bytes of stack and local memory of one thread.
    """

    triton: str
    architecture: str
    case: str
    instructions: int
    wide_loads: int
    wide_stores: int
    shared_stores: int
    shared_loads: int
    load_lanes: int
    store_lanes: int
    registers: int
    spilled: int


@dataclass(frozen=True)
class SumFigures:
    """What one compiled kernel of the sums of fingerprints does.

    Attributes:
        triton: The release that compiled it, with its own ptxas.
        architecture, case: Of the kernel.
        instructions: Of one thread for a word of 32 bits, in the loop over whole blocks of a run; 0 where not counted.
        uniform: How many of them are of the unit for what is the same in all threads of a warp.
        wide_loads: 128-bit loads of that loop; in other cases, of the whole code.
        registers: Of one thread.
        spilled: Bytes of stack and local memory of one thread.
    """

    triton: str
    architecture: str
    case: str
    instructions: float
    uniform: float
    wide_loads: int
    registers: int
    spilled: int


def compile_kernel(
    kernel: triton.JITFunction, constants: dict[str, object], warps: int, architecture: str, *pointers: str
) -> triton.compiler.CompiledKernel:
    """A kernel that takes a table, further `pointers`, its number of rows and these constants, as it is launched."""
    places = ("table", *pointers)
    signature = dict.fromkeys(places, "*i64") | {"rows": "i32"} | dict.fromkeys(constants, "constexpr")
    attributes = {(number,): [["tt.divisibility", 16]] for number in range(len(places))}
    source = ASTSource(kernel, signature, constants, attrs=attributes)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    if architecture.startswith("sm_"):
        return triton.compile(source, target=GPUTarget("cuda", int(architecture[3:]), 32), options=options)
    return triton.compile(source, target=GPUTarget("hip", architecture, 64), options=options)


def compile_copy(architecture: str, case: str) -> triton.compiler.CompiledKernel:
    """The copy kernel for rows of the codes that `case` has, joined by "+"."""
    codes = []
    for each in case.split("+"):
        path, width, source, out = each.split()
        codes.append(copy.code_of(path, width == "wide", DTYPES[source], DTYPES[out]))
    return compile_kernel(copy._copy_kernel, {"CODES": tuple(codes)}, copy.num_warps(tuple(codes)), architecture)


def compile_sums(architecture: str, case: str) -> triton.compiler.CompiledKernel:
    """The kernel of the sums of fingerprints for rows of the paths that `case` has, joined by "+"."""
    paths = sum(1 << fingerprint.PATHS[each] for each in case.split("+"))
    constants = {"PATHS": paths}
    return compile_kernel(fingerprint._box_sums_kernel, constants, fingerprint.NUM_WARPS, architecture, "sums_ptr")


def compile_fill(architecture: str, kind: str, dtype: str) -> triton.compiler.CompiledKernel:
    """The fill kernel for rows of these kinds and dtypes, joined by "+", of one path or, if `kind` says strided, all.

    For the dtype of a constant stands its width in bits. No path is named of runs.
    """
    kinds, _, path = kind.partition(" ")
    strided = {"": 0, "strided": 2 ** len(PATHS) - 1} | {name: 1 << number for name, number in PATHS.items()}
    constants = {
        "KINDS": sum(1 << fill.KINDS[each] for each in kinds.split("+")),
        "DTYPES": sum(1 << DTYPES[f"int{each}" if each.isdigit() else each] for each in dtype.split("+")),
        "STRIDED": strided[path],
    }
    return compile_kernel(fill._fill_kernel, constants, fill.num_warps(constants["KINDS"]), architecture)


@dataclass
class Block:
    """Instructions without a jump into or out of their middle, and where they lead."""

    code: list[str]
    leads_to: list[str]


def disassemble(cubin: bytes) -> str:
    """The SASS of a cubin, as nvdisasm prints it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True).stdout


def read_blocks(sass: str) -> dict[str, Block]:
    """The basic blocks by label."""
    blocks = {"entry": Block([], [])}
    label, open_ended = "entry", True
    for line in sass.splitlines():
        mark = re.match(r"^(\.L\w+):", line.strip())
        found = re.match(r"^\s+/\*[0-9a-f]+\*/\s+(.*?);", line)
        if mark is None and found is None:
            continue
        if mark is not None:
            if open_ended:
                blocks[label].leads_to.append(mark[1])
            label, open_ended = mark[1], True
            blocks[label] = Block([], [])
            continue
        instruction = " ".join(found[1].split())
        blocks[label].code.append(instruction)
        jump = _BRANCH.match(instruction)
        if jump is not None:
            blocks[label].leads_to.append(jump[3])
        always = (jump is not None and not (jump[1] or jump[2])) or re.match(r"EXIT|RET", instruction) is not None
        if jump is not None or always:
            following = f"{label}+"
            if not always:
                blocks[label].leads_to.append(following)
            label, open_ended = following, True
            blocks[label] = Block([], [])
    return blocks


def cheapest_cycle(blocks: dict[str, Block], through: str) -> list[str]:
    """The labels of the cycle through a block that has the fewest instructions; none if there is no cycle."""
    queue = [(len(blocks[through].code), through, [through])]
    done = set()
    while queue:
        cost, label, path = heapq.heappop(queue)
        for following in blocks[label].leads_to:
            if following == through:
                return path
            if following not in done:
                done.add(following)
                heapq.heappush(queue, (cost + len(blocks[following].code), following, [*path, following]))
    return []


def hot_path(sass: str, store: str = "STG.E.128") -> list[str]:
    """The instructions of one iteration of the loop over tiles, as its stores of this width are taken."""
    blocks = read_blocks(sass)
    found = [label for label, block in blocks.items() if any(store in each for each in block.code)]
    paths = [[each for label in cheapest_cycle(blocks, start) for each in blocks[label].code] for start in found]
    return max(paths, key=lambda path: (sum(store in each for each in path), -len(path)), default=[])


def mnemonic(instruction: str) -> str:
    """FFMA of "@P0 FFMA.FTZ R0, R1, R2, R3"."""
    words = instruction.split()
    return words[1 if words[0].startswith("@") else 0].split(".")[0]


def measure(case: tuple[str, str, str]) -> Figures:
    """The figures of one case."""
    architecture, kind, dtype = case
    kernel = compile_fill(architecture, kind, dtype)
    if not architecture.startswith("sm_"):
        return _measure_amd(kernel, case)
    sass = disassemble(kernel.asm["cubin"])
    path = hot_path(sass) or hot_path(sass, "STG.E") if "+" not in kind else []
    elements = fill.TILE / (32 * kernel.metadata.num_warps) / (2 if kind.endswith("parts") else 1)
    fma = sum({"FFMA": 1, "FFMA2": 2}.get(mnemonic(each), 0) for each in path)
    registers, spilled = resources(kernel)
    return Figures(
        triton.__version__,
        *case,
        instructions=round(len(path) / elements, 2),
        fma=round(fma / elements, 2),
        wide_stores=sum("STG.E.128" in each for each in path or sass.splitlines()),
        registers=registers,
        spilled=spilled,
        divisions=len(re.findall(r"\bCALL\b.*__cuda_sm20_(?:div|rem)_", sass)),
    )


def resources(kernel: triton.compiler.CompiledKernel) -> tuple[int, int]:
    """Registers, and spilled bytes, of one thread."""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        numbers = [
            int(re.findall(rf"\.{key}:\s+(\d+)", text)[0])
            for key in ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
        ]
        return numbers[0], sum(numbers[1:])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [_TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _measure_amd(kernel: triton.compiler.CompiledKernel, case: tuple[str, str, str]) -> Figures:
    """Of AMD code only what its text says without a control flow graph; the rest is 0."""
    wide = len(re.findall(r"^\s+\w+_store_dwordx4\b", kernel.asm["amdgcn"], re.MULTILINE))
    registers, spilled = resources(kernel)
    return Figures(
        triton.__version__, *case, 0.0, 0.0, wide_stores=wide, registers=registers, spilled=spilled, divisions=0
    )


# Wide loads and stores, stores to and loads from shared memory.
_NVIDIA = ("LDG.E.128", "STG.E.128", "STS", "LDS")
_AMD = ("global_load_dwordx4", "global_store_dwordx4", "ds_write", "ds_read")


def measure_copy(case: tuple[str, str]) -> CopyFigures:
    """The figures of one case of the copy kernel."""
    kernel = compile_copy(*case)
    is_nvidia = "cubin" in kernel.asm
    code = disassemble(kernel.asm["cubin"]) if is_nvidia else kernel.asm["amdgcn"]
    path = hot_path(code) if is_nvidia and case[1].startswith("run wide") and "+" not in case[1] else []
    counts = [len(re.findall(rf"\b{name}", code)) for name in (_NVIDIA if is_nvidia else _AMD)]
    registers, spilled = resources(kernel)
    lanes = _lanes(kernel.asm["ttgir"])
    return CopyFigures(triton.__version__, *case, len(path), *counts, *lanes, registers, spilled)


def measure_sums(case: tuple[str, str]) -> SumFigures:
    """The figures of one case of the kernel of fingerprints."""
    kernel = compile_sums(*case)
    registers, spilled = resources(kernel)
    if "cubin" not in kernel.asm:
        wide = len(re.findall(r"\bglobal_load_dwordx4", kernel.asm["amdgcn"]))
        return SumFigures(triton.__version__, *case, 0.0, 0.0, wide, registers, spilled)
    sass = disassemble(kernel.asm["cubin"])
    path = hot_path(sass, "LDG.E.128") if case[1] == "run" else []
    words = fingerprint.BLOCK_WORDS / (32 * fingerprint.NUM_WARPS)
    uniform = sum(bool(re.match(r"U[A-Z]", mnemonic(each))) for each in path)
    wide = sum("LDG.E.128" in each for each in path or sass.splitlines())
    each = round(len(path) / words, 2), round(uniform / words, 2)
    return SumFigures(triton.__version__, *case, *each, wide, registers, spilled)


def _lanes(ttgir: str) -> tuple[int, int]:
    """How many lanes lie side by side along the contiguous dimension of the last tile that is loaded, and stored."""
    layouts = dict(re.findall(r"^(#blocked\d*) = #ttg\.blocked<\{(.*?)\}>", ttgir, re.MULTILINE))
    found = []
    for access in ("load", "store"):
        layout = layouts[re.findall(rf"tt\.{access} .*tensor<\S+, (#blocked\d*)>", ttgir)[-1]]
        lanes = re.findall(r"\d+", re.findall(r"threadsPerWarp = \[(.*?)\]", layout)[0])
        first = re.findall(r"order = \[(\d+)", layout)[0]
        found.append(int(lanes[int(first)]))
    return found[0], found[1]


KERNELS: dict[str, tuple[str, type, Callable[[Any], Any], tuple[tuple[str, ...], ...]]] = {
    "fill": ("instructions.csv", Figures, measure, CASES),
    "copy": ("copy_instructions.csv", CopyFigures, measure_copy, tuple((case,) for case in COPY_CASES)),
    "fingerprint": ("fingerprint_instructions.csv", SumFigures, measure_sums, tuple((case,) for case in SUM_CASES)),
}


def measure_all(kernel: str) -> Iterator[Any]:
    """The figures of all cases of a kernel on all architectures."""
    _, _, measured, own = KERNELS[kernel]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(measured, [(architecture, *case) for architecture in ARCHITECTURES for case in own])


def main() -> None:
    """Print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="?", choices=tuple(KERNELS), default="fill")
    parser.add_argument("--write", action="store_true", help=f"write a file in {DATA.name}/ instead of printing")
    arguments = parser.parse_args()
    name, kind, _, _ = KERNELS[arguments.kernel]
    rows = [asdict(each) for each in measure_all(arguments.kernel)]
    with (DATA / name).open("w", newline="") if arguments.write else sys.stdout as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
