"""What a checkpoint holds: which boxes of which tensors lie in which of its files, and how to see them."""

from __future__ import annotations

import functools
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

from tritonparam._arguments import shown
from tritonparam.checkpoint.disk import shown as shown_path
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.files import Extent, read_header
from tritonparam.checkpoint.json_files import open_regular, parse_json_object
from tritonparam.checkpoint.shards import find_files
from tritonparam.plan import Box, cut_boxes, view_of_array

# Keys and names that torch.distributed.checkpoint's HuggingFaceStorageWriter writes.
SHARDING_KEY = "DCP_SHARDING_INFO"
OFFSETS_KEY = "saved_offsets"
SHAPE_KEY = "global_shape"  # this package's own: without it, what is missing at the end cannot be told
_CONTAINERS = 8  # arrays and objects for each tensor in what places it, which needs three
_KEPT_OPEN = 64  # files
_COMPARED = 1 << 20  # elements at a time
_SHAPES = 1 << 12


@functools.lru_cache(_SHAPES)
def whole_box(shape: tuple[int, ...]) -> Box:
    """The box that is all of a tensor of `shape`; many tensors of a checkpoint are of one.

    Examples:
        >>> whole_box((2, 3))
        Box(offsets=(0, 0), sizes=(2, 3))
    """
    return Box.whole(shape)


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
        if self.is_whole_in_one(box):
            return None
        rest = self._cut(box)[1]
        return rest[0] if rest else None

    def is_whole_in_one(self, box: Box) -> bool:
        """Whether `box` has elements and is just what one file has: as nearly always."""
        saved = self.saved[0].box
        return len(self.saved) == 1 and (saved is box or saved == box) and 0 not in box.sizes

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
        unreadable: Why a tensor cannot be had in torch, by the name of each that is stored and cannot.
        files: All its safetensors files.

    Raises:
        CheckpointNotFoundError: There is none, or a file is missing; it names the file.
        CheckpointError: A file is damaged, or files contradict each other; it names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, StoredTensor] = {}
        self.unreadable: dict[str, str] = {}
        self._open: dict[Path, npt.NDArray[np.uint8]] = {}
        self._last: tuple[Path, npt.NDArray[np.uint8] | None] = path, None  # what was looked at last
        try:
            self.files, weight_map = find_files(path)
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"{shown_path(path)} cannot be read: {error.strerror}") from None
        shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._add(file, weight_map, shapes)
        for name, file in (weight_map or {}).items():
            if name not in self.tensors and name not in self.unreadable:
                raise CheckpointError(f"{file} does not hold {shown(name)}, as the index says")
        for name, shape in shapes.items():
            tensor = self.tensors[name]
            if any(not each.box.lies_in(shape) for each in tensor.saved):
                raise CheckpointError(
                    f"{tensor.saved[0].path}: {shown(name)} is of shape {shown(shape)}, and another box is not"
                )
            tensor.shape = shape

    def check_readable(self) -> None:
        """Refuse a checkpoint that holds a tensor which torch cannot have.

        Raises:
            CheckpointError: There is one; the error names it, and why.
        """
        for name, reason in self.unreadable.items():
            raise CheckpointError(f"{self.path}: {shown(name)} cannot be read: {reason}")

    def check_whole(self, tensor: StoredTensor) -> None:
        """Refuse a tensor of which not every element is stored.

        Raises:
            CheckpointError: Some are not; the error names a box of them.
        """
        missing = tensor.uncovered(whole_box(tensor.shape))
        if missing is not None:
            raise CheckpointError(f"{self.path}: no file has {missing} of {shown(tensor.name)}")

    def view(self, tensor: StoredTensor, saved: SavedBox, box: Box) -> torch.Tensor:
        """The elements of `tensor` in `box`, as `saved` has them: a view of the mapped file, only for reading.

        (`safe_open` maps a file so that it has to fit into memory, though only a part is looked at.)

        Raises:
            CheckpointError: The file has changed, or the system does not map it.
        """
        dtype, sizes = tensor.dtype, saved.box.sizes
        path, data = self._last
        if path is not saved.path or data is None:
            data = self._mapped(saved.path)
            self._last = saved.path, data
        count = math.prod(sizes)
        if saved.start + count * dtype.itemsize > len(data):
            raise CheckpointError(f"{saved.path} has become shorter: {shown(tensor.name)} is not in it any more")
        whole = torch.frombuffer(data, dtype=dtype, count=count, offset=saved.start)
        if len(sizes) != 1:
            whole.resize_(size=sizes)
        return whole if box.sizes == sizes else box.within(saved.box).of(whole)

    def same(self, one: StoredTensor, other: StoredTensor, box: Box) -> bool:
        """Whether two tensors have one dtype and shape and, as far as both are stored, the same bytes in `box`."""
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        for first, part in one.parts(box):
            for second, both in other.parts(part):
                if not same_bytes(self.view(one, first, both), self.view(other, second, both)):
                    return False
        return True

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
        self._last = self.path, None

    def _add(self, file: Path, weight_map: Mapping[str, Path] | None, shapes: dict[str, tuple[int, ...]]) -> None:
        """Take in what `file` holds."""
        try:
            header = read_header(file)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
        sharding = _sharding(file, header.metadata, len(header.extents))
        for name in (*header.extents, *header.unreadable):
            if weight_map is not None and weight_map.get(name) != file:
                raise CheckpointError(f"{file} holds {shown(name)}, and the index does not say so")
        self.unreadable |= header.unreadable
        for name, extent in header.extents.items():
            dtype, sizes, start = extent
            box, ends, shape = whole_box(sizes), sizes, None
            if sharding is not None:
                offsets, shape = _offsets_and_shape(file, name, extent, sharding)
                box, ends = Box(offsets, sizes), tuple(map(operator.add, offsets, sizes))
            saved = SavedBox(file, box, header.begin + start)
            tensor = self.tensors.get(name)
            if tensor is None:
                self.tensors[name] = StoredTensor(name, dtype, ends, [saved])
            elif sharding is None or tensor.dtype != dtype or len(ends) != len(tensor.shape):
                raise CheckpointError(
                    f"{file} and {tensor.saved[0].path} both hold {shown(name)}, and not as boxes of one: name the "
                    "file to read"
                )
            else:
                tensor.shape = tuple(map(max, tensor.shape, ends))
                tensor.saved.append(saved)
            if shape is not None and shapes.setdefault(name, shape) != shape:
                raise CheckpointError(
                    f"{file}: {shown(name)} is of shape {shown(shape)}, and elsewhere of {shown(shapes[name])}"
                )


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape have the same bytes; no copies are made but of small pieces."""
    for piece in cut_boxes(one.shape, _COMPARED):
        left, right = (piece.of(each).reshape(-1).view(torch.uint8) for each in (one, other))
        if not torch.equal(left, right):
            return False
    return True


def _map(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of the file at `path`, which stays open as long as they are looked at; torch takes them as writable."""
    with open_regular(path) as file:
        return view_of_array(np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8))[0].numpy()


