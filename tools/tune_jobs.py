"""What tune_kernels.py sweeps: jobs, and variants of kernels/ with other launch constants."""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import tritonparam.kernels
from bench.cases import LAWS, Shapes, gpt2_shapes
from tritonparam import Copy, Fill
from tritonparam.plan.backends import copy_table as _copy_table
from tritonparam.plan.backends import fill_table as _fill_table

KERNELS = Path(tritonparam.kernels.__file__).resolve().parent
# Where the number of each constant stands; CHUNK, UNITS and STRIP are multiples of what an iteration does.
CONSTANTS = {
    "fill": {
        "BLOCK": r"^(BLOCK = )(\d+)\b",
        "CHUNK": r"^(CHUNK = )(\d+)(?= \* TILE\b)",
        "NUM_WARPS": r"^(NUM_WARPS = )(\d+)\b",
        "NUM_WARPS_TRUNCATED": r"^(NUM_WARPS_TRUNCATED = )(\d+)\b",
    },
    "copy": {
        "TILE": r"^(TILE = )(\d+)\b",
        "CHUNK": r"^(CHUNK = )(\d+)(?= \* TILE\b)",
        "LANES": r"^(LANES = )(\d+)\b",
        "UNITS": r"^(UNITS = )(\d+)(?= \* LANES\b)",
        "ROWS": r"^(ROWS, COLUMNS = )(\d+)(?=, \d)",
        "COLUMNS": r"^(ROWS, COLUMNS = \d+, )(\d+)\b",
        "STRIP": r"^(STRIP = )(\d+)(?= \* ROWS\b)",
        "NUM_WARPS": r"^(NUM_WARPS = )(\d+)\b",
        "NUM_WARPS_FEW": r"^(NUM_WARPS_FEW = )(\d+)\b",
    },
}
PATHS: dict[str, dict[str, tuple[int, ...]]] = {
    "fill": {"BLOCK": (256, 512, 1024), "CHUNK": (1, 2, 4, 8, 16), "NUM_WARPS": (4, 8)},
    "truncated fill": {"BLOCK": (256, 512, 1024), "CHUNK": (1, 2, 4, 8, 16), "NUM_WARPS_TRUNCATED": (4, 8)},
    "run": {"TILE": (2048, 4096, 8192), "CHUNK": (1, 2, 4, 8), "NUM_WARPS": (4, 8)},
    "narrow run": {"TILE": (2048, 4096, 8192), "CHUNK": (1, 2, 4, 8), "NUM_WARPS_FEW": (4, 8)},
    "gather": {"LANES": (256, 512, 1024), "UNITS": (1, 2, 4, 8), "NUM_WARPS": (4, 8)},
    "transpose": {"ROWS": (32, 64), "COLUMNS": (32, 64, 128), "STRIP": (1, 2, 4, 8), "NUM_WARPS_FEW": (4, 8)},
}
LIMITED, LIMITS = ("normal", "truncated_normal"), (112, 80)  # registers a thread, with this tree's BLOCK
ENTRY = {"fill": "_fill_kernel[(programs,)](", "copy": "_copy_kernel[(programs,)]("}


class Scale(NamedTuple):
    """How large the tensors of a job are: bytes of a block, sides of a matrix, rows of one of 16384 columns."""

    nbytes: int
    rows: int
    columns: int
    long_rows: int


FULL = Scale(2**30, 32768, 16384, 32768)
QUICK = Scale(2**24, 1024, 16384, 1024)
TINY = Scale(2**16, 128, 256, 8)  # of the same codes in the tables: so what is compiled is the same


@dataclass(frozen=True)
class Variant:
    """One choice of constants: those of CONSTANTS in capitals, launch options in small letters."""

    kernel: str
    values: tuple[tuple[str, int], ...]

    @property
    def package(self) -> str:
        """The name of its own copy of kernels/."""
        return "_".join(["kernels", self.kernel, *(f"{name.lower()}{value}" for name, value in self.values)])

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


class Work:
    """A job made: case and memory in one to the bench's plain fill and copy.

    Attributes:
        block: The memory that is written, guards included.
        operations: What is to be done.
        moved: Bytes that are read and written.
        made: What the plain copy copies.
    """

    def __init__(self, block: torch.Tensor, operations: list[Any], read: int, written: int) -> None:
        self.block, self.operations, self.moved = block, operations, read + written
        self.made: list[torch.Tensor] = []


