"""Fingerprints of models and of checkpoints: 128 bits for each tensor, and in all; docs/fingerprint.md."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tritonparam._arguments import got, shown
from tritonparam._processes import DEADLINE, check_deadline
from tritonparam.checkpoint import (
    Checkpoint,
    ProgressBar,
    Slot,
    StoredTensor,
    Target,
    as_path,
    check_progress,
    dtype_name,
    listed,
    slots_of,
    whole_box,
)
from tritonparam.distributed.groups import Groups, check_alike
from tritonparam.module import recording_paused
from tritonparam.plan import Box, Sum, box_of_box, cut_boxes, meeting_pair, sums
from tritonparam.stream import fingerprint_digest, fingerprint_key, fingerprint_total
from tritonparam.tensor import REALIZING

ABOUT = "tensors (names, dtypes and shapes)"
_BATCH = 1 << 28  # bytes of files that are added up at a time


@dataclass(frozen=True)
class Fingerprint:
    """What `fingerprint` found: equal where all tensors have the same names, dtypes, shapes and bits.

    Attributes:
        tensors: The fingerprint of each tensor, by its name: 32 hexadecimal digits, the names in order.
        total: That of all together: the sum of theirs.

    Examples:
        >>> found = fingerprint({"w": torch.zeros(3)})
        >>> print(found)
        c6f063fc6c91fae186761f3393aab7b9 (1 tensor)
        >>> found == fingerprint({"w": torch.zeros(3, 1)}), found == Fingerprint.of(found.tensors)
        (False, True)
    """

    tensors: Mapping[str, str]
    total: str

    @classmethod
    def of(cls, tensors: Mapping[str, str]) -> Fingerprint:
        """The fingerprint of tensors from the fingerprint of each.

        Raises:
            TypeError: tensors is no mapping from strings to strings.
            ValueError: One has not 32 hexadecimal digits.
        """
        if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
            raise TypeError(f"tensors must map names to fingerprints, {got(tensors)}")
        return cls(dict(sorted(tensors.items())), fingerprint_total(tensors.values()))

    def __hash__(self) -> int:
        return hash(self.total)

    def __str__(self) -> str:
        return f"{self.total} ({len(self.tensors)} tensor{'' if len(self.tensors) == 1 else 's'})"


def fingerprint(
    target: Target | str | os.PathLike[str],
    *,
    group: Any = None,
    backend: str | None = None,
    progress: bool | None = None,
    deadline: float = DEADLINE,
) -> Fingerprint:
    """128 bits for each tensor of a model or checkpoint, and for all of them, that say whether two are the same.

    Depends on the names, dtypes and shapes of the tensors and on every bit of their elements: also on the sign of a
    zero and on the payload of a NaN. Does not depend on the order of tensors, on how and over how many processes they
    are sharded, on the device, the backend or the layout in memory, or on the files of a checkpoint. So a model that is
    saved and loaded on another mesh keeps its fingerprint. It is not cryptographic: who wants two models of one
    fingerprint can make them.

    Everything is read once, where it is: on a CUDA device in one launch. Of a module, parameters and persistent buffers
    count, which a checkpoint has; tied ones once, under their first name.

    If there are DTensors or boxes over several processes, each of these calls this. Every process reads its own boxes,
    and what several hold counts once: of a DTensor by the first of its replicas, of what is no DTensor by the first
    process. All agree that they hold parts of the same tensors, and one small all-reduce adds up six integers a tensor.
    Where there are neither and no group, nothing is communicated.

    Args:
        target: As for `save`: a torch.nn.Module, a Parameter, an iterable of Parameters or a mapping from names to
            Parameters and torch tensors; or the path of a checkpoint, as for `load`.
        group: The torch.distributed process group that holds `target` together. None for the processes of the DTensors'
            meshes; for all processes if there are boxes without a mesh: Parameters of `init_data(layout)`, FSDP1.
        backend: As for `Plan`. It changes no bit.
        progress: Whether to show a bar on standard error while files are read; None shows one on a terminal, for more
            than 1 GB.
        deadline: Seconds to wait for a process that gives no sign of life.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: A tensor has no values yet, or no memory of its own; a Parameter is a box and there is no group; the
            processes do not hold parts of the same tensors, or not every element of one; or an argument is out of
            range.
        RuntimeError: Another process of the group raised an error, or did not come before the deadline.
        ImportError: The backend is not installed.
        tritonparam.CheckpointError: A file is missing (a CheckpointNotFoundError, which is a FileNotFoundError too),
            damaged or contradicts another one, or no file has a box.

    Examples:
        >>> import tempfile, tritonparam
        >>> model = torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = tritonparam.save(model, f"{folder}/linear")
        ...     fingerprint(f"{folder}/linear") == fingerprint(model) != fingerprint(model.bfloat16())
        True
    """
    check_progress(progress)
    check_deadline("deadline", deadline)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        if isinstance(target, (str, os.PathLike)):
            if group is not None:
                raise ValueError(f"group must be None for a checkpoint, which one process reads, got {shown(group)}")
            return _of_checkpoint(target, backend, progress)
        told_to = Groups() if group is None else Groups.in_group(group)  # without one, who takes part is not known yet
        with REALIZING:
            found_slots = told_to.telling("fingerprint", deadline, lambda: slots_of(target))
        slots = sorted((slot for slot in found_slots if slot.expected), key=lambda slot: slot.name)
        cut_by_none = any(not slot.is_whole and slot.mesh is None for slot in slots)
        meshes = [slot.mesh for slot in slots if slot.mesh is not None]
        groups = Groups.in_group(None) if group is None and cut_by_none else Groups.of(group, meshes)
        processes, found = groups.processes(deadline), []

        def own() -> bytes:
            _check(slots, groups)
            found.append(_own_sums(slots, groups, backend))
            return json.dumps([facts_of(slots), *_meshes_of(slots), _boxes_of(slots)]).encode()

        told = [json.loads(message) for message in processes.exchange(own, "fingerprint")]
        check_alike(groups.ranks, [each[0] for each in told], ABOUT)
        _check_apart(told, slots)
        found[0][~_counts(told, slots)] = 0
        return Fingerprint.of(dict(map(_finished, slots, groups.add(found[0]))))


def facts_of(slots: Iterable[Slot]) -> str:
    """A hash of the names, dtypes and shapes of tensors, by which processes compare them."""
    facts = repr([(slot.name, dtype_name(slot.dtype), slot.shape) for slot in slots])
    return hashlib.blake2b(facts.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def check_real(slots: Iterable[Slot]) -> None:
    """Let tensors pass that have values.

    Raises:
        ValueError: One has none.
    """
    unmade = [slot.name for slot in slots if slot.declaration is not None or slot.lazy is not None]
    if unmade:
        raise ValueError(f"target must have values: materialize or init_data it first; without are {listed(unmade)}")


def sums_of(slots: Sequence[Slot], backend: str | None) -> NDArray[np.uint64]:
    """The two sums of what is here of each tensor, and of how many elements they are. Shape [n, 3].

    Raises:
        TypeError, ValueError: A tensor cannot be read; the error names it.
    """
    found = np.zeros((len(slots), 3), np.uint64)
    numbers, operations = [], []
    for number, slot in enumerate(slots):
        if slot.values is None:
            continue
        for box, values in slot.pieces():
            try:
                operations.append(Sum(values, fingerprint_key(slot.name), slot.shape, box.offsets))
            except (TypeError, ValueError) as error:
                raise type(error)(f"target, {shown(slot.name)}: {error}") from None
            numbers.append(number)
            found[number, 2] += np.uint64(values.numel())
    np.add.at(found[:, :2], numbers, sums(operations, backend))  # modulo 2**64
    return found


def _check(slots: list[Slot], groups: Groups) -> None:
    check_real(slots)
    cut = [slot.name for slot in slots if not slot.is_whole and slot.mesh is None]
    if cut and groups.alone:
        raise ValueError(f"group must be the processes that hold the other boxes, got None; boxes are {listed(cut)}")


def _own_sums(slots: list[Slot], groups: Groups, backend: str | None) -> NDArray[np.uint64]:
    """What this process adds, as `sums_of`, but nothing of what others speak for."""
    found = np.zeros((len(slots), 3), np.uint64)
    own = [
        number
        for number, slot in enumerate(slots)
        if (groups.is_first if slot.mine is None and slot.is_whole else slot.mine is not False)
    ]
    found[own] = sums_of([slots[number] for number in own], backend)
    return found


def _meshes_of(slots: list[Slot]) -> tuple[list[list[int]], list[int]]:
    """The processes of each mesh on which tensors are, and the number of the mesh of each tensor; -1 for none."""
    numbers: dict[tuple[int, ...], int] = {}
    meshes = {id(slot.mesh): slot.mesh for slot in slots if slot.mesh is not None}
    ranks = {number: tuple(sorted(mesh.mesh.flatten().tolist())) for number, mesh in meshes.items()}
    of = [-1 if slot.mesh is None else numbers.setdefault(ranks[id(slot.mesh)], len(numbers)) for slot in slots]
    return list(map(list, numbers)), of


def _boxes_of(slots: list[Slot]) -> dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Which boxes, offsets and sizes, count of tensors that are cut by no mesh, by their numbers."""
    cut = {number: slot for number, slot in enumerate(slots) if slot.mesh is None and not slot.is_whole}
    return {
        number: [(box.offsets, box.sizes) for box in slot.boxes]
        for number, slot in cut.items()
        if slot.mine is not False
    }


