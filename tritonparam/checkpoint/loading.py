"""Loading: the boxes that are held here, put together from those that were saved, cast on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tritonparam._arguments import checked_bool
from tritonparam._processes import DEADLINE, Processes
from tritonparam.checkpoint.disk import as_path
from tritonparam.checkpoint.joint import facts_of_load
from tritonparam.checkpoint.matching import LoadReport, Match, check_landing
from tritonparam.checkpoint.pending import Pending, pending_of
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.staging import Move, move
from tritonparam.checkpoint.stored import Checkpoint
from tritonparam.checkpoint.targets import Layouts, Renaming, Slot, Target, lay_slots, slots_of
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module import Facts, agreed, note_loaded, recording_paused
from tritonparam.plan import named_device, resolve_backend
from tritonparam.stream import seed_or_default
from tritonparam.tensor import REALIZING


def load(
    target: Target,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    mapping: Renaming = None,
    layouts: Layouts = None,
    rank: int | None = None,
    seed: int | None = None,
    device: torch.device | str | int | None = None,
    dtype: DTypeLike | None = None,
    backend: str | None = None,
    progress: bool | None = None,
    check: bool = False,
    group: Any = None,
    deadline: float = DEADLINE,
) -> LoadReport:
    """Read the values of `target` from safetensors files: of every tensor the box that is held here, and no more.

    What is lazy or deferred becomes real by what is loaded, without being drawn first; its tensors stay the same
    objects. What is real already is overwritten in place. Everything is checked before anything is written: names,
    shapes, dtypes, and that the saved boxes cover those that are asked for, however differently they are cut. Beside
    the results, no memory is taken on a host, and three buffers of 64 MiB for a CUDA device, one of them there.

    Floats are cast to the dtype here, whichever it is; integers and bools where that can lose nothing.

    Of a module, parameters and persistent buffers are expected in a checkpoint. Non-persistent buffers that are
    deferred get the values that `materialize` would have given them. One name of a tied tensor is enough; where a
    checkpoint has several, their values have to be the same.

    Args:
        target: A torch.nn.Module, real, built inside `deferred_init`, or partly so, and sharded since or not; a
            Parameter, or an iterable of Parameters; or a mapping from names to Parameters and torch tensors. Of a
            DTensor, the local tensor is loaded, which need not have values or memory yet; of a real Parameter, its
            `box`.
        path: A safetensors file; an index; or a folder with `model.safetensors`, with an index and its files, or with
            the shards that `save` or torch.distributed.checkpoint's HuggingFaceStorageWriter wrote.
        strict: Whether names that only one side has are an error, and different values for the names of one tensor. If
            not, lazy and deferred tensors that the checkpoint lacks get the values that `init_data` or `materialize`
            would have given them, real ones stay, and of several names the first counts.
        mapping: From a name here to its name in the checkpoint: a mapping, in which names that stay may be left out, or
            a function.
        layouts: Which box of it a lazy Parameter becomes: a layout as for `Parameter.init_data`, or a Box, for all; or
            a mapping from names to these.
        rank: The process that layouts are looked at for; None for this one.
        seed: Of what is initialized in a module, as for `materialize`. Parameters have theirs.
        device: A CPU or CUDA device for what is lazy or deferred, an int being a CUDA device; None for torch's default
            one, and for the one a deferred tensor was made for, or that of its mesh.
        dtype: A floating-point dtype for the parameters among what is lazy or deferred, and for the buffers whose dtype
            the constructor left to torch's default. A buffer for which it named one, such as the `inv_freq` of rotary
            embeddings, keeps it, as in `materialize` and with `from_pretrained(dtype=)` of transformers. None for the
            dtype that each was declared with.
        backend: What writes the values, as for `Plan`. It changes none.
        progress: Whether to show a bar on standard error; None shows one on a terminal, for more than 1 GB.
        check: Whether processes compare what they are about to load: seed, dtype, and of each tensor that several have
            its shape, dtype and place in the checkpoint, with its first bytes. All of them must call this, and an error
            of one is an error in all, before what is lazy or deferred becomes real. Otherwise nothing is communicated.
        group: The torch.distributed process group of those that compare; None for all processes.
        deadline: Seconds to wait, if they compare, for a process that gives no sign of life.

    Returns:
        The names of the tensors that were loaded, initialized or kept, and of those that only the checkpoint has.

    Raises:
        TypeError: An argument has none of these types, or a dtype does not go into the one here, or torch has none for
            it.
        ValueError: Names are missing or unexpected or their values differ and strict is True, shapes differ, mapping
            gives two tensors one name, a layout does not go with its tensor, two tensors to load overlap (of a module:
            but for those that lie within another one), one lies in memory that cannot be written or in a file that is
            read, a placement of a DTensor is neither a shard nor a replica, or an argument is out of range. With
            `check`: processes are about to load different things; the error names the first, on every one.
        tritonparam.CheckpointError: A file is missing (a CheckpointNotFoundError, which is a FileNotFoundError too),
            damaged or contradicts another one, or no file has a box; it names the file, or tensor and box.
        RuntimeError: Something outside holds on to a lazy or deferred tensor so that it cannot become real. With
            `check`: another process raised an error, or did not come before the deadline.
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
    processes = Processes.comparing(check, group, deadline)
    with recording_paused(), torch.inference_mode(False), torch.no_grad(), contextlib.ExitStack() as files:

        def prepare() -> _Prepared:
            checked_bool("strict", strict)
            check_progress(progress)
            chosen_seed, where, wanted = seed_or_default(seed), as_path(path), float_dtype(dtype)
            with REALIZING:  # and not while files are read, for which other threads, and forks, would wait
                slots = slots_of(target)
                if layouts is not None and isinstance(target, torch.nn.Module):
                    raise ValueError("layouts must be None for a module: they are for lazy Parameters")
                lay_slots(slots, layouts, rank)
                if device is not None:  # whether it is there matters where something is to be made on it
                    named_device(device)
                stored = Checkpoint(where)
                files.callback(stored.close)
                match = Match(slots, stored, mapping, strict)
                pending = pending_of(target, match.found, match.drawn, device, wanted, backend)
                match.check_dtypes(pending.dtypes)
                if isinstance(target, torch.nn.Module):
                    match.find_nested()
                real = [(slot, slot.values) for slot in match.found if slot.values is not None]
                for each in {values.device for _, values in real}:
                    resolve_backend(each, backend)
                written = match.written(real)
                check_landing(written, stored.files)
                last = match.moves(written)
            match.check_ties()  # reads files
            return _Prepared(chosen_seed, wanted, stored, match, pending, real, last)

        def facts(work: _Prepared) -> tuple[int, Facts]:
            match, dtypes = work.match, work.pending.dtypes
            return work.seed, facts_of_load(work.stored, match.found, match.drawn, match.kept, dtypes, work.dtype)

        work = agreed(processes, "load", prepare, facts) if check else prepare()
        match, pending = work.match, work.pending

        def read() -> None:
            with ProgressBar.of("loading", match.nbytes, progress) as bar:
                first = [match.moves_to(outs) for outs in pending.write(work.seed)]
                for moves in (*first, work.last):
                    move(moves, backend, bar.advance)

        def become() -> None:
            with REALIZING:
                pending.become(work.seed)
                if isinstance(target, torch.nn.Module):
                    note_loaded(target, (name for slot, _ in work.real for name in slot.names))

        processes.together(read, "reading in load")
        processes.together(become, "ending load")
        return match.report()


class _Prepared(NamedTuple):
    """What `load` is about to do: tensors that are `pending` become real, and `last` moves are to real ones."""

    seed: int
    dtype: torch.dtype | None
    stored: Checkpoint
    match: Match
    pending: Pending
    real: list[tuple[Slot, torch.Tensor]]
    last: Sequence[Move]
