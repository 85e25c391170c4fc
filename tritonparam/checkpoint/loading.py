"""Loading: the boxes that are held here, put together from those that were saved, cast on the way."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tritonparam.checkpoint.casts import goes_into
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.pending import pending_of
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.staging import Move, move
from tritonparam.checkpoint.stored import Checkpoint, StoredTensor
from tritonparam.checkpoint.targets import Layouts, Renaming, Slot, Target, lay_slots, listed, rename, slots_of
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module import note_loaded, recording_paused
from tritonparam.plan import check_memory, check_writable, named_device, resolve_backend
from tritonparam.stream import Generator
from tritonparam.tensor import REALIZING


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
        dtype: A floating-point dtype for the parameters among what is lazy or deferred, and for the buffers whose dtype
            the constructor left to torch's default. A buffer for which it named one, such as the `inv_freq` of rotary
            embeddings, keeps it, as in `materialize` and with `from_pretrained(dtype=)` of transformers. None for the
            dtype that each was declared with.
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
    with recording_paused(), torch.inference_mode(False), torch.no_grad(), contextlib.ExitStack() as files:
        with REALIZING:  # and not while files are read, for which other threads, and forks, would wait
            slots = slots_of(target)
            if layouts is not None and isinstance(target, torch.nn.Module):
                raise ValueError("layouts must be None for a module: they are for lazy Parameters")
            lay_slots(slots, layouts, rank)
            if device is not None:  # whether it is there matters where something is to be made on it
                named_device(device)
            stored = Checkpoint(Path(path))
            files.callback(stored.close)
            match = _Match(slots, stored, mapping, strict)
            pending = pending_of(target, match.found, match.drawn, device, wanted, backend)
            match.check_dtypes(pending.dtypes)
            real = [(slot, slot.values) for slot in match.found if slot.values is not None]
            for each in {values.device for _, values in real}:
                resolve_backend(each, backend)
            last = match.moves(real)
        with ProgressBar.of("loading", match.nbytes, progress) as bar:
            first = [match.moves(outs) for outs in pending.write(seed)]
            for moves in (*first, last):
                move(moves, backend, bar.advance)
        with REALIZING:
            pending.become()
            if isinstance(target, torch.nn.Module):
                note_loaded(target, (name for slot, _ in real for name in slot.names))
        return match.report()


class _Match:
    """Which tensor of a checkpoint goes into which of a target; names, shapes and boxes have been compared.

    Attributes:
        found: The tensors to load, with what is stored of them.
        drawn: Those without values that are not loaded.
    """

    def __init__(self, slots: Sequence[Slot], stored: Checkpoint, mapping: Renaming, strict: bool) -> None:
        self._stored = stored
        self.found: dict[Slot, StoredTensor] = {}
        missing: list[Slot] = []
        unexpected = dict(stored.tensors)
        for slot, names in rename((slot for slot in slots if slot.expected), mapping).items():
            there = [unexpected.pop(name) for name in names if name in unexpected]
            if there:
                self.found[slot] = there[0]
            else:
                missing.append(slot)
        self._unexpected = tuple(unexpected)
        if strict:
            self._check_names(missing)
        self._check_shapes()
        self._check_cover()
        others = (*missing, *(slot for slot in slots if not slot.expected))
        self.drawn = [slot for slot in others if slot.values is None]
        self._kept = [slot for slot in missing if slot.values is not None]

    @property
    def nbytes(self) -> int:
        """The bytes to read."""
        return sum(tensor.dtype.itemsize * math.prod(slot.box.sizes) for slot, tensor in self.found.items())

    def _check_names(self, missing: Iterable[Slot]) -> None:
        sides = {"missing": [slot.name for slot in missing], "unexpected": self._unexpected}
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
        """What became of which tensor, once all is done."""
        loaded, drawn, kept = (tuple(slot.name for slot in slots) for slots in (self.found, self.drawn, self._kept))
        return LoadReport(loaded, drawn, kept, self._unexpected)
