"""Whether the memory that a load is to write can be written: nothing twice, nothing read-only, no file that is read."""

from __future__ import annotations

import bisect
import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tritonparam.checkpoint.disk import shown
from tritonparam.checkpoint.targets import Slot, listed
from tritonparam.plan import bytes_spanned, overlap

_FEW = 64  # tensors of which each is compared with each
_MAPS = Path("/proc/self/maps")


class _Span(NamedTuple):
    """The bytes from the first element of a tensor to the end of the last."""

    start: int
    end: int
    slot: Slot
    values: torch.Tensor


class _Mapping(NamedTuple):
    """A part of the memory of this process, and the file that it shows."""

    start: int
    end: int
    modes: str
    file: tuple[int, int]
    path: str


class _Landing(NamedTuple):
    """The spans of one device as columns: where each starts and ends, and of which tensor it is."""

    starts: list[int]
    ends: list[int]
    tensors: list[tuple[Slot, torch.Tensor]]

    def spans(self) -> list[_Span]:
        """Those, in the order of memory."""
        rows = zip(self.starts, self.ends, self.tensors, strict=True)
        spans = [_Span(start, end, slot, values) for start, end, (slot, values) in rows]
        return sorted(spans, key=lambda each: each[:2])

    def is_apart(self) -> bool:
        """Whether none reaches into another one."""
        starts, ends = (np.array(each, np.uint64) for each in (self.starts, self.ends))
        order = np.argsort(starts, kind="stable")
        return bool((ends[order][:-1] <= starts[order][1:]).all())

    def meets(self, parts: Sequence[_Mapping]) -> bool:
        """Whether one has a byte of one of `parts`, which are in order and do not meet."""
        firsts, lasts = np.array([(each.start, each.end) for each in parts], np.uint64).T
        # Those that begin before it ends, less those that end before it begins.
        begun = np.searchsorted(firsts, np.array(self.ends, np.uint64), "left")
        over = np.searchsorted(lasts, np.array(self.starts, np.uint64), "right")
        return bool((begun > over).any())


def check_landing(real: Iterable[tuple[Slot, torch.Tensor]], files: Iterable[Path]) -> None:
    """Refuse tensors that are not safe to write.

    Args:
        real: What is to be written; each has memory and does not overlap itself.
        files: What is read.

    Raises:
        ValueError: Two of them overlap, or, where the system tells, one lies in memory that is read-only or that is one
            of `files`.
    """
    by_device: dict[torch.device, _Landing] = {}
    for slot, values in real:
        if values.nbytes:
            landing = by_device.get(values.device)
            if landing is None:
                landing = by_device[values.device] = _Landing([], [], [])
            start = values.data_ptr()
            landing.starts.append(start)
            landing.ends.append(start + bytes_spanned(values))
            landing.tensors.append((slot, values))
    for landing in by_device.values():
        if not landing.is_apart():
            for cluster in _clusters(landing.spans()):
                _check_apart(cluster)
    for device, landing in by_device.items():
        if device.type == "cpu":
            _check_mappings(landing, files)


def _clusters(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Those, in order, that reach into one another."""
    cluster: list[_Span] = []
    end = 0
    for span in spans:
        if cluster and span.start >= end:
            yield cluster
            cluster = []
        cluster.append(span)
        end = max(end, span.end)
    if cluster:
        yield cluster


def _check_apart(cluster: Sequence[_Span]) -> None:
    """Refuse tensors that share an element."""
    if len(cluster) > _FEW:
        _check_marks(cluster)
        return
    for number, one in enumerate(cluster):
        for other in cluster[:number]:
            if overlap(one.values, other.values):
                raise _shared(one.slot, other.slot.name)


def _check_marks(cluster: Sequence[_Span]) -> None:
    """The same for many, such as the columns of one matrix: mark what each of them writes."""
    first = cluster[0].start
    unit = math.gcd(*(number for each in cluster for number in (each.start - first, *_steps(each.values))))
    marks = torch.zeros((max(each.end for each in cluster) - first) // unit, dtype=torch.bool)
    for each in cluster:
        shape = (*each.values.shape, each.values.element_size() // unit)
        strides = (*(stride * each.values.element_size() // unit for stride in each.values.stride()), 1)
        mine = marks.as_strided(shape, strides, (each.start - first) // unit)
        if mine.any():
            raise _shared(each.slot, "another one")
        mine.fill_(True)


def _steps(values: torch.Tensor) -> Iterator[int]:
    """The bytes of an element, and those to the next one in each dimension."""
    yield values.element_size()
    for size, stride in zip(values.shape, values.stride(), strict=True):
        if size > 1:
            yield stride * values.element_size()


def _shared(slot: Slot, other: str) -> ValueError:
    return ValueError(
        f"target must hold tensors that do not overlap: {listed([slot.name])} shares memory with {listed([other])}"
    )


def _check_mappings(landing: _Landing, files: Iterable[Path]) -> None:
    """Refuse what lies in memory that is read-only, or that is a file which is read; where the system tells."""
    read, names = set(), set()
    for file in files:
        with contextlib.suppress(OSError):
            found = os.stat(file)
            read.add((found.st_dev, found.st_ino))
            names.add(os.path.realpath(file))
    refused: list[_Mapping] = []
    for each in _mappings():
        if "w" not in each.modes or ("s" in each.modes and (each.file in read or each.path in names)):
            refused.append(each)
    if not refused or not landing.meets(refused):
        return
    for span in landing.spans():
        for each in refused[bisect.bisect_right(refused, span.start, key=lambda each: each.end) :]:
            if each.start >= span.end:
                break
            why = f"it is mapped from {shown(Path(each.path))}, which is read"
            if "w" not in each.modes:
                why = "it lies in read-only memory, such as a file mapped for reading"
            raise ValueError(f"{listed([span.slot.name])} cannot be written to: {why}; load into a copy of it")


def _mappings() -> list[_Mapping]:
    """The memory of this process, in order; empty where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in os.fsdecode(_MAPS.read_bytes()).splitlines():
            addresses, modes, _, device, node, *path = line.split(maxsplit=5)
            start, end = (int(each, 16) for each in addresses.split("-"))
            file = os.makedev(*(int(each, 16) for each in device.split(":"))), int(node)
            found.append(_Mapping(start, end, modes, file, path[0] if path else ""))
    return found
