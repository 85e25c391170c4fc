"""The rows: one a case, with all that is needed to know what was measured, kept as CSV, one file a device.

A full run replaces the file of its device; a run of some of the cases replaces their rows. Earlier rows are in git.
Rows of whole processes (bench.end_to_end) are of another kind, and in a folder of their own.
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

import tritonparam
from tritonparam.stream.key import STREAM_VERSION

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Environment:
    """Where and with what a row was measured."""

    device: str
    python: str
    torch: str
    triton: str
    numpy: str
    tritonparam: str
    stream: int
    date: str
    commit: str


@dataclass(frozen=True)
class OfACase(Environment):
    """A row that takes the place of an older one of its case."""

    IDENTITY: ClassVar[tuple[str, ...]]

    @property
    def case(self) -> tuple[str, ...]:
        """What is replaced when it is measured again."""
        return tuple(str(getattr(self, name)) for name in self.IDENTITY)


@dataclass(frozen=True)
class Row(OfACase):
    """One measurement.

    Attributes:
        op, provider, workload, dtype, threads: Of the case.
        mode: "eager": called from Python, "graph": replayed from a CUDA graph, "host": time of the host alone, "fresh":
            called, in memory that the driver or the system gives meanwhile.
        tensors, elements, bytes: Of one run; bytes that are copied count twice, read and written.
        repeats: Runs a sample, back to back.
        rounds: Samples.
        median_s, p20_s, p80_s: Seconds a run, over the samples.
        gb_per_s: 1e9 bytes a second, from the median; 0 in a host row.
        elements_per_s: From the median; 0 in a host row.
        fraction_of_ceiling: gb_per_s over that of the plain fill, or plain copy, of the same job and process, in the
            faster of its modes; 0 where there is none.
    """

    op: str
    provider: str
    workload: str
    dtype: str
    threads: int
    mode: str
    tensors: int
    elements: int
    bytes: int
    repeats: int
    rounds: int
    median_s: float
    p20_s: float
    p80_s: float
    gb_per_s: float
    elements_per_s: float
    fraction_of_ceiling: float

    IDENTITY: ClassVar[tuple[str, ...]] = ("op", "provider", "workload", "dtype", "threads", "mode")


Kind = TypeVar("Kind", bound=OfACase)
COLUMNS = [field.name for field in fields(Row)]
_TYPES = {"int": int, "float": float, "str": str}


def environment(device: str, commit: str | None = None) -> Environment:
    """Of this process.

    Args:
        device: "cpu" or "cuda".
        commit: What is measured; None to ask git.
    """
    return Environment(
        device=torch.cuda.get_device_name()
        if device == "cuda"
        else f"{_processor()}, {torch.get_num_threads()} threads",
        python=platform.python_version(),
        torch=torch.__version__,
        triton=_version("triton"),
        numpy=_version("numpy"),
        tritonparam=tritonparam.__version__,
        stream=STREAM_VERSION,
        date=datetime.now(timezone.utc).date().isoformat(),
        commit=commit or _commit(),
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # The rows themselves may differ: measuring a clean tree twice is no change to what is measured.
        dirty = git("status", "--porcelain", "--", ".", ":!bench/results", ":!README.md")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def path_of(folder: Path, device: str) -> Path:
    """The file of a device's rows."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".csv")


def read(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        ValueError: Its columns are others.
    """
    return read_as(Row, path)


def read_as(kind: type[Kind], path: Path) -> list[Kind]:
    """The rows of a file, of any kind.

    Raises:
        ValueError: Its columns are others.
    """
    types = {field.name: _TYPES[str(field.type)] for field in fields(kind)}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != [*types]:
            raise ValueError(f"{path} must have the columns {[*types]}, got {reader.fieldnames}")
        return [kind(**{name: of(record[name]) for name, of in types.items()}) for record in reader]


def write(folder: Path, rows: Iterable[OfACase], whole: bool) -> list[Path]:
    """Write rows of one kind to the files of their devices.

    Args:
        folder: Made if it is not there.
        rows: In the order they are to stand in.
        whole: Whether these are all the cases, so that no older row stays.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_path: dict[Path, dict[tuple[str, ...], OfACase]] = {}
    for row in rows:
        path = path_of(folder, row.device)
        if path not in by_path:
            kept = path.exists() and not whole
            by_path[path] = {old.case: old for old in read_as(type(row), path)} if kept else {}
        by_path[path][row.case] = row
    for path, found in by_path.items():
        write_table(path, [*found.values()])
    return list(by_path)


def write_table(path: Path, rows: Sequence[Environment]) -> None:
    """Write rows of one kind as CSV, with a head of their fields; floats have six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _shown(value) for key, value in asdict(row).items()} for row in rows)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
