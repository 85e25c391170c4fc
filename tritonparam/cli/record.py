"""The record: a JSON file beside the weights that says how every tensor was made, enough to make them again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tritonparam.checkpoint import UsageError, dtype_name
from tritonparam.module import BoxLaw
from tritonparam.stream import STREAM_VERSION, law_from_json, law_to_json

RECORD_KEY = "tritonparam_record"
RECORD_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a box come from if not from their own place in the tensor's own name.

    Attributes:
        sizes, strides, start: The elements that are written: a view of the row-major tensor.
        key: The 64-bit key of the tensor that they are elements of.
        shape: Its shape.
        offsets: Where in it the box starts.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    key: int
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        name: Its fully qualified name, from which its values are derived.
        aliases: Its further names in the model, not written.
        kind: "parameter" or "buffer".
        dtype: The dtype it has in the checkpoint.
        shape: Its shape.
        laws: What its boxes are drawn from; None where its values come from replaying the model's own operations.
        origins: For each of `laws`, where its numbers come from; None for their own place, as nearly always.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    laws: tuple[BoxLaw, ...] | None
    origins: tuple[Origin | None, ...] = ()

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.count * self.dtype.itemsize

    def boxes(self) -> Iterator[tuple[BoxLaw, Origin | None]]:
        """Its boxes, each with its origin."""
        laws = self.laws or ()
        return zip(laws, self.origins or (None,) * len(laws), strict=True)


@dataclass(frozen=True)
class Record:
    """A record that was read.

    Attributes:
        entries: The tensors.
        digests: The sha256 of each tensor's bytes by name.
        settings: The rest of the JSON object: seed, dtype, max_shard_size, spec, files, versions.
    """

    entries: tuple[Entry, ...]
    digests: dict[str, str]
    settings: dict[str, Any]


def checkpoint_digest(entries: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], digests: Mapping[str, str]) -> str:
    """One sha256 for all values of a checkpoint, whatever files they are spread over.

    It is taken over one UTF-8 line for each tensor, in the order of the names' code points: the name as a JSON string,
    the dtype, the shape as a JSON array without spaces, and the lower-case hexadecimal sha256 of the tensor's bytes
    (row-major, little-endian), separated by one space and ended by a line feed.

    Args:
        entries: The dtype and shape of each tensor by name.
        digests: The sha256 of each tensor's bytes by name.

    Examples:
        >>> checkpoint_digest({"b": (torch.float32, (2, 3))}, {"b": "00"})[:16]
        'be87519741d2a7c7'
    """
    total = hashlib.sha256()
    for name in sorted(entries):
        dtype, shape = entries[name]
        sizes = json.dumps(list(shape), separators=(",", ":"))
        total.update(f"{json.dumps(name, ensure_ascii=False)} {dtype_name(dtype)} {sizes} {digests[name]}\n".encode())
    return total.hexdigest()


def versions() -> dict[str, str | None]:
    """The versions of what takes part in making values; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("tritonparam", "torch", "triton", "numpy", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """The JSON object of one tensor, without its digest; `entry_from_json` is the inverse."""
    return {
        "kind": entry.kind,
        "aliases": list(entry.aliases),
        "dtype": dtype_name(entry.dtype),
        "shape": list(entry.shape),
        "initializer": None if entry.laws is None else [_box_to_json(*pair) for pair in entry.boxes()],
    }


def _box_to_json(box: BoxLaw, origin: Origin | None) -> dict[str, Any]:
    row = {"offsets": list(box.offsets), "sizes": list(box.sizes), "law": _strict(law_to_json(box.law))}
    if origin is not None:
        row["origin"] = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(origin).items()}
    return row


def entry_from_json(name: str, row: Mapping[str, Any]) -> Entry:
    """The tensor that `entry_to_json` described.

    Raises:
        ValueError, KeyError, TypeError: The object is not such a description.
    """
    dtype = getattr(torch, row["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the dtype of {name!r} must be one of torch's, got {row['dtype']!r}")
    boxes = row["initializer"]
    laws: tuple[BoxLaw, ...] | None = None
    origins: tuple[Origin | None, ...] = ()
    if boxes is not None:
        laws = tuple(
            BoxLaw(tuple(box["offsets"]), tuple(box["sizes"]), law_from_json(_numbers(box["law"]))) for box in boxes
        )
        if any("origin" in box for box in boxes):
            origins = tuple(_origin_from_json(box.get("origin")) for box in boxes)
    return Entry(name, tuple(row["aliases"]), row["kind"], dtype, tuple(row["shape"]), laws, origins)


def _origin_from_json(row: Mapping[str, Any] | None) -> Origin | None:
    if row is None:
        return None
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Origin(**fields)


def _strict(law: dict[str, Any]) -> dict[str, Any]:
    """`law` with infinities and NaN as strings: strict JSON has no numbers for them."""
    return {key: str(value) if _is_special(value) else value for key, value in law.items()}


def _is_special(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _numbers(law: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_strict`."""
    return {key: float(value) if key != "kind" and isinstance(value, str) else value for key, value in law.items()}


def record_text(settings: Mapping[str, Any], entries: tuple[Entry, ...], digests: Mapping[str, str]) -> str:
    """The record of a finished checkpoint as JSON text, one line for each tensor."""
    head = {RECORD_KEY: RECORD_VERSION, "stream": STREAM_VERSION, "versions": versions(), **settings}
    head["digest"] = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in entries}, digests)
    rows = ",\n".join(
        f"    {json.dumps(entry.name)}: {json.dumps(entry_to_json(entry) | {'sha256': digests[entry.name]})}"
        for entry in entries
    )
    return json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "tensors": {\n' + rows + "\n  }\n}\n"


def parse_record(values: Mapping[str, Any], path: Path) -> Record:
    """The record that the JSON object `values`, read from `path`, holds.

    Raises:
        UsageError: It is not a record, or one of another version of the format or of the stream.
    """
    wanted = {RECORD_KEY: RECORD_VERSION, "stream": STREAM_VERSION}
    for key, version in wanted.items():
        if values.get(key) != version:
            raise UsageError(
                f"{path}: {key} must be {version} for this version of tritonparam, got {values.get(key)!r}"
            )
    try:
        entries = tuple(entry_from_json(name, row) for name, row in values["tensors"].items())
        digests = {name: str(row["sha256"]) for name, row in values["tensors"].items()}
        settings = {key: values[key] for key in ("spec", "seed", "dtype", "max_shard_size", "files", "versions")}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} is not a whole record: {reason}") from None
    return Record(entries, digests, settings)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises:
        UsageError: The file cannot be read or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values
