"""Compile the fill kernel for GPUs that need not be here and count what the machine code does for one element.

    python tools/count_instructions.py            print the figures as CSV
    python tools/count_instructions.py --write    put them into tests/data/instructions.csv, which the tests hold the
    code to

The hot path is the cheapest cycle of the control flow graph through the 128-bit stores: one iteration of the loop
over tiles.
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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritonparam.kernels import fill, store

FIGURES = Path(__file__).parents[1] / "tests" / "data" / "instructions.csv"
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
)
LANES = 32 * fill.NUM_WARPS
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


def compile_fill(architecture: str, kind: str, dtype: str) -> triton.compiler.CompiledKernel:
    """The fill kernel for rows of these kinds and dtypes, joined by "+"; strided ones too if `kind` says so."""
    kinds, _, strided = kind.partition(" ")
    constants = {
        "KINDS": sum(1 << fill.KINDS[each] for each in kinds.split("+")),
        "DTYPES": sum(1 << store.DTYPES[each] for each in dtype.split("+")),
        "STRIDED": bool(strided),
    }
    signature = {"table": "*i64", "rows": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fill._fill_kernel, signature, constants, attrs={(0,): [["tt.divisibility", 16]]})
    options = {"num_warps": fill.NUM_WARPS, "enable_fp_fusion": False}
    if architecture.startswith("sm_"):
        return triton.compile(source, target=GPUTarget("cuda", int(architecture[3:]), 32), options=options)
    return triton.compile(source, target=GPUTarget("hip", architecture, 64), options=options)


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


def hot_path(sass: str) -> list[str]:
    """The instructions of one iteration of the loop over tiles, as its 128-bit stores are taken."""
    blocks = read_blocks(sass)
    wide = [label for label, block in blocks.items() if any("STG.E.128" in each for each in block.code)]
    paths = [[each for label in cheapest_cycle(blocks, start) for each in blocks[label].code] for start in wide]
    return max(paths, key=lambda path: (sum("STG.E.128" in each for each in path), -len(path)), default=[])


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
    path = hot_path(sass) if "+" not in kind else []
    elements = fill.TILE / LANES
    fma = sum({"FFMA": 1, "FFMA2": 2}.get(mnemonic(each), 0) for each in path)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [_TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    resources = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Figures(
        triton.__version__,
        *case,
        instructions=round(len(path) / elements, 2),
        fma=round(fma / elements, 2),
        wide_stores=sum("STG.E.128" in each for each in path or sass.splitlines()),
        registers=resources["REG"],
        spilled=resources["STACK"] + resources["LOCAL"],
    )


def _measure_amd(kernel: triton.compiler.CompiledKernel, case: tuple[str, str, str]) -> Figures:
    """Of AMD code only what its text says without a control flow graph; the rest is 0."""
    text = kernel.asm["amdgcn"]

    def number(key: str) -> int:
        return int(re.findall(rf"\.{key}:\s+(\d+)", text)[0])

    wide = len(re.findall(r"^\s+\w+_store_dwordx4\b", text, re.MULTILINE))
    spilled = number("private_segment_fixed_size") + number("vgpr_spill_count")
    return Figures(
        triton.__version__, *case, 0.0, 0.0, wide_stores=wide, registers=number("vgpr_count"), spilled=spilled
    )


def measure_all() -> Iterator[Figures]:
    """The figures of all cases on all architectures."""
    cases = [(architecture, *case) for architecture in ARCHITECTURES for case in CASES]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(measure, cases)


def main() -> None:
    """Print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {FIGURES.name} instead of printing")
    rows = [asdict(each) for each in measure_all()] if (arguments := parser.parse_args()) else []
    with FIGURES.open("w", newline="") if arguments.write else sys.stdout as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Figures)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
