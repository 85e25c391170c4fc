"""`tritonparam diff`: the tensors that two checkpoints or records do not have alike, and by how much they differ."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from tritonparam.checkpoint import (
    RECORD_NAME,
    Checkpoint,
    ProgressBar,
    UsageError,
    dtype_name,
    not_fetched,
    whole_box,
)
from tritonparam.cli.record import RECORD_KEY, parse_record, read_json
from tritonparam.distributed import digest_of_stored
from tritonparam.plan import Box, box_of_box, cut_boxes
from tritonparam.stream import SIGNED_BY_WIDTH

_PIECE = 1 << 20  # elements that are compared at a time
Facts = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Values:
    """By how much the elements of two tensors differ.

    Attributes:
        count: How many have other bits.
        of: How many there are.
        largest: The largest absolute difference of two numbers, as a float64; None where no two numbers differ: only
            NaNs or the signs of zeros do, or the elements are no numbers.
        first: The index of the first that has other bits.
        bits: The bits of that one in both, as hexadecimal digits.
    """

    count: int
    of: int
    largest: float | None
    first: tuple[int, ...]
    bits: tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """A tensor that two sides do not have alike.

    Attributes:
        name: What it is called.
        kind: "missing", where `sides` has only one; "dtype", "shape", or "values".
        sides: Its dtype and shape on each side; None where it is missing.
        values: By how much its elements differ, where both sides have them.
    """

    name: str
    kind: str
    sides: tuple[Facts | None, Facts | None]
    values: Values | None = None

    def __str__(self) -> str:
        one, other = self.sides
        if one is None or other is None:
            return f"{self.name}: only in {'the second' if one is None else 'the first'}"
        if self.kind != "values":
            return f"{self.name}: {_facts(one)} and {_facts(other)}"
        if self.values is None:
            return f"{self.name}: other values"
        values = self.values
        largest = "" if values.largest is None else f", by at most {values.largest:.6g}"
        where = f"first at {list(values.first)}: 0x{values.bits[0]} and 0x{values.bits[1]}"
        return f"{self.name}: {values.count:,} of {values.of:,} elements differ{largest}; {where}"

    def to_json(self) -> dict[str, Any]:
        """The difference as a JSON object."""
        row: dict[str, Any] = {"name": self.name, "kind": self.kind}
        for key, side in zip(("first", "second"), self.sides, strict=True):
            row[key] = None if side is None else {"dtype": dtype_name(side[0]), "shape": list(side[1])}
        if self.values is not None:
            largest = self.values.largest
            finite = largest is None or math.isfinite(largest)
            row["values"] = {
                "count": self.values.count,
                "of": self.values.of,
                "largest": largest if finite else str(largest),
                "first": list(self.values.first),
                "bits": list(self.values.bits),
            }
        return row


def _facts(side: Facts) -> str:
    return f"{dtype_name(side[0])} {list(side[1])}"


class Side:
    """One of the two: a checkpoint, or a record with the fingerprints of one.

    Args:
        path: A checkpoint, as for `load`, or the record that `init` writes.

    Attributes:
        facts: The dtype and shape of each tensor.
        stored: The checkpoint, if it is one.

    Raises:
        UsageError: It is neither, or a record from before there were fingerprints.
        CheckpointError: A file is missing, damaged or contradicts another one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored: Checkpoint | None = None
        self._prints: Mapping[str, str] = {}
        self.facts: dict[str, Facts]
        if path.suffix == ".json" and _is_record(path):
            record = parse_record(read_json(path), path)
            if record.fingerprint is None:
                raise UsageError(f"{path} has no fingerprints: an earlier version wrote it; give its checkpoint")
            self._prints = record.fingerprint.tensors
            self.facts = {entry.name: (entry.dtype, entry.shape) for entry in record.entries}
            return
        if not path.exists():
            raise UsageError(f"{path} does not exist{not_fetched(str(path), 'the checkpoint')}")
        self.stored = Checkpoint(path)
        self.stored.check_readable()
        self.facts = {name: (each.dtype, each.shape) for name, each in self.stored.tensors.items()}

    def fingerprint(self, name: str, bar: ProgressBar) -> str:
        """That of a tensor."""
        if self.stored is None:
            return self._prints[name]
        return digest_of_stored(self.stored, self.stored.tensors[name], None, bar)

    def close(self) -> None:
        """Let go of the files."""
        if self.stored is not None:
            self.stored.close()


def _is_record(path: Path) -> bool:
    return path.name == RECORD_NAME or RECORD_KEY in read_json(path)