def _check_apart(told: list[Any], slots: list[Slot]) -> None:
    """Refuse boxes of which two processes hold an element; torch sees to those of meshes, `_finished` to the number."""
    held: dict[int, list[Box]] = {}
    for _, _, _, cut in told:
        for number, found in cut.items():
            held.setdefault(int(number), []).extend(Box(*map(tuple, box)) for box in found)
    for at, boxes in held.items():
        pair = meeting_pair(boxes)
        if pair is not None:
            raise ValueError(
                f"target must be held in whole, each element once: of {shown(slots[at].name)}, {boxes[pair[0]]} and "
                f"{boxes[pair[1]]} have elements in common"
            )


def _counts(told: list[Any], slots: list[Slot]) -> NDArray[np.bool_]:
    """Whether what is here counts of each tensor: of a tensor on several meshes, what is on the lowest ranks.

    So the parameters are that only one of two dimensions shards: each row of the mesh has them.

    Args:
        told: What all processes say of their meshes, after the hash of their tensors.
        slots: The tensors.
    """
    first = np.full(len(slots), np.iinfo(np.int64).max)
    for _, meshes, of, _ in told:
        first = np.minimum(first, np.array([-1, *(each[0] for each in meshes)])[np.array(of, int) + 1])
    own, of = _meshes_of(slots)
    return np.asarray(np.array([-1, *(each[0] for each in own)])[np.array(of, int) + 1] == first)