@dataclass(frozen=True)
class Job:
    """What is timed, and of which kernel and path it sweeps the constants."""

    name: str
    kernel: str
    path: str
    make: Callable[[str, Scale], Work]

    def variants(self) -> list[Variant]:
        """Those of this tree first."""
        text = (KERNELS / f"{self.kernel}.py").read_text()
        space = PATHS[self.path]
        found = {name: re.search(CONSTANTS[self.kernel][name], text, re.MULTILINE) for name in space}
        if missing := [name for name, match in found.items() if match is None]:
            raise SystemExit(f"kernels/{self.kernel}.py has no line for {missing} any more: see CONSTANTS")
        now = {name: int(match[2]) for name, match in found.items() if match is not None}
        choices = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
        if self.name.split()[0] in LIMITED:
            own = [each for each in choices if each["BLOCK"] == now["BLOCK"]]
            choices += [{**each, "maxnreg": limit} for each in own for limit in LIMITS]
        ordered = [now, *(each for each in choices if each != now)]
        return [Variant(self.kernel, tuple(each.items())) for each in ordered]


def _fill_path(law: str) -> str:
    return "truncated fill" if law == "truncated_normal" else "fill"


def _fill(law: str, dtype: torch.dtype) -> Callable[[str, Scale], Work]:
    def make(device: str, scale: Scale) -> Work:
        block = torch.empty(scale.nbytes, dtype=torch.uint8, device=device)
        return Work(block, [Fill(block.view(dtype), LAWS[law], 1)], 0, scale.nbytes)

    return make