def differences(first: Path, second: Path, *, quiet: bool = False) -> list[Difference]:
    """The tensors that the checkpoints or records at two paths do not have alike, by name.

    Two checkpoints are compared element by element; a record with another side by fingerprints. Memory holds a piece of
    a tensor at a time, beside the pages of files that the system keeps.

    Args:
        first, second: The paths.
        quiet: Show no bar.

    Raises:
        UsageError, CheckpointError: As for `Side`.
    """
    with contextlib.ExitStack() as files:
        sides = []
        for path in (first, second):
            sides.append(Side(path))
            files.callback(sides[-1].close)
        one, other = sides
        common = [name for name in one.facts if one.facts[name] == other.facts.get(name)]
        readers = sum(side.stored is not None for side in sides)
        nbytes = readers * sum(math.prod(one.facts[name][1]) * one.facts[name][0].itemsize for name in common)
        with ProgressBar("comparing", nbytes, quiet=quiet) as bar, torch.no_grad():
            return [
                found
                for name in sorted({*one.facts, *other.facts})
                if (found := _difference(name, one, other, bar)) is not None
            ]


def _difference(name: str, one: Side, other: Side, bar: ProgressBar) -> Difference | None:
    sides = one.facts.get(name), other.facts.get(name)
    if sides[0] is None or sides[1] is None:
        return Difference(name, "missing", sides)
    if sides[0] != sides[1]:
        return Difference(name, "dtype" if sides[0][0] != sides[1][0] else "shape", sides)
    if one.stored is not None and other.stored is not None:
        values = _compared(_Pair(one.stored, other.stored, name), bar)
        return None if values is None else Difference(name, "values", sides, values)
    same = one.fingerprint(name, bar) == other.fingerprint(name, bar)
    return None if same else Difference(name, "values", sides)


@dataclass(frozen=True)
class _Pair:
    """A tensor of two checkpoints."""

    one: Checkpoint
    other: Checkpoint
    name: str

    def pieces(self) -> Iterator[tuple[Box, torch.Tensor, torch.Tensor]]:
        """Boxes that together are the tensor, with the values of both."""
        first, second = self.one.tensors[self.name], self.other.tensors[self.name]
        for checkpoint, tensor in ((self.one, first), (self.other, second)):
            checkpoint.check_whole(tensor)
        for saved, part in first.parts(whole_box(first.shape)):
            for saved_too, both in second.parts(part):
                left, right = self.one.view(first, saved, both), self.other.view(second, saved_too, both)
                for piece in cut_boxes(both.sizes, _PIECE):
                    yield box_of_box(both, piece), piece.of(left), piece.of(right)


def _compared(pair: _Pair, bar: ProgressBar) -> Values | None:
    """By how much the elements differ; None where they do not."""
    count, total, largest = 0, 0, -math.inf
    first: tuple[tuple[int, ...], tuple[str, str]] | None = None
    for box, one, other in pair.pieces():
        total += one.numel()
        unlike = _unlike(one, other)
        if unlike is not None:
            count += int(unlike.sum())
            at = tuple(map(int, np.unravel_index(int(unlike.reshape(-1).to(torch.int8).argmax()), tuple(unlike.shape))))
            place = tuple(own + further for own, further in zip(box.offsets, at, strict=True))
            if first is None or place < first[0]:
                first = place, (_bits(one[at]), _bits(other[at]))
            largest = max(largest, _largest(one, other))
        bar.advance(2 * one.nbytes)
    if first is None:
        return None
    return Values(count, total, None if largest <= 0 else largest, *first)


def _unlike(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """Which elements have other bits; None where none has."""
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
        halves = _unlike(one, other)
        return None if halves is None else halves.any(-1)
    word = SIGNED_BY_WIDTH[one.element_size()]
    left, right = one.view(word), other.view(word)
    return None if torch.equal(left, right) else left != right


def _bits(element: torch.Tensor) -> str:
    """The bits of one element, the highest first; of a complex one those of both parts, the real one first."""
    if element.is_complex():
        return "".join(_bits(part) for part in torch.view_as_real(element))
    data = element.reshape(1).clone().view(torch.uint8).tolist()
    return bytes(reversed(data)).hex()


def _largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest absolute difference of two numbers; minus infinity where there are none."""
    if not one.is_floating_point() and not one.is_complex() and one.dtype.itemsize == 8:  # float64 has not all of them
        left, right = one.numpy(), other.numpy()
        low, high = (each.view(np.uint64) for each in (np.minimum(left, right), np.maximum(left, right)))
        return float((high - low).max())  # as unsigned, it does not overflow
    if dtype_name(one.dtype).endswith("_x2"):  # two numbers an element
        return -math.inf
    wide = torch.complex128 if one.is_complex() else torch.float64
    apart = (one.to(wide) - other.to(wide)).abs()
    numbers = apart[~apart.isnan()]  # of NaNs, and of two infinities of one sign
    return float(numbers.max()) if numbers.numel() else -math.inf


def print_differences(found: Sequence[Difference]) -> None:
    """Print a line for each difference, and a summary."""
    for each in found:
        typer.echo("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(each)))
    count = f"{len(found)} tensor{'' if len(found) == 1 else 's'}"
    typer.echo(f"{count} not alike" if found else "no difference")


def differences_json(found: Sequence[Difference], first: Path, second: Path) -> str:
    """The differences as one line of JSON."""
    values = {"first": str(first), "second": str(second), "equal": not found}
    return json.dumps(values | {"differences": [each.to_json() for each in found]})
