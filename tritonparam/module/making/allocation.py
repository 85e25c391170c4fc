"""Allocation: the memory that deferred storages get, and the values that are written to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from tritonparam.module.declaration import Declaration
from tritonparam.module.replay import Replay, naming, resized
from tritonparam.module.source import Source
from tritonparam.module.tape import Draw, History, Node, Version
from tritonparam.plan import Fill, FillColumns, Plan, View, apart, ask_for_huge_pages, placement
from tritonparam.stream import Law, derive_keys

# The data of a tensor: the same memory, with a version counter of its own. What stands on the class takes note of it.
_alias = torch._C.TensorBase.data.__get__  # type: ignore[attr-defined]


@dataclass(eq=False, slots=True)
class Allocated:
    """A deferred storage and what becomes of it.

    Attributes:
        history: What it holds.
        device: Where it will be.
        dtypes: What the dtypes of its tensors become.
        declarations: The tensors that show it.
        deferred_nbytes: The size of the deferred storage.
        real: The real storage, once there is one.
        made: A tensor that is all of it, where it was made as one, and its view.
    """

    history: History
    device: torch.device
    dtypes: dict[torch.dtype, torch.dtype] = field(default_factory=dict)
    declarations: list[Declaration] = field(default_factory=list)
    deferred_nbytes: int = 0
    real: torch.UntypedStorage | None = None
    made: tuple[torch.Tensor, View] | None = None

    @property
    def nbytes(self) -> int:
        """The size of the real storage."""
        before, after = self.cast
        return self.deferred_nbytes if before == after else self.deferred_nbytes // before.itemsize * after.itemsize

    @property
    def cast(self) -> tuple[torch.dtype, torch.dtype]:
        """What a dtype of its tensors was, and becomes: the same where they have several."""
        return next(iter(self.dtypes.items()))

    @property
    def is_shared(self) -> bool:
        """Whether it is the memory of an array, and stays so."""
        if self.history.live is None or self.device != torch.device("cpu"):
            return False
        before, after = self.cast
        return before == after

    @property
    def is_shown_in_part(self) -> bool:
        """Whether something else may show elements that none of the tensors here shows."""
        if any(each.view.fills(self.deferred_nbytes) for each in self.declarations):
            return False
        (deferred,) = deferred_storages([self])
        tensors = {id(tensor) for each in self.declarations for tensor in each.tensors}
        return bool(torch._C._storage_Use_Count(deferred._cdata) > 1 + len(tensors))

    def make(self) -> None:
        """Give it memory that nothing was written to: in one call, where one of its tensors is all of it."""
        view = self.declarations[0].view
        before, after = self.cast
        is_plain = view.dtype == before and not (view.offset or view.conjugate or view.negative)
        if is_plain and view.numel * before.itemsize == self.deferred_nbytes and view.row_major():
            whole = ask_for_huge_pages(torch.empty(view.shape, dtype=after, device=self.device))
            self.made, self.real = (whole, view), whole.untyped_storage()
            return
        memory = torch.empty(self.nbytes, dtype=torch.uint8, device=self.device)
        self.real = ask_for_huge_pages(memory).untyped_storage()

    def needs_replay(self, loaded: Collection[Declaration]) -> bool:
        """Whether some of it that is not `loaded` has no law."""
        return any(each.laws is None and each not in loaded for each in self.declarations)

    def show(self, view: View) -> torch.Tensor:
        """The real tensor that shows what the deferred one with this view did.

        Raises:
            RuntimeError: There is none, as the storage has another dtype now than one that the view reads it in.
        """
        if self.real is None:
            raise RuntimeError("the storage was not allocated yet")
        if self.made is not None and self.made[1] is view:
            alias: torch.Tensor = _alias(self.made[0])
            return alias
        before, after = self.cast
        dtype = view.dtype if before == after else self.dtypes.get(view.dtype)
        if dtype is None:
            raise RuntimeError(f"memory of {', '.join(map(str, self.dtypes))} in another dtype has no {view.dtype}")
        return replace(view, dtype=dtype).on(self.real)


def deferred_storages(storages: Iterable[Allocated]) -> list[torch.UntypedStorage]:
    """The deferred storages themselves, as long as their tensors show them."""
    with torch._C.DisableTorchFunction():  # lazy modules' parameters refuse to tell
        return [storage.declarations[0].tensors[0].untyped_storage() for storage in storages]


def is_shown_beside(deferred: torch.UntypedStorage) -> bool:
    """Whether a tensor still shows a deferred storage, once those of its module are real."""
    return bool(torch._C._storage_Use_Count(deferred._cdata) > 1)


def allocated_for(
    declared: Iterable[Declaration], device: torch.device | None, dtype: torch.dtype | None
) -> list[Allocated]:
    """The deferred storages behind what is declared."""
    storages: dict[int, Allocated] = {}
    for each in declared:
        history = each.history
        if history is not None and each.tensors:
            storage = storages.get(history.key)
            if storage is None:
                storage = storages[history.key] = Allocated(history, device or history.device)
            storage.declarations.append(each)
            storage.dtypes[each.dtype] = each.dtype_in(dtype)
    for storage, deferred in zip(storages.values(), deferred_storages(storages.values()), strict=True):
        storage.deferred_nbytes = deferred.nbytes()
        if len(storage.dtypes) > 1 and any(before != after for before, after in storage.dtypes.items()):
            names = ", ".join(each.name for each in storage.declarations)
            raise ValueError(
                f"dtype must be None where one storage has tensors of several dtypes ({names}), got {dtype}"
            )
    return list(storages.values())


def allocate(
    storages: list[Allocated], sources: Mapping[Draw | Node, Source], seed: int, loaded: Collection[Declaration]
) -> int:
    """Give every storage its memory, with the replayed values in it, of which there are as many as it returns.

    What was never written is 0.
    """
    replayed: list[tuple[Allocated, Version]] = []
    for storage in storages:
        head = storage.history.head
        if storage.is_shared:
            storage.real = storage.history.live
        elif head is not None and (storage.is_shown_in_part or storage.needs_replay(loaded)):
            replayed.append((storage, head))
        else:
            storage.make()
            if storage.real is not None and head is None and any(each not in loaded for each in storage.declarations):
                View.all_of(storage.real).on(storage.real).zero_()
    with naming((each.name, head) for storage, head in replayed for each in storage.declarations):
        hosts = Replay(seed, sources, blank=0).run([head for _, head in replayed])
    for (storage, _), written in zip(replayed, hosts, strict=True):
        is_grown = written.nbytes() < storage.deferred_nbytes  # since it was written to
        host = resized(written, storage.deferred_nbytes, 0) if is_grown else written
        before, after = storage.cast
        if storage.device == torch.device("cpu") and before == after:
            storage.real = host
        else:
            flat = View.all_of(host, before).on(host)
            storage.real = flat.to(storage.device, after).untyped_storage()
    return len(replayed)


def largest_first(storage: Allocated) -> list[Declaration]:
    """The tensors that show a storage, so that one that lies in another comes after it."""
    return sorted(storage.declarations, key=lambda each: -each.view.numel)


def write(
    storages: list[Allocated],
    seed: int,
    backend: str | None,
    loaded: Collection[Declaration],
    others: Iterable[Fill] = (),
) -> None:
    """Write `others` and what has laws: in one plan, but for tensors of which others show some elements and not all."""
    whole = _WholeTensors(seed)
    first = list(others)
    second: list[Fill] = []
    for storage in storages:
        if len(storage.declarations) == 1:
            (each,) = storage.declarations
            if each not in loaded and each.laws and not whole.take(each, storage):
                first += each.fills(storage.show(each.view), seed)
            continue
        written = Views(len(storage.declarations))
        covered = [each.view for each in storage.declarations if each in loaded]
        for each in largest_first(storage):
            view = each.view
            if each in loaded or each.laws is None or any(placement(view, other) for other in covered):
                continue
            if any(placement(view, other) for other in written.near(view)):
                continue
            fills = first if written.are_apart_from(view) else second
            fills += each.fills(storage.show(view), seed)
            written.add(view)
    both: tuple[FillColumns | list[Fill], ...] = whole.with_others(first), second
    for group in both:
        if group:
            Plan(group, backend).run()


class _WholeTensors:
    """Tensors whose values are each one law's, from one key, as columns."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._outs: list[torch.Tensor] = []
        self._laws: list[Law] = []
        self._names: list[str] = []
        self._occurrences: list[int] = []
        self._random: list[int] = []

    def take(self, each: Declaration, storage: Allocated) -> bool:
        """Take one more, if it is such a tensor."""
        draw = each.whole_draw()
        if draw is None or not each.view.row_major():
            return False
        law, source = draw
        if source is not None:
            if source.seed is not None:
                return False
            self._random.append(len(self._outs))
            self._names.append(source.name)
            self._occurrences.append(source.occurrence)
        self._outs.append(storage.show(each.view))
        self._laws.append(law)
        return True

    def with_others(self, others: list[Fill]) -> FillColumns:
        """The fills of what was taken, and others."""
        keys = np.zeros(len(self._outs), np.uint64)
        keys[self._random] = derive_keys(self._seed, self._names, self._occurrences)
        return FillColumns(self._outs, self._laws, keys, others)


class Views:
    """Views of one storage, of which there may be thousands."""

    def __init__(self, most: int) -> None:
        self._views: list[View] = []
        self._spans = np.empty((2, most), dtype=np.int64)  # the first and the last byte of each

    def add(self, view: View) -> None:
        """Have one more."""
        self._spans[:, len(self._views)] = _span(view)
        self._views.append(view)

    def are_apart_from(self, view: View) -> bool:
        """Whether none of them has an element of `view`."""
        return all(apart(view, other) for other in self.near(view))

    def near(self, view: View) -> list[View]:
        """All that may have an element of `view`."""
        begin, end = _span(view)
        starts, ends = self._spans[:, : len(self._views)]
        return [self._views[n] for n in np.flatnonzero((starts <= end) & (begin <= ends))]


def _span(view: View) -> tuple[int, int]:
    size = view.dtype.itemsize
    return view.offset * size, (view.last + 1) * size - 1
