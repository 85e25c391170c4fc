"""Materialization: give a deferred module its values, all at once, each a function of (seed, name, index)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

import torch

from tritonparam._arguments import checked_bool, entries, few, got, shown, warn
from tritonparam._processes import DEADLINE, Processes
from tritonparam._program import memory_peak
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module.declaration import Declaration, Survey, check_module, check_written, surveyed, unwritten
from tritonparam.module.full_names import whole_of
from tritonparam.module.loose import make_aliases_real, make_loose_real
from tritonparam.module.making import (
    Allocated,
    Facts,
    Placed,
    Views,
    agreed,
    allocate,
    allocated_for,
    deferred_storages,
    facts_of,
    is_shown_beside,
    largest_first,
    offloaded,
    placed_for,
    write,
    write_placed,
)
from tritonparam.module.recording import recording_paused, unguard
from tritonparam.module.replay import Replay
from tritonparam.module.state_ledger import ledger, note_made, warn_of_kept
from tritonparam.module.takeover import take_over
from tritonparam.module.tape import Version
from tritonparam.module.traversal import Scripts
from tritonparam.plan import Box, checked_device, placement
from tritonparam.stream import seed_or_default

Patterns = str | Iterable[str]
Model = TypeVar("Model", bound=torch.nn.Module)


def materialize(
    module: Model,
    seed: int | None = None,
    *,
    device: torch.device | str | int | None = None,
    dtype: DTypeLike | None = None,
    backend: str | None = None,
    prefix: str | None = None,
    only: Patterns | None = None,
    skip: Patterns | None = None,
    strict: bool = True,
    report: bool = False,
    check: bool = False,
    group: Any = None,
    deadline: float = DEADLINE,
) -> Model:
    """Make the deferred parameters and buffers of `module` real, in place; a call that raises changes nothing.

    One plan writes all tensors whose elements have a known law. For the others, torch runs again, on the host and in
    order, what the constructor did. Tensors stay the same objects, with their requires_grad, attributes and hooks, so
    an optimizer made before goes on working. Tied tensors stay tied, and views of one storage stay views of it. Tensors
    that are real already stay as they are, whatever `seed`, `device` and `dtype` say; a `KeptWarning` names parameters
    among them that were not made by tritonparam, or have the values of another seed.

    Values depend on the seed and on the fully qualified name and the index of each element. They do not depend on
    device, backend, other tensors, or the order of construction; dtype only rounds them. A part of a module that was
    built whole has the names, and so the values, that it has in the whole: it may be made real part by part. So has a
    module that tensors of a whole were registered in after its block, as the stages of torch.distributed.pipelining.
    Tensors elsewhere in the whole that show the same storage become real with it. The random states of torch, NumPy
    and Python are neither used nor changed.

    Args:
        module: A module built inside `deferred_init`, all of it or in part.
        seed: 0 <= seed < 2**64; None for that of the `Generator` whose `with` block this is in, or else of `set_seed`,
            which is 0 until it is called.
        device: A CPU or CUDA device for all of it, an int being a CUDA device; None for the one each tensor was made
            for.
        dtype: A floating-point dtype for all parameters, and for those buffers whose dtype the constructor left to
            torch's default. A buffer for which it named one (`dtype=`, `.float()`), such as the `inv_freq` of rotary
            embeddings, keeps it, as with `from_pretrained(dtype=)` of transformers; the running statistics of torch's
            norms go with their weights. None for the dtype that each was made with.
        backend: What writes the values, as for `Plan`; None for the device's own.
        prefix: What the full names of the tensors begin with, such as "layers.3"; "" for nothing. None for the path of
            `module` in the outermost module that was built in a block and holds it.
        only: Patterns of the names in `module` (as of `fnmatch`: "*.bias"), one or several. Only tensors with a name
            that matches one become real. None for all.
        skip: Patterns likewise. Tensors with a name that matches one stay deferred, for a checkpoint to overwrite.
        strict: Whether elements that were never written are an error. If not, they are 0, and a warning names them.
        report: Whether to print the ledger of `module`, and what it took in memory and time.
        check: Whether processes compare what they are about to make: seed, dtype, and of each tensor that several have
            its shape, dtype and laws. All of them must call this, and an error of one is an error in all. Otherwise
            nothing is communicated.
        group: The torch.distributed process group of those that compare; None for all processes.
        deadline: Seconds to wait, if they compare, for a process that gives no sign of life.

    Returns:
        `module`.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: An argument is out of range; tensors were never written, or are on the meta device without being
            deferred (the error names them); `dtype` differs for a storage that tensors of several dtypes share; a
            pattern of `only` or `skip` matches nothing; they divide tensors that share a storage; processes that
            `check` are about to make different things (the error names the first, on every one).
        ImportError: The backend is not installed.
        RuntimeError: Something outside holds on to a tensor in such a way that it cannot be changed in place; an
            operation of the constructor fails on the values that it gets now, such as an index out of bounds. With
            `check`: another process raised an error, or did not come before the deadline. Nothing has changed then, but
            where something holds on to a tensor in the other one.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 2)
        >>> materialize(model, seed=7, dtype=torch.bfloat16).weight.dtype
        torch.bfloat16
    """
    begin = time.perf_counter()
    processes = Processes.comparing(check, group, deadline)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():

        def prepare() -> _Prepared:
            check_module(module)
            checked_bool("strict", strict)
            checked_bool("report", report)
            _check_prefix(prefix)
            if device is not None:
                checked_device(device, backend)
            wanted = float_dtype(dtype)
            survey = surveyed(module, prefix, uninitialized=True)
            own = _chosen(survey.own, only, skip)
            kept = [each for each in own if each.history is None]
            beyond = _of_same_storages(survey.beyond, own) if survey.beyond else []
            zeros = unwritten([*own, *beyond])
            if strict:
                check_written(zeros)
            work = Materialization(survey.whole, [*own, *beyond], device, dtype, backend)
            chosen_seed = seed_or_default(seed)
            warn_of_kept(module, kept, len(own), chosen_seed, wanted)
            if names := ", ".join(each.name for each in zeros if each.kind != "attribute"):
                warn(f"elements that were never written are 0: {names}")
            return _Prepared(chosen_seed, survey, own, beyond, zeros, work)

        def facts(found: _Prepared) -> tuple[int, Facts]:
            made = [each for each in (*found.own, *found.beyond) if each.history is not None]
            chosen, taken = float_dtype(dtype), set(found.own)
            left_out = [each for each in found.survey.own if each.history is not None and each not in taken]
            return found.seed, facts_of({each: each.dtype_in(chosen) for each in made}, left_out)

        found = agreed(processes, "materialize", prepare, facts) if check else prepare()
        chosen_seed, survey, own, beyond, zeros, work = found
        held_beyond = [each for each in (*own, *beyond) if len(each.full_names) > 1 + len(each.aliases)]
        holder = (survey.whole, None) if held_beyond else (module, survey.scripts)

        def become() -> None:
            work.take_over(*holder)
            for owner, group in ((module, own), (survey.whole, beyond)):
                made = {each: "initialized" for each in group if each.history}
                note_made(owner, made, zeros, chosen_seed)
                if held_beyond:
                    note_made(survey.whole, made, zeros, chosen_seed, by_full_names=True)
            survey.settle()
            unguard(module, around=survey.whole, is_real=only is None and skip is None)

        processes.together(lambda: work.write(chosen_seed), "writing in materialize")
        processes.together(become, "ending materialize")
    if report:
        sys.stdout.write(f"{ledger(module)}\n{work.summary(time.perf_counter() - begin)}\n")
    return module


def _of_same_storages(others: Iterable[Declaration], own: Iterable[Declaration]) -> list[Declaration]:
    storages = {each.history.key for each in own if each.history is not None}
    return [each for each in others if each.history is not None and each.history.key in storages]


class _Prepared(NamedTuple):
    """What `materialize` is about to make: of the module, of the whole beyond it, and what of that is 0."""

    seed: int
    survey: Survey
    own: list[Declaration]
    beyond: list[Declaration]
    zeros: list[Declaration]
    work: Materialization


def _chosen(declared: list[Declaration], only: Patterns | None, skip: Patterns | None) -> list[Declaration]:
    """Those with a name that matches `only`, without those with a name that matches `skip`."""
    wanted, unwanted = _patterns("only", only), _patterns("skip", skip)
    names = [name for each in declared for name in (each.name, *each.aliases)]
    for argument, patterns in (("only", wanted), ("skip", unwanted)):
        lost = [each for each in patterns or () if names and not any(fnmatchcase(name, each) for name in names)]
        if lost:
            raise ValueError(
                f"{argument} must match names of the module's tensors, such as {few(names, 3)}, got "
                f"{', '.join(map(shown, lost[:5]))}"
            )
    chosen = [
        each
        for each in declared
        if (wanted is None or _matches(each, wanted)) and (unwanted is None or not _matches(each, unwanted))
    ]
    taken, among = {each.history.key: each.name for each in chosen if each.history is not None}, set(chosen)
    for each in declared:
        if each.history is not None and each.history.key in taken and each not in among:
            raise ValueError(
                f"only and skip must not divide tensors that share a storage, got {taken[each.history.key]} without "
                f"{each.name}"
            )
    return chosen


def _patterns(argument: str, patterns: Patterns | None) -> tuple[str, ...] | None:
    if patterns is None or isinstance(patterns, str):
        return patterns if patterns is None else (patterns,)
    found = entries(argument, patterns, "a pattern of names or several")
    if not all(isinstance(pattern, str) for pattern in found):
        raise TypeError(f"{argument} must be a pattern of names or several, got {shown(patterns)}")
    if not found:
        raise ValueError(f"{argument} must be None or have a pattern of names, got {shown(patterns)}")
    return tuple(found)


def _matches(each: Declaration, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (each.name, *each.aliases) for pattern in patterns)


def _check_prefix(prefix: object) -> None:
    if prefix is None:
        return
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, {got(prefix)}")
    if prefix and not all(prefix.split(".")):
        raise ValueError(f"prefix must be names with dots between them, such as 'layers.3', or '', got {shown(prefix)}")


class Out(NamedTuple):
    """Where values of a deferred tensor go.

    Attributes:
        declaration: What it declares.
        stand_in: The tensor in its place that the memory is for; None where it is for the deferred one itself.
        box: Which box of the whole the memory holds.
        memory: It.
    """

    declaration: Declaration
    stand_in: torch.Tensor | None
    box: Box
    memory: torch.Tensor


class Materialization:
    """The deferred tensors of a module on their way to being real: allocated, written, then put in its tensors.

    Args:
        module: The module.
        declared: What it declares; tensors that are real already are left out.
        device, dtype, backend: As for `materialize`.

    Raises:
        TypeError, ValueError, ImportError: As for `materialize`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        declared: Iterable[Declaration],
        device: torch.device | str | int | None,
        dtype: DTypeLike | None,
        backend: str | None,
    ) -> None:
        target = None if device is None else checked_device(device, backend)
        declared = list(declared)
        self._storages = allocated_for(declared, target, float_dtype(dtype))
        on_host = offloaded(module.modules()) if any(each.stand_ins for each in declared) else ()
        self._placed = placed_for(declared, target, float_dtype(dtype), on_host)
        self._sources = declared[0].sources if declared else {}
        self._device = target
        self._backend = backend
        self._replayed = 0
        self._seed = 0
        self._loaded: frozenset[int] = frozenset()
        for each in {made.device for made in self._made()} or {torch.device("cpu")}:
            checked_device(each, backend)

    def _made(self) -> list[Allocated | Placed]:
        return [*self._storages, *self._placed]

    def dtypes(self) -> tuple[dict[Declaration, torch.dtype], dict[int, torch.dtype]]:
        """The dtype that each deferred tensor will have, and, by their ids, each that stands in the place of one."""
        dtypes = {each: storage.dtypes[each.dtype] for storage in self._storages for each in storage.declarations}
        return dtypes, {id(each.mine): each.dtype for each in self._placed}

    def write(self, seed: int, loaded: Collection[Declaration] = ()) -> None:
        """Allocate every tensor, and write all but those that are `loaded`, which the caller writes afterwards."""
        self._seed = seed
        self._loaded = frozenset(id(tensor) for each in loaded for tensor in each.tensors)
        self._replayed = allocate(self._storages, self._sources, seed, loaded)
        for each in self._placed:
            each.allocate()
        fills, replayed = write_placed([each for each in self._placed if each.declaration not in loaded], seed)
        self._replayed += replayed
        write(self._storages, seed, self._backend, loaded, fills)

    def outs(self, loaded: Collection[Declaration]) -> list[list[Out]]:
        """Where the values of `loaded` go: a list to write first, and one whose tensors show elements of the first."""
        first: list[Out] = []
        second: list[Out] = []
        for storage in self._storages:
            views = Views(len(storage.declarations))
            for each in largest_first(storage):
                if each in loaded:
                    outs = first if views.are_apart_from(each.view) else second
                    outs.append(Out(each, None, Box.whole(each.shape), storage.show(each.view)))
                    views.add(each.view)
        for placed in self._placed:
            if placed.declaration in loaded:
                first += (Out(placed.declaration, placed.mine, *part) for part in placed.parts())
        return [first, second]

    def take_over(self, module: torch.nn.Module, scripts: Scripts | None = None) -> None:
        """Turn the tensors of `module` into the real ones: all of them, or none where one cannot be.

        Args:
            module: Whose they are.
            scripts: What a walk through it has found of TorchScript; None to look for it.

        Raises:
            RuntimeError: Something outside holds on to one of them.
        """
        before = deferred_storages(self._storages)
        take_over(
            module,
            [
                (each.name, mine, storage.show(each.view))
                for storage in self._storages
                for each in storage.declarations
                for mine in each.tensors
            ],
            self._storages_of,
            self._loaded,
            scripts,
            [(each.declaration.name, each.mine, made) for each in self._placed if (made := each.made()) is not None],
        )
        for placed in self._placed:
            placed.settle()
        kept = {
            each.history: (each, deferred)
            for each, deferred in zip(self._storages, before, strict=True)
            if is_shown_beside(deferred)
        }
        if kept:
            shows = {history: each.show for history, (each, _) in kept.items()}
            make_aliases_real(shows, lambda history: is_shown_beside(kept[history][1]), self._storages_of)
        for draw, source in self._sources.items():
            draw.settled = draw.settled or source
        if self._storages:
            make_loose_real(whole_of(module)[0], self._sources, self._seed, self._device)

    def _storages_of(self, versions: list[Version]) -> list[torch.UntypedStorage]:
        return Replay(self._seed, self._sources, blank=0).run(versions)

    def summary(self, seconds: float) -> str:
        """What it took, in a line: how many tensors, how much memory where, and how long."""
        made = sum(len(storage.declarations) for storage in self._storages) + len(self._placed)
        sizes: Counter[str] = Counter()
        for each in self._made():
            sizes[str(each.device)] += each.nbytes
        memory = ", ".join(f"{nbytes:,} bytes on {device}" for device, nbytes in sizes.items()) or "0 bytes"
        return f"made {made} tensors, {memory}, in {seconds:.3f} s; {self._replayed} replayed; {memory_peak()}"


def shown_by(declaration: Declaration, others: Iterable[Declaration]) -> bool:
    """Whether all elements of a deferred tensor are elements of one of `others` too."""
    return any(
        each.history is declaration.history and placement(declaration.view, each.view) is not None for each in others
    )
