"""The safetensors file, written and read in chunks: an 8-byte length, a JSON header, the bytes without gaps."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tritonparam.checkpoint.errors import CheckpointError

CHUNK = 1 << 24
INDEX_NAME = "model.safetensors.index.json"
WHOLE_NAME = "model.safetensors"
RECORD_NAME = "tritonparam.json"  # of what `tritonparam init` wrote
METADATA_KEY = "__metadata__"
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_MAX_HEADER = 100_000_000


class Extent(NamedTuple):
    """Where one tensor lies in a file.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        start: Bytes from the start of the tensors' bytes to its first one.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def lay_out(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, Extent]:
    """The extents of `tensors` (name -> dtype, shape) in one file: widest first, then by name: so all are aligned.

    Raises:
        CheckpointError: safetensors has no code for a dtype.

    Examples:
        >>> extents = lay_out({"a": (torch.float16, (3,)), "b": (torch.float32, (2, 2))})
        >>> [(name, extent.start, extent.nbytes) for name, extent in extents.items()]
        [('b', 0, 16), ('a', 16, 6)]
    """
    extents: dict[str, Extent] = {}
    start = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        if dtype not in _CODES:
            raise CheckpointError(f"safetensors cannot hold the dtype {dtype} of {name!r}")
        extents[name] = Extent(dtype, tuple(shape), start)
        start += extents[name].nbytes
    return extents


def encode_header(extents: Mapping[str, Extent], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes that precede the tensors' own in a file laid out as `extents`, padded to a multiple of 8.

    `metadata` is written beside what says that the tensors are torch's.
    """
    table: dict[str, object] = {METADATA_KEY: {"format": "pt", **(metadata or {})}}
    for name, extent in extents.items():
        offsets = [extent.start, extent.start + extent.nbytes]
        table[name] = {"dtype": _CODES[extent.dtype], "shape": list(extent.shape), "data_offsets": offsets}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes:
        extents: Where each tensor lies, by name.
        begin: Where in the file the tensors' bytes begin.
        metadata: The strings kept beside the tensors.
    """

    extents: dict[str, Extent]
    begin: int
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        CheckpointError: It is not a whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            table = json.loads(file.read(length))
        metadata = table.pop(METADATA_KEY, None) or {}
        if not isinstance(metadata, dict):
            raise ValueError(f"its {METADATA_KEY} is no JSON object")
        extents = {name: _extent(name, row) for name, row in table.items()}
        end = 0
        for name in sorted(table, key=lambda name: table[name]["data_offsets"]):
            start, after = table[name]["data_offsets"]
            if start != end:
                raise ValueError(f"{name!r} starts at byte {start} of the tensors, and what is before it ends at {end}")
            end = after
        if path.stat().st_size != 8 + length + end:
            raise ValueError(f"it should have {8 + length + end} bytes and has {path.stat().st_size}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    return Header(extents, 8 + length, metadata)


def _extent(name: str, row: Mapping[str, Any]) -> Extent:
    dtype, sizes, (start, end) = _DTYPES.get(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
    if dtype is None:
        raise ValueError(f"{name!r} has the dtype {row['dtype']!r}, which is none of {', '.join(_DTYPES)}")
    for number in (start, *sizes):
        if type(number) is not int or number < 0:
            raise ValueError(f"the shape or the offsets of {name!r} are not ints >= 0")
    extent = Extent(dtype, sizes, start)
    if end != start + extent.nbytes:
        raise ValueError(f"the offsets of {name!r} do not match its shape")
    return extent


def read_chunks(path: Path, start: int, size: int) -> Iterator[bytearray]:
    """`size` bytes of the file at `path` from `start` on, in chunks of at most CHUNK bytes.

    Raises:
        CheckpointError: The file ends before.
    """
    with path.open("rb") as file:
        file.seek(start)
        while size:
            data = bytearray(min(CHUNK, size))
            if file.readinto(data) != len(data):
                raise CheckpointError(f"{path} ends {size} bytes too early")
            size -= len(data)
            yield data


def hash_tensor(path: Path, begin: int, extent: Extent) -> str:
    """The sha256 of the bytes of one tensor of a file whose tensors begin at `begin`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for data in read_chunks(path, begin + extent.start, extent.nbytes):
        digest.update(data)
    return digest.hexdigest()


def write_file(path: Path, parts: Iterable[bytes | memoryview], advance: Callable[[int], None] | None = None) -> None:
    """Write `parts` to `path` so that it holds either all of them, safe on the disk, or what it held before.

    Args:
        path: The file; its folder exists.
        parts: What to write, in order. Each is written before the next is asked for, so they may be of one buffer.
        advance: Called with the number of bytes of each chunk written.

    Raises:
        OSError: The disk refuses; it names the file.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part)
                while view:
                    written = file.write(view[:CHUNK])
                    view = view[written:]
                    if advance is not None:
                        advance(written)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:  # a refused write does not say what was written
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` safe on the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
