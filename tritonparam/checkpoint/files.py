"""The safetensors file, written and read in chunks: an 8-byte length, a JSON header, the bytes without gaps."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.format import (
    BITS,
    CODES,
    DTYPES,
    METADATA_KEY,
    Row,
    held_shape,
    named_shape,
    parse_header,
)
from tritonparam.checkpoint.json_files import open_regular

CHUNK = 1 << 24
INDEX_NAME = "model.safetensors.index.json"
WHOLE_NAME = "model.safetensors"
RECORD_NAME = "tritonparam.json"  # of what `tritonparam init` wrote
TORCH_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")  # of files of torch.save
_MAX_HEADER = 100_000_000
_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")  # of pickles
_LONGEST_NAME = 100  # characters


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


def is_text(string: str) -> bool:
    """Whether there are bytes for it: there are none for half a surrogate pair."""
    return string.encode(errors="ignore").decode() == string


def is_tensor_name(name: str) -> bool:
    """Whether a tensor of a file may be called so."""
    return name != METADATA_KEY and is_text(name)


def lay_out(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, Extent]:
    """The extents of `tensors` (name -> dtype, shape) in one file: widest first, then by name: so all are aligned.

    Raises:
        CheckpointError: safetensors has no code for a dtype, or for a tensor of it without dimensions.

    Examples:
        >>> extents = lay_out({"a": (torch.float16, (3,)), "b": (torch.float32, (2, 2))})
        >>> [(name, extent.start, extent.nbytes) for name, extent in extents.items()]
        [('b', 0, 16), ('a', 16, 6)]
    """
    extents: dict[str, Extent] = {}
    start = 0
    for name in tensors:
        if not is_tensor_name(name):
            raise CheckpointError(f"safetensors cannot hold a tensor that is called {shown(name)}")
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        try:
            if dtype not in CODES:
                raise ValueError("it has no code for it")
            named_shape(dtype, shape)
        except ValueError as error:
            raise CheckpointError(f"safetensors cannot hold the dtype {dtype} of {shown(name)}: {error}") from None
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
        shape = list(named_shape(extent.dtype, extent.shape))
        table[name] = {"dtype": CODES[extent.dtype], "shape": shape, "data_offsets": offsets}
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
        unreadable: Why a tensor cannot be had in torch, by the name of each that lies there and cannot.
    """

    extents: dict[str, Extent]
    begin: int
    metadata: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """The header of the file at `path`, which has to be as the format says: no key twice, no hole, nothing behind.

    Raises:
        CheckpointError: It is not a whole safetensors file.
        OSError: It cannot be read, or is no regular file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER, size - 8):
                raise ValueError(
                    f"its header must end within its {size} bytes and have at most {_MAX_HEADER}, got {length}"
                )
            text = file.read(length).decode()
        rows, metadata = parse_header(text)
        for name, row in rows.items():
            _check_row(name, row)
        end = 0
        for name, row in sorted(rows.items(), key=lambda each: each[1].offsets):
            if row.offsets[0] != end:
                raise ValueError(
                    f"{shown(name)} starts at byte {row.offsets[0]} of the tensors, and what is before it ends at {end}"
                )
            end = row.offsets[1]
        if size != 8 + length + end:
            raise ValueError(f"it should have {8 + length + end} bytes and has {size}")
    except ValueError as error:
        if _is_torch_file(path):
            raise CheckpointError(f"{path} is a torch.save file{not_read(path)}") from None
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    extents: dict[str, Extent] = {}
    unreadable: dict[str, str] = {}
    for name, row in rows.items():
        dtype = DTYPES.get(row.code)
        try:
            if dtype is None:
                raise ValueError("torch has no such dtype")
            extents[name] = Extent(dtype, held_shape(dtype, row.shape), row.offsets[0])
        except ValueError as error:
            unreadable[name] = f"{row.code}: {error}"
    return Header(extents, 8 + length, metadata, unreadable)


def _is_torch_file(path: Path) -> bool:
    """Whether a file begins as those of torch.save: a zip archive, or in older releases a pickle."""
    with open_regular(path) as file:
        start = file.read(4)
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in _PROTOCOLS)


def not_read(path: Path) -> str:
    """The end of an error about the torch.save file at `path`: why it is not read, and what to do."""
    name = repr(path.name[:_LONGEST_NAME])
    new = repr(f"{path.stem[:_LONGEST_NAME]}.safetensors")
    return (
        ", which is not read: it is a pickle, and reading one can run code. Convert it, if you trust where it is from: "
        f"tritonparam.save(torch.load({name}, weights_only=True), {new}); or load it without this package: "
        f"module.load_state_dict(torch.load({name}, weights_only=True))"
    )


def _check_row(name: str, row: Row) -> None:
    """Refuse offsets that are not those of the dtype and shape."""
    bits = BITS.get(row.code)
    if bits is None:
        raise ValueError(f"{shown(name)} has the dtype {shown(row.code)}, which is none of {', '.join(BITS)}")
    if len(row.offsets) != 2 or row.offsets[0] > row.offsets[1]:
        raise ValueError(f"the data_offsets of {shown(name)} must be a start and an end, got {row.offsets[:8]}")
    size = math.prod(row.shape) * bits
    if (not size or size >> 64) and max(itertools.accumulate((*row.shape, bits), operator.mul)) >> 64:
        raise ValueError(f"{shown(name)} must have a shape whose sizes can be counted, got {row.shape[:8]}")
    start, end = row.offsets
    if size != 8 * (end - start):
        raise ValueError(f"{shown(name)} is {size} bits by its shape and dtype, and {end - start} bytes by its offsets")


def read_chunks(path: Path, start: int, size: int) -> Iterator[bytearray]:
    """`size` bytes of the file at `path` from `start` on, in chunks of at most CHUNK bytes.

    Raises:
        CheckpointError: The file ends before.
        OSError: It cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
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
