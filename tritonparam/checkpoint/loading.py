"""Loading: the boxes that are held here, put together from those that were saved, cast on the way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tritonparam.checkpoint.casts import goes_into
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.staging import Move, move
from tritonparam.checkpoint.stored import Checkpoint, StoredTensor
from tritonparam.checkpoint.targets import Layouts, Renaming, Slot, Target, lay_slots, listed, rename, slots_of
from tritonparam.dtype import DTypeLike, as_dtype, float_dtype
from tritonparam.module import Declaration, Materialization, check_written, recording_paused, shown_by
from tritonparam.parameter import Parameter
from tritonparam.plan import check_memory, check_writable, checked_device, resolve_backend
from tritonparam.stream import Generator
from tritonparam.tensor import REALIZING, Tensor, empty, lazy_like, realize


@dataclass(frozen=True)
class LoadReport:
    """What `load` did, by name.

    Attributes:
        loaded: Tensors that have the values of the checkpoint.
        initialized: Tensors that were lazy or deferred, are not in the checkpoint, and were drawn instead.
        kept: Tensors that were real, are not in the checkpoint, and are as before.
        unexpected: Names of the checkpoint that nothing here goes by.

    Examples:
        >>> print(LoadReport(("a", "b"), ("head.weight",), (), ()))
        2 loaded, 1 initialized: head.weight
    """

    loaded: tuple[str, ...]
    initialized: tuple[str, ...]
    kept: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        rest = {"initialized": self.initialized, "kept": self.kept, "unexpected": self.unexpected}
        told = [f"{len(names)} {what}: {listed(names)}" for what, names in rest.items() if names]
        return f"{len(self.loaded)} loaded" + (", " if told else "") + "; ".join(told)


def load(
    target: Target,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    mapping: Renaming = None,
    layouts: Layouts = None,
    rank: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: DTypeLike | None = None,
    backend: str | None = None,
    progress: bool | None = None,
) -> LoadReport:
    """Read the values of `target` from safetensors files: of every tensor the box that is held here, and no more.

    What is lazy or deferred becomes real by what is loaded, without being drawn first; its tensors stay the same
    objects. What is real already is overwritten in place. Everything is checked before anything is written: names,
    shapes, dtypes, and that the saved boxes cover those that are asked for, however differently they are cut. Beside
    the results, no memory is taken on a host, and three buffers of 64 MiB for a CUDA device, one of them there.

    Floats are cast to the dtype here, whichever it is; integers and bools where that can lose nothing.

    Of a module, parameters and persistent buffers are expected in a checkpoint. Non-persistent buffers that are
    deferred get the values that `materialize` would have given them. One name of a tied tensor is enough.

    Args:
        target: A torch.nn.Module, real, built inside `deferred_init`, or partly so; a Parameter, or an iterable of
            Parameters; or a mapping from names to Parameters and torch tensors. Of a DTensor, the local tensor is
            loaded; of a real Parameter, its `box`.
        path: A safetensors file; a folder with `model.safetensors`, with `model.safetensors.index.json` and its files,
            or with the shards that `save` or torch.distributed.checkpoint's HuggingFaceStorageWriter wrote; or such an
            index.
        strict: Whether names that only one side has are an error. If not, lazy and deferred tensors that the checkpoint
            lacks get the values that `init_data` or `materialize` would have given them, and real ones stay.
        mapping: From a name here to its name in the checkpoint: a mapping, in which names that stay may be left out, or
            a function.
        layouts: Which box of it a lazy Parameter becomes: a layout as for `Parameter.init_data`, or a Box, for all; or
            a mapping from names to these.
        rank: The process that layouts are looked at for; None for this one.
        seed: Of what is initialized in a module, as for `materialize`. Parameters have theirs.
        device: A CPU or CUDA device for what is lazy or deferred; None for torch's default one, and for the one a
            deferred tensor was made for.
        dtype: A floating-point dtype for the floating-point tensors among what is lazy or deferred; None for the one
            each was declared with.
        backend: What writes the values, as for `Plan`. It changes none.
        progress: Whether to show a bar on standard error; None shows one on a terminal, for more than 1 GB.

    Returns:
        What became of which tensor.

    Raises:
        TypeError: An argument has none of these types, or a dtype does not go into the one here.
        ValueError: Names are missing or unexpected and strict is True, shapes differ, mapping gives two tensors one
            name, a layout does not go with its tensor, or an argument is out of range.
        tritonparam.checkpoint.CheckpointError: A file is missing, damaged or contradicts another one, or no file
            has a box; it names the file, or tensor and box.
        RuntimeError: Something outside holds on to a lazy or deferred tensor so that it cannot become real.
        KeyboardInterrupt: In the middle: what was lazy or deferred is as before, and of tensors that were real, some
            may have new values and one be half new.

        After every other error nothing has changed, but for a RuntimeError, before which real tensors were loaded.
        Files are mapped: where the disk fails while they are read, or somebody cuts one short, the system ends the
        process.

    Examples:
        >>> import tempfile, tritonparam
        >>> with tritonparam.deferred_init():
        ...     model = torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tritonparam.save(torch.nn.Linear(3, 2), f"{folder}/linear")
        ...     print(tritonparam.load(model, f"{folder}/linear", dtype=torch.bfloat16), model.weight.dtype)
        2 loaded torch.bfloat16
    """
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be a bool, got {strict!r}")
    check_progress(progress)
    seed = Generator(seed).seed
    wanted = float_dtype(dtype)
    with REALIZING, recording_paused(), torch.inference_mode(False), torch.no_grad():
        slots = slots_of(target)
        if layouts is not None and isinstance(target, torch.nn.Module):
            raise ValueError("layouts must be None for a module: they are for lazy Parameters")
        lay_slots(slots, layouts, rank)
        if device is not None:
            checked_device(device, backend)
        stored = Checkpoint(Path(path))
        try:
            job = _Job(slots, stored, mapping, strict)
            work = _Deferred(target, job, device, wanted, backend)
            lazy = _Lazy(job, device, wanted, backend)
            job.check_dtypes(work.dtypes | lazy.dtypes)
            for place in {slot.values.device for slot in job.found if slot.values is not None}:
                resolve_backend(place, backend)
            real = job.moves((slot, slot.values) for slot in job.found if slot.values is not None)
            with ProgressBar.of("loading", job.nbytes, progress) as bar:
                for group in (*work.write(seed), *lazy.write(), real):
                    move(group, backend, bar.advance)
            work.become(lazy.become)
        finally:
            stored.close()
        return job.report()


class _Job:
    """What is to be read for which tensor.

    Attributes:
        found: The tensors to load, with their names in the checkpoint.
        missing: The others.
        nbytes: What is to be read.
    """

    def __init__(self, slots: list[Slot], stored: Checkpoint, mapping: Renaming, strict: bool) -> None:
        self._stored = stored
        self.found: dict[Slot, StoredTensor] = {}
        self.missing: list[Slot] = []
        unexpected = dict(stored.tensors)
        for slot, names in rename((slot for slot in slots if slot.expected), mapping).items():
            there = [unexpected.pop(name) for name in names if name in unexpected]
            if there:
                self.found[slot] = there[0]
            else:
                self.missing.append(slot)
        self.unexpected = tuple(unexpected)
        if strict:
            self._check_names()
        self._check_shapes()
        self._check_cover()
        self.rest = [slot for slot in slots if not slot.expected and slot.values is None]

    @property
    def nbytes(self) -> int:
        """The bytes to read."""
        return sum(tensor.dtype.itemsize * math.prod(slot.box.sizes) for slot, tensor in self.found.items())

    def _check_names(self) -> None:
        sides = {"missing": [slot.name for slot in self.missing], "unexpected": self.unexpected}
        told = "; ".join(f"{what} in it: {listed(names)}" for what, names in sides.items() if names)
        if told:
            raise ValueError(
                f"{self._stored.path} does not have the names of target; {told}. With strict=False, what is missing is "
                "initialized, or kept if it is real, and what is unexpected is left out"
            )

    def _check_shapes(self) -> None:
        wrong = [
            f"{slot.name} is of shape {slot.shape}, in the checkpoint of {tensor.shape}"
            for slot, tensor in self.found.items()
            if slot.shape != tensor.shape
        ]
        if wrong:
            raise ValueError(f"{self._stored.path} has other shapes: {listed(wrong)}")

    def _check_cover(self) -> None:
        for slot, tensor in self.found.items():
            lacking = tensor.uncovered(slot.box)
            if lacking is not None:
                raise CheckpointError(
                    f"{self._stored.path} has only parts of {tensor.name!r}: no file has its {lacking}"
                )

    def check_dtypes(self, changed: Mapping[Slot, torch.dtype]) -> None:
        """Refuse casts that are not made."""
        wrong = []
        for slot, tensor in self.found.items():
            own = changed.get(slot, slot.dtype)
            if not goes_into(tensor.dtype, own):
                wrong.append(f"{slot.name} is {own}, in the checkpoint {tensor.dtype}")
        if wrong:
            raise TypeError(f"{self._stored.path} has dtypes that do not go into those here: {listed(wrong)}")

    def moves(self, outs: Iterable[tuple[Slot, torch.Tensor]]) -> list[Move]:
        """What copies the values of each tensor, or of its box, to where they go."""
        moves = []
        for slot, out in outs:
            try:
                if not check_memory("target", out).is_contiguous():
                    check_writable("target", out)
            except ValueError as error:
                raise ValueError(f"{slot.name} cannot be written to: {error}") from None
            tensor = self.found[slot]
            for saved, box in tensor.parts(slot.box):
                source = self._stored.view(tensor, saved, box)
                moves.append(Move(out if box.sizes == slot.box.sizes else box.within(slot.box).of(out), source))
        return moves

    def report(self) -> LoadReport:
        """What was done."""
        kept = tuple(slot.name for slot in self.missing if slot.values is not None)
        drawn = tuple(slot.name for slot in (*self.missing, *self.rest) if slot.values is None)
        return LoadReport(tuple(slot.name for slot in self.found), drawn, kept, self.unexpected)


class _Deferred:
    """The deferred tensors of a module."""

    def __init__(
        self,
        target: object,
        job: _Job,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        backend: str | None,
    ) -> None:
        self._module = target if isinstance(target, torch.nn.Module) else None
        self._job = job
        self._slots = {slot.declaration: slot for slot in job.found if slot.declaration is not None}
        others = [slot.declaration for slot in (*job.missing, *job.rest) if slot.declaration is not None]
        check_written(each for each in others if not shown_by(each, self._slots))
        some = (*self._slots, *others)
        self._work = Materialization(some, device, dtype, backend) if some else None
        made: Mapping[Declaration, torch.dtype] = self._work.dtypes() if self._work is not None else {}
        self.dtypes = {slot: made[each] for each, slot in self._slots.items()}

    def write(self, seed: int) -> list[list[Move]]:
        """Allocate all, write what is not loaded, and say what is left to move, in order."""
        if self._work is None:
            return []
        loaded: Collection[Declaration] = self._slots.keys()
        self._work.write(seed, loaded)
        return [self._job.moves((self._slots[each], out) for each, out in group) for group in self._work.outs(loaded)]

    def become(self, others: Callable[[], None]) -> None:
        """Put everything in place."""
        others()
        if self._work is not None and self._module is not None:
            self._work.take_over(self._module)


class _Lazy:
    """The lazy Tensors and Parameters."""

    def __init__(
        self, job: _Job, device: torch.device | str | None, dtype: torch.dtype | None, backend: str | None
    ) -> None:
        self._job = job
        self._backend = backend
        self._found = [slot for slot in job.found if slot.lazy is not None]
        self._missing = [slot for slot in job.missing if slot.lazy is not None]
        both = (*self._found, *self._missing)
        self.dtypes = {slot: (dtype or slot.dtype) if slot.dtype.is_floating_point else slot.dtype for slot in both}
        self._device = torch.device("cpu")
        if both:
            self._device = checked_device(device, backend)
        self._values: dict[Slot, torch.Tensor] = {}

    def write(self) -> list[list[Move]]:
        """Allocate what is loaded, draw the others, and say what is left to move."""
        for slot in self._found:
            self._values[slot] = empty(slot.box.sizes, as_dtype(self.dtypes[slot]), self._device)
        drafts: dict[Slot, Tensor] = {}
        for slot in self._missing:
            if slot.lazy is not None:
                drafts[slot] = lazy_like(slot.lazy, as_dtype(self.dtypes[slot]))
        # One that is lazy and a box already is drawn as it is.
        boxes = {draft: slot.box for slot, draft in drafts.items() if draft.shape == slot.shape}
        realize(drafts.values(), self._device, self._backend, boxes)
        moves = self._job.moves(self._values.items())
        self._values |= {slot: draft.torch for slot, draft in drafts.items()}
        return [moves]

    def become(self) -> None:
        """Make all real, or none where one cannot be."""
        done: list[tuple[Tensor, torch.Tensor, Any]] = []
        try:
            for slot, values in self._values.items():
                if slot.lazy is not None:
                    before = (slot.lazy, torch.empty(slot.lazy.shape, dtype=slot.dtype, device="meta"), slot.lazy._law)
                    slot.lazy._become(values)
                    done.append(before)
        except BaseException as error:
            for tensor, storage, law in reversed(done):
                tensor._become(storage)
                tensor._law = law
            if not isinstance(error, RuntimeError):
                raise
            raise RuntimeError(f"{slot.name} cannot become real in place: {error}") from error
        for slot in self._values:
            if isinstance(slot.lazy, Parameter) and not slot.is_whole:
                slot.lazy._place = (slot.box, slot.shape)