def _finished(slot: Slot, sums: list[int]) -> tuple[str, str]:
    first, second, count = sums
    if count != math.prod(slot.shape):
        raise ValueError(
            f"target must be held in whole, each element once: of {shown(slot.name)}, of shape {slot.shape}, the "
            f"processes hold {count} elements"
        )
    own = first % 2**64, second % 2**64
    return slot.name, fingerprint_digest(slot.name, dtype_name(slot.dtype), slot.shape, own)


def _of_checkpoint(path: str | os.PathLike[str], backend: str | None, progress: bool | None) -> Fingerprint:
    stored = Checkpoint(as_path(path))
    try:
        stored.check_readable()
        nbytes = sum(math.prod(each.shape) * each.dtype.itemsize for each in stored.tensors.values())
        with ProgressBar.of("reading", nbytes, progress) as bar:
            found = {name: digest_of_stored(stored, each, backend, bar) for name, each in stored.tensors.items()}
        return Fingerprint.of(found)
    finally:
        stored.close()


def digest_of_stored(stored: Checkpoint, tensor: StoredTensor, backend: str | None, bar: ProgressBar) -> str:
    """The fingerprint of a tensor of a checkpoint, read piece by piece.

    Raises:
        CheckpointError: No file has a part of it.
    """
    first, second = 0, 0
    for each in _pieces(stored, tensor):
        (own,) = sums([each], backend)
        first, second = (first + int(own[0])) % 2**64, (second + int(own[1])) % 2**64
        bar.advance(each.source.nbytes)
    return fingerprint_digest(tensor.name, dtype_name(tensor.dtype), tensor.shape, (first, second))


def _pieces(stored: Checkpoint, tensor: StoredTensor) -> Iterator[Sum]:
    whole, key = whole_box(tensor.shape), fingerprint_key(tensor.name)
    stored.check_whole(tensor)
    for saved, box in tensor.parts(whole):
        values = stored.view(tensor, saved, box)
        for piece in cut_boxes(box.sizes, _BATCH // tensor.dtype.itemsize):
            yield Sum(piece.of(values), key, tensor.shape, box_of_box(box, piece).offsets)