def _copies(views: list[torch.Tensor], dtype: torch.dtype, phase: int = 0, read: int | None = None) -> Work:
    """Each of the views into memory of its own, `phase` bytes off a multiple of 16."""
    sizes = [-(-view.numel() * dtype.itemsize // 16) * 16 for view in views]
    starts = [phase + start for start in itertools.accumulate(sizes, initial=0)]
    block = torch.empty(sum(sizes) + 16, dtype=torch.uint8, device=views[0].device)
    pairs = [
        (block[start : start + view.numel() * dtype.itemsize].view(dtype).view(view.shape), view)
        for start, view in zip(starts, views, strict=False)
    ]
    read = sum(view.numel() * view.dtype.itemsize for view in views) if read is None else read
    return Work(block, [Copy(out, view) for out, view in pairs], read, sum(out.nbytes for out, _ in pairs))


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)


def _contiguous(before: torch.dtype, after: torch.dtype, phase: int = 0) -> Callable[[str, Scale], Work]:
    """The wider side has the scale's bytes."""

    def make(device: str, scale: Scale) -> Work:
        count = scale.nbytes // max(before.itemsize, after.itemsize)
        return _copies([_random((count,), before, device)], after, phase)

    return make


def _rows(device: str, scale: Scale) -> Work:
    matrix = _random((scale.rows, scale.columns), torch.float32, device)
    return _copies(list(matrix.chunk(8)), torch.float32)


def _columns(device: str, scale: Scale) -> Work:
    matrix = _random((scale.long_rows, 16384), torch.float32, device)
    return _copies(list(matrix.chunk(8, 1)), torch.float32)


def _transposes(before: torch.dtype, after: torch.dtype) -> Callable[[str, Scale], Work]:
    def make(device: str, scale: Scale) -> Work:
        matrix = _random((scale.rows, scale.columns), before, device)
        return _copies([part.t() for part in matrix.chunk(8)], after)

    return make


def _gpt2(scale: Scale) -> Shapes:
    return gpt2_shapes() if scale is FULL else gpt2_shapes(2, 128, 1000, 128)


def _fill_gpt2(device: str, scale: Scale) -> Work:
    """Many rows: a program has to find its own."""
    shapes = _gpt2(scale)
    block = torch.empty(sum(map(prod, shapes)), dtype=torch.bfloat16, device=device)
    parts = block.split([prod(shape) for shape in shapes])
    return Work(
        block.view(torch.uint8), [Fill(part, LAWS["normal"], n) for n, part in enumerate(parts)], 0, block.nbytes
    )


def _copies_gpt2(after: torch.dtype) -> Callable[[str, Scale], Work]:
    def make(device: str, scale: Scale) -> Work:
        return _copies([_random(shape, torch.float32, device) for shape in _gpt2(scale)], after)

    return make


def _every_other(device: str, scale: Scale) -> Work:
    return _copies([_random((scale.nbytes // 4096, 2048), torch.float32, device)[:, ::2]], torch.float32)


def _broadcast(device: str, scale: Scale) -> Work:
    row = _random((1, 1024), torch.float32, device)
    return _copies([row.expand(scale.nbytes // 4096, 1024)], torch.float32, read=row.nbytes)


_F32, _BF16, _F8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn
_FILLS = [*itertools.product(LAWS, (_F32, _BF16)), ("normal", _F8)]
JOBS = {
    job.name: job
    for job in (
        *(Job(f"{law} {str(dtype)[6:]}", "fill", _fill_path(law), _fill(law, dtype)) for law, dtype in _FILLS),
        Job("normal GPT-2 bfloat16", "fill", "fill", _fill_gpt2),
        Job("copy float32", "copy", "run", _contiguous(_F32, _F32)),
        Job("copy float32 misaligned", "copy", "run", _contiguous(_F32, _F32, 4)),
        Job("cast float32 to bfloat16", "copy", "run", _contiguous(_F32, _BF16)),
        Job("cast bfloat16 to float32", "copy", "run", _contiguous(_BF16, _F32)),
        Job("cast bfloat16 to float8_e4m3fn", "copy", "narrow run", _contiguous(_BF16, _F8)),
        Job("copy GPT-2 float32", "copy", "run", _copies_gpt2(_F32)),
        Job("cast GPT-2 float32 to bfloat16", "copy", "run", _copies_gpt2(_BF16)),
        Job("row slices float32", "copy", "run", _rows),
        Job("column slices float32", "copy", "run", _columns),
        Job("transposes float32", "copy", "transpose", _transposes(_F32, _F32)),
        Job("transposes bfloat16", "copy", "transpose", _transposes(_BF16, _BF16)),
        Job("transposes float32 to bfloat16", "copy", "transpose", _transposes(_F32, _BF16)),
        Job("every other float32", "copy", "gather", _every_other),
        Job("broadcast row float32", "copy", "gather", _broadcast),
    )
}


def write_package(variant: Variant, folder: Path) -> None:
    """Write the variant's copy of kernels/, whose launcher also returns the compiled kernel."""
    package = folder / variant.package
    shutil.copytree(KERNELS, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / f"{variant.kernel}.py"
    text = file.read_text()
    options = "".join(f', "{name}": {value}' for name, value in variant.values if name.islower())
    edits = [(CONSTANTS[variant.kernel][name], rf"\g<1>{value}") for name, value in variant.values if name.isupper()]
    edits.append((r"^    " + re.escape(ENTRY[variant.kernel]), "    return " + ENTRY[variant.kernel]))
    edits.append((r"\"num_warps\": (num_warps\(\w+\))", r'"num_warps": \1' + options))
    for pattern, replacement in edits:
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if found != 1:
            raise SystemExit(f"{pattern!r} must occur once in kernels/{variant.kernel}.py, found {found}")
    file.write_text(text)


def table_of(work: Work, kernel: str, module: Any) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """The words of the table for the constants of `module`, on the device, and what else the launcher takes."""
    table_module: Any = _fill_table if kernel == "fill" else _copy_table
    names = ["CHUNK"] if kernel == "fill" else ["TILE", "CHUNK", "COLUMNS", "STRIP", "UNITS"]
    with mock.patch.multiple(table_module, **{name: getattr(module, name) for name in names}):
        build = table_module.build_fill_table if kernel == "fill" else table_module.build_copy_table
        table = build(work.operations)
    codes = (table.kinds, table.dtypes, table.strided) if kernel == "fill" else (table.codes,)
    return torch.from_numpy(table.words).to(work.block.device), (table.rows, table.programs, *codes)


def prepare(work: Work, variant: Variant) -> Callable[[], Any]:
    """What does the work by this variant; its package is on sys.path."""
    module = importlib.import_module(f"{variant.package}.{variant.kernel}")
    words, rest = table_of(work, variant.kernel, module)
    launch = getattr(module, variant.kernel)
    return lambda: launch(words, *rest)


def codes_of(job: Job) -> tuple[Any, ...]:
    """What the kernel is compiled for: jobs of the same codes share it."""
    module = importlib.import_module(f"tritonparam.kernels.{job.kernel}")
    return table_of(job.make("cpu", TINY), job.kernel, module)[1][2:]