def _map_closed(path: Path) -> npt.NDArray[np.uint8]:
    """The same of a file that is closed again: a system has fewer descriptors than a checkpoint may have files.

    Such a map has to fit into memory, though it takes none; where there are many files, each of them does.
    """
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8, device="cpu").numpy()


def _sharding(file: Path, metadata: Mapping[str, str], count: int) -> dict[str, Any] | None:
    """What `file`, of `count` tensors, says about the places of its boxes; None where its tensors are whole."""
    if SHARDING_KEY not in metadata:
        return None
    try:
        return parse_json_object(metadata[SHARDING_KEY].encode(), containers=_CONTAINERS * (count + 1))
    except ValueError as error:
        raise CheckpointError(f"{file}: its {SHARDING_KEY} cannot be read: it {error}") from None


def _offsets_and_shape(
    file: Path, name: str, extent: Extent, sharding: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Where the box of `name` starts, and the shape of the whole where the file says it."""
    row = sharding.get(name)
    keys = row if isinstance(row, dict) else {}
    offsets, shape = (_numbers(keys.get(key), extent) for key in (OFFSETS_KEY, SHAPE_KEY))
    if offsets is None or (shape is None and SHAPE_KEY in keys):
        raise CheckpointError(
            f"{file}: its {SHARDING_KEY} does not place {shown(name)}: {OFFSETS_KEY}, and {SHAPE_KEY} if it is there, "
            f"must be lists of {len(extent.shape)} ints >= 0, got {shown(row)}"
        )
    return offsets, shape


def _numbers(values: object, extent: Extent) -> tuple[int, ...] | None:
    """`values`, if they are a number for each dimension."""
    if not isinstance(values, list) or len(values) != len(extent.shape):
        return None
    whole = all(type(each) is int and 0 <= each < 1 << 63 for each in values)
    return tuple(values) if whole else None
