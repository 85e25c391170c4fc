"""The record: a JSON file beside the weights that says how every tensor was made, enough to make them again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint import (
    METADATA_KEY,
    CheckpointError,
    UsageError,
    dtype_name,
    first_repeated,
    lay_out,
    parse_json_object,
    read_json_object,
)
from tritonparam.cli.record_checks import (
    MOST_BYTES,
    as_digest,
    as_fingerprint,
    as_int,
    as_ints,
    as_mapping,
    as_text,
    as_texts,
    check_inside,
    check_size,
    check_tiles,
    check_versions,
    check_view,
)
from tritonparam.distributed import Fingerprint
from tritonparam.dtype import FLOATS
from tritonparam.module import BoxLaw
from tritonparam.plan import Fill
from tritonparam.stream import STREAM_VERSION, law_from_json, law_to_json

RECORD_KEY = "tritonparam_record"
RECORD_VERSION = 1
FILES = ("config.json", "generation_config.json")  # what may lie beside the weights and is not made from the tensors
CALLABLE = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
_SETTINGS = ("spec", "seed", "dtype", "max_shard_size", "files", "versions")
_ROW = ("kind", "aliases", "dtype", "shape", "initializer")
_SPECIAL = ("inf", "-inf", "nan")


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
        fingerprint: That of the tensors; None in a record from before there were any.
    """

    entries: tuple[Entry, ...]
    digests: dict[str, str]
    settings: dict[str, Any]
    fingerprint: Fingerprint | None = None


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


def entry_from_json(name: str, row: object) -> Entry:
    """The tensor that `entry_to_json` described; a sha256 and a fingerprint in it are left to others.

    Raises:
        ValueError: The object is not such a description, or one of no tensor that could be made.
    """
    where = f"the tensor {shown(name)}"
    if name in ("", METADATA_KEY):
        raise ValueError(f"{where} must have a name that a file can have")
    values = as_mapping(row, where, _ROW, ("sha256", "fingerprint"))
    dtype = _dtype_from_json(values["dtype"], f"the dtype of {where}")
    shape = as_ints(values["shape"], f"the shape of {where}")
    check_size(shape, dtype.itemsize, f"the shape of {where}")
    aliases = as_texts(values["aliases"], f"the aliases of {where}")
    kind = as_text(values["kind"], f"the kind of {where}", ("parameter", "buffer"))
    pairs = _boxes_from_json(values["initializer"], dtype, shape, f"the initializer of {where}")
    if pairs is None:
        return Entry(name, aliases, kind, dtype, shape, None)
    laws, origins = tuple(law for law, _ in pairs), tuple(origin for _, origin in pairs)
    return Entry(name, aliases, kind, dtype, shape, laws, origins if any(origins) else ())


def _dtype_from_json(value: object, where: str) -> torch.dtype:
    name = as_text(value, where)
    dtype = getattr(torch, name, None) if name.isidentifier() else None
    if not isinstance(dtype, torch.dtype) or dtype_name(dtype) != name:
        raise ValueError(f"{where} must be one of torch's, got {shown(name)}")
    try:
        lay_out({"": (dtype, ())})
    except CheckpointError:
        raise ValueError(f"{where} must be one that safetensors has, got {name}") from None
    return dtype


def _boxes_from_json(
    rows: object, dtype: torch.dtype, shape: tuple[int, ...], where: str
) -> list[tuple[BoxLaw, Origin | None]] | None:
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise ValueError(f"{where} must be an array or null, got {shown(rows)}")
    pairs = [_box_from_json(row, dtype, shape, where) for row in rows]
    check_tiles([(box.offsets, box.sizes) for box, _ in pairs], shape, where)
    return pairs


def _box_from_json(row: object, dtype: torch.dtype, shape: tuple[int, ...], where: str) -> tuple[BoxLaw, Origin | None]:
    values = as_mapping(row, f"a box of {where}", ("offsets", "sizes", "law"), ("origin",))
    offsets = as_ints(values["offsets"], f"the offsets in {where}", len(shape))
    sizes = as_ints(values["sizes"], f"the sizes in {where}", len(shape))
    check_inside(offsets, sizes, shape, f"each box of {where}")
    law = values["law"]
    try:
        as_text(as_mapping(law, "it", ("kind",), law).get("kind"), "its kind")
        box = BoxLaw(offsets, sizes, law_from_json(_numbers(law)))
        as_mapping(law, "it", law_to_json(box.law))
        Fill(torch.empty(0, dtype=dtype), box.law)  # can it fill this dtype?
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the law in {where} is none: {str(error)[:300]}") from None
    if "origin" not in values:
        return box, None
    return box, _origin_from_json(values["origin"], box, shape, f"the origin in {where}")


def _origin_from_json(row: object, box: BoxLaw, shape: tuple[int, ...], where: str) -> Origin:
    values = as_mapping(row, where, [each.name for each in fields(Origin)])
    sizes = as_ints(values["sizes"], f"the sizes of {where}")
    strides, source, offsets = (
        as_ints(values[key], f"the {key} of {where}", len(sizes)) for key in ("strides", "shape", "offsets")
    )
    start = as_int(values["start"], f"the start of {where}", 0, MOST_BYTES)
    key = as_int(values["key"], f"the key of {where}", 0, 2**64 - 1)
    check_size(source, 1, f"the shape of {where}")
    check_inside(offsets, sizes, source, where)
    check_view((sizes, strides, start), (box.offsets, box.sizes), shape, where)
    return Origin(sizes, strides, start, key, source, offsets)


