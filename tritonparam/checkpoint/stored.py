"""What a checkpoint holds: which boxes of which tensors lie in which of its files, and how to see them."""

from __future__ import annotations

import json
import math
import mmap
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.files import INDEX_NAME, WHOLE_NAME, Extent, read_header
from tritonparam.plan import Box, view_of_array

# Keys and names that torch.distributed.checkpoint's HuggingFaceStorageWriter writes.
SHARDING_KEY = "DCP_SHARDING_INFO"
OFFSETS_KEY = "saved_offsets"
SHAPE_KEY = "global_shape"  # this package's own: without it, what is missing at the end cannot be told
_SHARDS = "shard-*-model-*.safetensors"
_KEPT_OPEN = 64  # files


class SavedBox(NamedTuple):
    """A box of a tensor, the file that has it, and the byte of the file where it starts."""

    path: Path
    box: Box
    start: int


@dataclass(slots=True)
class StoredTensor:
    """A tensor of a checkpoint.

    Attributes:
        name: What it is called there.
        dtype: The dtype it is stored in.
        shape: The shape of the whole.
        saved: The boxes that are stored.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    saved: list[SavedBox]

    def parts(self, box: Box) -> list[tuple[SavedBox, Box]]:
        """Disjoint boxes that together are `box`, each with a saved box that has it; as far as there are such."""
        return self._cut(box)[0]

    def uncovered(self, box: Box) -> Box | None:
        """Some box within `box` that no file has; None where there is none."""
        rest = self._cut(box)[1]
        return rest[0] if rest else None

    def _cut(self, box: Box) -> tuple[list[tuple[SavedBox, Box]], list[Box]]:
        found: list[tuple[SavedBox, Box]] = []
        rest = [] if 0 in box.sizes else [box]
        for saved in self.saved:
            if not rest:
                break
            left: list[Box] = []
            for each in rest:
                if each == saved.box:  # as nearly always
                    found.append((saved, each))
                    continue
                hit = each.meet(saved.box)
                if hit is None:
                    left.append(each)
                else:
                    found.append((saved, hit))
                    left += each.minus(hit)
            rest = left
        return found, rest


class Checkpoint:
    """An existing checkpoint; its headers have been read, its values only are when they are asked for.

    Args:
        path: A safetensors file, a folder with `model.safetensors`, with an index or with shards, or an index.

    Attributes:
        path: That path.
        tensors: What is stored, by name.

    Raises:
        CheckpointError: There is none, a file is missing or damaged, or files contradict each other; it names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, StoredTensor] = {}
        self._open: dict[Path, npt.NDArray[np.uint8]] = {}
        try:
            files, weight_map = _files(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            self._add(file, weight_map, shapes)
        for name, file in (weight_map or {}).items():
            if name not in self.tensors:
                raise CheckpointError(f"{file} does not hold {name!r}, as the index says")
        for name, shape in shapes.items():
            tensor = self.tensors[name]
            if any(not each.box.lies_in(shape) for each in tensor.saved):
                raise CheckpointError(f"{tensor.saved[0].path}: {name!r} is of shape {shape}, and another box is not")
            tensor.shape = shape

    def view(self, tensor: StoredTensor, saved: SavedBox, box: Box) -> torch.Tensor:
        """The elements of `tensor` in `box`, as `saved` has them: a view of the mapped file, only for reading.

        (`safe_open` maps a file so that it has to fit into memory, though only a part is looked at.)

        Raises:
            CheckpointError: The file has changed, or the system does not map it.
        """
        dtype, sizes, data = tensor.dtype, saved.box.sizes, self._mapped(saved.path)
        count = math.prod(sizes)
        if saved.start + count * dtype.itemsize > len(data):
            raise CheckpointError(f"{saved.path} has become shorter: {tensor.name!r} is not in it any more")
        whole = torch.frombuffer(data, dtype=dtype, count=count, offset=saved.start).resize_(size=sizes)
        return whole if box.sizes == sizes else box.within(saved.box).of(whole)

    def _mapped(self, path: Path) -> npt.NDArray[np.uint8]:
        data = self._open.get(path)
        if data is None:
            try:
                data = _map(path) if len(self._open) < _KEPT_OPEN else _map_closed(path)
            except (OSError, ValueError, RuntimeError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from None
            self._open[path] = data
        return data

    def close(self) -> None:
        """Let go of the files."""
        self._open.clear()

    def _add(self, file: Path, weight_map: Mapping[str, Path] | None, shapes: dict[str, tuple[int, ...]]) -> None:
        """Take in what `file` holds."""
        try:
            header = read_header(file)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
        sharding = _sharding(file, header.metadata)
        for name, extent in header.extents.items():
            if weight_map is not None and weight_map.get(name) != file:
                raise CheckpointError(f"{file} holds {name!r}, and the index does not say so")
            dtype, sizes, start = extent
            offsets, ends, shape = (0,) * len(sizes), sizes, None
            if sharding is not None:
                offsets, shape = _offsets_and_shape(file, name, extent, sharding)
                ends = tuple(map(operator.add, offsets, sizes))
            saved = SavedBox(file, Box(offsets, sizes), header.begin + start)
            tensor = self.tensors.get(name)
            if tensor is None:
                self.tensors[name] = StoredTensor(name, dtype, ends, [saved])
            elif sharding is None or tensor.dtype != dtype or len(ends) != len(tensor.shape):
                raise CheckpointError(f"{file} and {tensor.saved[0].path} both hold {name!r}, and not as boxes of one")
            else:
                tensor.shape = tuple(map(max, tensor.shape, ends))
                tensor.saved.append(saved)
            if shape is not None and shapes.setdefault(name, shape) != shape:
                raise CheckpointError(f"{file}: {name!r} is of shape {shape}, and elsewhere of {shapes[name]}")


def _map(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of the file at `path`, which stays open as long as they are looked at; torch takes them as writable."""
    with path.open("rb") as file:
        return view_of_array(np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8))[0].numpy()


def _map_closed(path: Path) -> npt.NDArray[np.uint8]:
    """The same of a file that is closed again: a system has fewer descriptors than a checkpoint may have files.

    Such a map has to fit into memory, though it takes none; where there are many files, each of them does.
    """
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8, device="cpu").numpy()


def _files(path: Path) -> tuple[list[Path], dict[str, Path] | None]:
    """The files of the checkpoint at `path`, and which of them has which tensor where an index says so."""
    if path.is_dir():
        if (path / WHOLE_NAME).is_file():
            return [path / WHOLE_NAME], None
        if not (path / INDEX_NAME).is_file():
            found = sorted(path.glob(_SHARDS)) or sorted(path.glob("*.safetensors"))
            if not found:
                raise CheckpointError(f"{path} has no safetensors files")
            return found, None
        path = path / INDEX_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    if path.suffix != ".json":
        return [path], None
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): path.with_name(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the index of a checkpoint: {error}") from None
    for name, file in files.items():
        if not file.is_file():
            raise CheckpointError(f"{file} is missing: {path.name} says that it holds {name!r}")
    return list(dict.fromkeys(files.values())), files


def _sharding(file: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What `file` says about the places of its boxes; None where its tensors are whole."""
    if SHARDING_KEY not in metadata:
        return None
    try:
        sharding = json.loads(metadata[SHARDING_KEY])
        if not isinstance(sharding, dict):
            raise ValueError("no JSON object")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: its {SHARDING_KEY} cannot be read: {error}") from None
    return sharding


def _offsets_and_shape(
    file: Path, name: str, extent: Extent, sharding: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Where the box of `name` starts, and the shape of the whole where the file says it."""
    try:
        row = sharding[name]
        offsets = tuple(row[OFFSETS_KEY])
        shape = tuple(row[SHAPE_KEY]) if SHAPE_KEY in row else None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: its {SHARDING_KEY} does not place {name!r}: {error}") from None
    for numbers in (offsets, shape or offsets):
        if len(numbers) != len(extent.shape) or any(type(each) is not int or each < 0 for each in numbers):
            raise CheckpointError(f"{file}: its {SHARDING_KEY} does not place {name!r}: {row!r}")
    return offsets, shape
