"""Whether the memory that a load is to write can be written: nothing twice, nothing read-only, no file that is read."""

from __future__ import annotations

import bisect
import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tritonparam.checkpoint.disk import shown
from tritonparam.checkpoint.targets import Slot, listed
from tritonparam.plan import overlap

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


def check_landing(real: Iterable[tuple[Slot, torch.Tensor]], files: Iterable[Path]) -> None:
    """Refuse tensors that are not safe to write.

    Args:
        real: What is to be written; each has memory and does not overlap itself.
        files: What is read.

    Raises:
        ValueError: Two of them overlap, or, where the system tells, one lies in memory that is read-only or that is one
            of `files`.
    """
    by_device: dict[torch.device, list[_Span]] = {}
    for slot, values in real:
        if values.numel():
            start, nbytes = values.data_ptr(), values.nbytes
            if not values.is_contiguous():
                steps = sum((size - 1) * stride for size, stride in zip(values.shape, values.stride(), strict=True))
                nbytes = (steps + 1) * values.element_size()
            by_device.setdefault(values.device, []).append(_Span(start, start + nbytes, slot, values))
    for spans in by_device.values():
        spans.sort(key=lambda each: each[:2])
        for cluster in _clusters(spans):
            _check_apart(cluster)
    for device, spans in by_device.items():
        if device.type == "cpu":
            _check_mappings(spans, files)


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


def _check_mappings(spans: Iterable[_Span], files: Iterable[Path]) -> None:
    """Refuse what lies in memory that is read-only, or that is a file which is read; where the system tells."""
    mappings = _mappings()
    if not mappings:
        return
    read, names = set(), set()
    for file in files:
        with contextlib.suppress(OSError):
            found = os.stat(file)
            read.add((found.st_dev, found.st_ino))
            names.add(os.path.realpath(file))
    for span in spans:
        for each in mappings[max(0, bisect.bisect_right(mappings, span.start, key=lambda each: each.start) - 1) :]:
            if each.start >= span.end:
                break
            if each.end <= span.start:
                continue
            why = ""
            if "w" not in each.modes:
                why = "it lies in read-only memory, such as a file mapped for reading"
            elif "s" in each.modes and (each.file in read or each.path in names):
                why = f"it is mapped from {shown(Path(each.path))}, which is read"
            if why:
                name = listed([span.slot.name])
                raise ValueError(f"{name} cannot be written to: {why}; load into a copy of it")


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
