"""Inspecting a checkpoint: every tensor against what it should have been drawn from, in bounded memory."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint import (
    RECORD_NAME,
    CheckpointError,
    Extent,
    UsageError,
    dtype_name,
    find_files,
    not_fetched,
    read_chunks,
    read_header,
)
from tritonparam.cli.inspect.expected import describe
from tritonparam.cli.inspect.stats import TESTS, Group, Moments
from tritonparam.cli.record import Entry, Record, checkpoint_digest, parse_record, read_json
from tritonparam.plan import Box, Sum, cut_boxes, sums
from tritonparam.stream import fingerprint_digest, fingerprint_key, fingerprint_total, flat_index

FALSE_ALARM = 1e-6
NOT_KNOWN = "not known"
_PIECE = 1 << 17  # elements: what a core's cache holds, as float64 too
_READERS = 8


@dataclass
class Report:
    """One tensor of an inspected checkpoint.

    Attributes:
        name: Its name.
        dtype: Its dtype; None for one that torch does not have.
        shape: Its shape.
        expected: What it should be drawn from, in words.
        moments: The statistics of all its numbers.
        groups: The same for the numbers of each law.
        digest: The sha256 of its bytes.
        fingerprint: That of what is there, under the name that it has there.
        problems: What disagrees; empty where all is well.
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    expected: str
    moments: Moments = field(default_factory=Moments)
    groups: list[Group] = field(default_factory=list)
    digest: str = ""
    fingerprint: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """ "ok", or what disagrees; "not compared" where nobody knows what it should be."""
        return "; ".join(self.problems) or ("not compared" if self.expected == NOT_KNOWN else "ok")

    @property
    def dtype_name(self) -> str:
        """What its dtype is called; "" for one that torch does not have."""
        return "" if self.dtype is None else dtype_name(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; NaN and missing statistics are null."""
        names = ("mean", "std", "low", "high")
        numbers = {name: value if math.isfinite(value := getattr(self.moments, name)) else None for name in names}
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype_name or None,
            "mean": numbers["mean"],
            "std": numbers["std"],
            "min": numbers["low"],
            "max": numbers["high"],
            "expected": self.expected,
            "sha256": self.digest or None,
            "fingerprint": self.fingerprint or None,
            "verdict": self.verdict,
        }


@dataclass
class Inspection:
    """A whole inspected checkpoint.

    Attributes:
        reports: Its tensors, in the order of the model.
        source: The file that the expectations come from, or the SPEC; "" where there are none.
        digest: `checkpoint_digest` of what is there; None where tensors are missing.
        fingerprint: Of what is there, in all; None likewise.
    """

    reports: list[Report]
    source: str
    digest: str | None
    fingerprint: str | None

    @property
    def ok(self) -> bool:
        """Whether no tensor disagrees."""
        return not any(report.problems for report in self.reports)


def inspect_checkpoint(
    folder: Path,
    progress: Callable[[int], None] | None = None,
    spec: str | None = None,
    *,
    must_compare: bool = False,
) -> Inspection:
    """Compare every tensor in `folder` with what it should have been drawn from.

    Numbers are tested for their mean, their standard deviation, their range and the shape of their distribution, each
    after rounding to their dtype. All tests together raise a false alarm in at most one of 1e6 checkpoints, by the
    inequalities of Bernstein, Chernoff and Dvoretzky-Kiefer-Wolfowitz and a union bound for the range: no approximation
    for large numbers is made. Constants must be equal to the bit. With a record, all digests are compared too.

    Args:
        folder: A folder with safetensors files. Without `spec`, a record or a configuration, or nothing is compared.
        progress: Called with the number of bytes of each piece read.
        spec: What its model is, as for `init`; None for what its folder says.
        must_compare: Whether it is an error, before anything is read, where nothing is to be compared.

    Raises:
        UsageError: There is no such checkpoint, or nothing says what it should hold.
        CheckpointError: A file is damaged, or the model of a configuration cannot be built.
    """
    stored = _stored(folder)
    entries, record, source = _expectations(folder, spec, stored)
    if must_compare and not source:
        raise UsageError(f"{folder} has no {RECORD_NAME} and no config.json: name its model by --spec")
    reports = []
    reads: list[Callable[[], None]] = []
    readers = _Readers(progress)
    for entry in entries:
        names = [name for name in (entry.name, *entry.aliases) if name in stored.tensors or name in stored.unreadable]
        report = Report(entry.name, entry.dtype, entry.shape, _expectation(entry) if source else NOT_KNOWN)
        reports.append(report)
        if not names:
            report.problems.append("missing")
        elif names[0] in stored.unreadable:
            report.problems.append(f"cannot be read: {stored.unreadable.pop(names[0])[1]}")
        else:
            reads.append(partial(_read, report, entry, names[0], *stored.tensors.pop(names[0]), readers.advance))
    if not source:
        for name, (_, why) in stored.unreadable.items():
            reports.append(Report(name, None, (), NOT_KNOWN, problems=[f"cannot be read: {why}"]))
        stored.unreadable.clear()
    for name, (path, why) in stored.unreadable.items():
        raise CheckpointError(f"{path}: {shown(name)} is not in the model and cannot be read: {why}")
    for name, (_, _, extent) in stored.tensors.items():
        reports.append(Report(name, extent.dtype, extent.shape, "nothing", problems=["not in the model"]))
    readers.run(reads)
    _judge(reports, record)
    digest = total = None
    if all(report.digest for report in reports):
        rows = {report.name: (report.dtype, report.shape) for report in reports if report.dtype is not None}
        digest = checkpoint_digest(rows, {report.name: report.digest for report in reports})
        total = fingerprint_total(report.fingerprint for report in reports)
    return Inspection(reports, source, digest, total)


class _Readers:
    """Threads that read tensors, each one at a time.

    Args:
        progress: Called by one of them at a time, with the number of bytes of each piece read.
    """

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = False
        self._error: Exception | None = None

    def advance(self, count: int) -> None:
        """Say that a piece of `count` bytes has been read.

        Raises:
            CancelledError: Another thread has failed, or an interrupt has come: no more is to be read.
        """
        with self._lock:
            if self._stopped:
                raise CancelledError
            if self._progress is not None:
                self._progress(count)

    def run(self, reads: Sequence[Callable[[], None]]) -> None:
        """Do all of `reads`; after an error no more of them, and it is raised once all threads have stopped."""
        pool = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), "tritonparam-inspecting")
        try:
            for each in [pool.submit(self._do, read) for read in reads]:
                each.result()
        finally:
            self._stopped = True
            pool.shutdown(cancel_futures=True)
        if self._error is not None:
            raise self._error

    def _do(self, read: Callable[[], None]) -> None:
        if self._stopped:
            return
        try:
            read()
        except CancelledError:
            return
        except Exception as error:
            self._error, self._stopped = self._error or error, True


@dataclass
class _Stored:
    """What lies in a folder.

    Attributes:
        tensors: Where each tensor lies: its file, where the file's tensors begin, its extent there.
        unreadable: Of each that torch cannot have, its file and why.
    """

    tensors: dict[str, tuple[Path, int, Extent]] = field(default_factory=dict)
    unreadable: dict[str, tuple[Path, str]] = field(default_factory=dict)


def _stored(folder: Path) -> _Stored:
    """What lies in `folder`, by the same files as `load`; one that is missing is not there."""
    if not folder.is_dir():
        more = "" if folder.exists() else not_fetched(str(folder), "the checkpoint")
        raise UsageError(f"{folder} is not a folder{more}")
    try:
        paths, weight_map = find_files(folder, missing=True)
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    stored = _Stored()
    for path in paths:
        if weight_map is not None and not path.exists():
            continue
        header = read_header(path)
        for name in (*header.extents, *header.unreadable):
            if weight_map is not None and weight_map.get(name) != path:
                raise CheckpointError(f"{path} holds {shown(name)}, and the index does not say so")
            if name in stored.tensors or name in stored.unreadable:
                raise CheckpointError(f"{path} holds {shown(name)}, and so does another file")
        stored.tensors.update({name: (path, header.begin, extent) for name, extent in header.extents.items()})
        stored.unreadable.update({name: (path, why) for name, why in header.unreadable.items()})
    return stored


def _expectations(folder: Path, spec: str | None, stored: _Stored) -> tuple[tuple[Entry, ...], Record | None, str]:
    """The tensors that should be there, the record if there is one, and what says so; else those that are, and ""."""
    path = folder / RECORD_NAME
    if spec is None and path.exists():
        record = parse_record(read_json(path), path)
        return record.entries, record, RECORD_NAME
    config = folder / "config.json"
    if spec is None and not config.exists():
        there = {name: (extent.dtype, extent.shape) for name, (_, _, extent) in stored.tensors.items()}
        return tuple(Entry(name, (), "parameter", *each, None) for name, each in there.items()), None, ""
    # Only here: building the model takes transformers, reading a record does not.
    from tritonparam.cli.init import Spec, declared_entries, read_spec

    source = Spec.read(config) if spec is None else read_spec(spec)
    if isinstance(source, Record):
        return source.entries, source, str(spec)
    return declared_entries(source), None, config.name if spec is None else spec


def _expectation(entry: Entry) -> str:
    """What `entry` should be drawn from, in words."""
    if entry.laws is None:
        return "replayed operations"
    return " + ".join(dict.fromkeys(describe(box.law) for box in entry.laws)) or "nothing"


def _read(
    report: Report,
    entry: Entry,
    name: str,
    path: Path,
    begin: int,
    extent: Extent,
    advance: Callable[[int], None],
) -> None:
    """Read one tensor, which is called `name` there, piece by piece, into `report`."""
    if (extent.dtype, extent.shape) != (entry.dtype, entry.shape):
        want = f"{dtype_name(entry.dtype)} {list(entry.shape)}"
        report.problems.append(f"expected {want}")
        report.dtype, report.shape = extent.dtype, extent.shape
    comparable = extent.shape == entry.shape and _has_numbers(extent.dtype)
    # By repr: -0.0 == 0.0, and NaN differs from itself.
    groups = {repr(box.law): Group(box.law, extent.dtype) for box in entry.laws or ()} if comparable else {}
    rest = Group(None, extent.dtype)
    digest, key, added = hashlib.sha256(), fingerprint_key(name), np.zeros(2, np.uint64)
    for read in cut_boxes(extent.shape, _PIECE):
        start = flat_index(read.offsets, extent.shape) * extent.dtype.itemsize
        data = bytearray().join(
            read_chunks(path, begin + extent.start + start, math.prod(read.sizes) * extent.dtype.itemsize)
        )
        digest.update(data)
        if data:
            piece = torch.frombuffer(data, dtype=extent.dtype).view(read.sizes)
            added += sums([Sum(piece, key, extent.shape, read.offsets)])[0]
        if data and _has_numbers(extent.dtype):
            if not groups:
                rest.add(piece.flatten())
            for each in (entry.laws or ()) if groups else ():
                hit = read.meet(Box(each.offsets, each.sizes))
                if hit is not None:
                    groups[repr(each.law)].add(hit.within(read).of(piece).flatten())
        advance(len(data))
    report.groups = list(groups.values()) or [rest]
    for group in report.groups:
        report.moments.merge(group.moments)
    report.digest = digest.hexdigest()
    report.fingerprint = fingerprint_digest(name, dtype_name(extent.dtype), extent.shape, added.tolist())


def _has_numbers(dtype: torch.dtype) -> bool:
    """Whether its elements are single real numbers: not pairs, be they complex or packed."""
    return not dtype.is_complex and not dtype_name(dtype).endswith("_x2")


def _judge(reports: Sequence[Report], record: Record | None) -> None:
    """Add what statistics and digests disagree with, and random tensors that repeat each other, to the problems."""
    count = sum(group.expected is not None for report in reports for group in report.groups)
    rate = FALSE_ALARM / (TESTS * count + 1)  # for each test, and for all comparisons of two tensors together
    pairs = max(1, len(reports) ** 2 / 2)
    digests = {} if record is None else record.digests
    prints = {} if record is None or record.fingerprint is None else record.fingerprint.tensors
    seen: dict[tuple[torch.dtype | None, str], str] = {}
    for report in reports:
        for group in report.groups:
            report.problems += group.problems(rate)
        if report.expected == NOT_KNOWN and report.moments.nans:
            report.problems.append(f"{report.moments.nans} NaN")
        if report.digest and digests.get(report.name, report.digest) != report.digest:
            report.problems.append("other bytes than the record says")
        elif report.fingerprint and prints.get(report.name, report.fingerprint) != report.fingerprint:
            report.problems.append("another fingerprint than the record says")
        if _log_repeated(report) > math.log(rate / pairs):
            continue
        first = seen.setdefault((report.dtype, report.digest), report.name)
        if first != report.name:
            report.problems.append(f"the same values as {first}")


def _log_repeated(report: Report) -> float:
    """The logarithm of a bound for the probability that another tensor of the same laws has the same values."""
    known = [(group.moments.count, group.expected) for group in report.groups]
    return sum(count * math.log(expected.collision) for count, expected in known if expected is not None)


def stored_bytes(folder: Path) -> int:
    """The bytes of all tensors in `folder`."""
    return sum(extent.nbytes for _, _, extent in _stored(folder).tensors.values())