def _strict(law: dict[str, Any]) -> dict[str, Any]:
    """`law` with infinities and NaN as strings: strict JSON has no numbers for them."""
    return {key: str(value) if _is_special(value) else value for key, value in law.items()}


def _is_special(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _numbers(law: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_strict`."""
    return {
        key: float(value) if key != "kind" and isinstance(value, str) and value in _SPECIAL else value
        for key, value in law.items()
    }


def record_text(
    settings: Mapping[str, Any], entries: tuple[Entry, ...], digests: Mapping[str, str], fingerprint: Fingerprint
) -> str:
    """The record of a finished checkpoint as JSON text, one line for each tensor."""
    head = {RECORD_KEY: RECORD_VERSION, "stream": STREAM_VERSION, "versions": versions(), **settings}
    head["digest"] = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in entries}, digests)
    head["fingerprint"] = fingerprint.total
    found = {name: {"sha256": digests[name], "fingerprint": own} for name, own in fingerprint.tensors.items()}
    rows = ",\n".join(
        f"    {json.dumps(entry.name)}: {json.dumps(entry_to_json(entry) | found[entry.name])}" for entry in entries
    )
    return json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "tensors": {\n' + rows + "\n  }\n}\n"


def parse_record(values: Mapping[str, Any], path: Path) -> Record:
    """The record that the JSON object `values`, read from `path`, holds, after all of it has been checked.

    Raises:
        UsageError: It is not a record, one of another version of the format or of the stream, or a field is not what
            `record_text` writes.
    """
    try:
        check_versions(values, {RECORD_KEY: RECORD_VERSION, "stream": STREAM_VERSION})
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    try:
        return _record_from_json(values)
    except ValueError as error:
        raise UsageError(f"{path} is not a whole record: {error}") from None


def _record_from_json(values: Mapping[str, Any]) -> Record:
    as_mapping(values, "it", (RECORD_KEY, "stream", "digest", "tensors", *_SETTINGS), ("fingerprint",))
    settings = {key: values[key] for key in _SETTINGS}
    as_int(settings["seed"], "the seed", 0, 2**64 - 1)
    as_int(settings["max_shard_size"], "max_shard_size", 1, MOST_BYTES)
    if settings["dtype"] is not None:
        as_text(settings["dtype"], "the dtype", (each.name for each in FLOATS))
    for name, version in as_mapping(settings["versions"], "versions", (), settings["versions"]).items():
        if version is not None:
            as_text(version, f"the version of {shown(name)}")
    for name, content in as_mapping(settings["files"], "files", (), FILES).items():
        _check_file(name, as_text(content, f"the file {name}"))
    _check_spec(settings["spec"])
    rows = as_mapping(values["tensors"], "tensors", (), values["tensors"])
    if not rows:
        raise ValueError("tensors must have at least one")
    entries = tuple(entry_from_json(name, row) for name, row in rows.items())
    names = [name for entry in entries for name in (entry.name, *entry.aliases)]
    if len(set(names)) != len(names):
        raise ValueError(f"two tensors have the name {shown(first_repeated(names))}")
    digests = {name: as_digest(row.get("sha256"), f"the sha256 of {shown(name)}") for name, row in rows.items()}
    want = checkpoint_digest({entry.name: (entry.dtype, entry.shape) for entry in entries}, digests)
    if as_digest(values["digest"], "the digest") != want:
        raise ValueError("its digest is not that of its tensors")
    return Record(entries, digests, settings, _fingerprint_from_json(values, rows))


def _fingerprint_from_json(values: Mapping[str, Any], rows: Mapping[str, Any]) -> Fingerprint | None:
    """The fingerprint of all tensors, which all have one or, in a record from before there were any, none."""
    if "fingerprint" not in values and not any("fingerprint" in row for row in rows.values()):
        return None
    total = as_fingerprint(values.get("fingerprint"), "the fingerprint")
    found = Fingerprint.of(
        {
            name: as_fingerprint(row.get("fingerprint"), f"the fingerprint of {shown(name)}")
            for name, row in rows.items()
        }
    )
    if found.total != total:
        raise ValueError("its fingerprint is not that of its tensors")
    return found


def _check_file(name: str, content: str) -> None:
    try:
        parse_json_object(content.encode(), constant=str)
    except ValueError as error:
        raise ValueError(f"the file {name} {error}") from None


def _check_spec(value: object) -> None:
    spec = as_mapping(value, "spec", (), ("config", "callable"))
    if len(spec) > 1:
        raise ValueError("spec must have one of config and callable, got both")
    if "config" in spec:
        as_mapping(spec["config"], "the config in spec", (), spec["config"])
    elif "callable" in spec and not CALLABLE.fullmatch(as_text(spec["callable"], "the callable in spec")):
        raise ValueError(f"the callable in spec must be package.module:callable, got {shown(spec['callable'])}")


def read_json(path: Path, constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """The JSON object in the file at `path`; `constant` as for `parse_json_object`.

    Raises:
        UsageError: The file cannot be read or holds something else.
    """
    try:
        return read_json_object(path, constant=constant)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} {error}") from None
