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
from tritonparam.plan import Fill, Plan, View, apart, ask_for_huge_pages, placement


@dataclass(eq=False)
class Allocated:
    """A deferred storage and what becomes of it.

    Attributes:
        history: What it holds.
        device: Where it will be.
        dtypes: What the dtypes of its tensors become.
        declarations: The tensors that show it.
        real: The real storage, once there is one.
    """

    history: History
    device: torch.device
    dtypes: dict[torch.dtype, torch.dtype] = field(default_factory=dict)
    declarations: list[Declaration] = field(default_factory=list)
    real: torch.UntypedStorage | None = None

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
        before, after = self.cast
        return self.history.live is not None and self.device == torch.device("cpu") and before == after

    @property
    def deferred(self) -> torch.UntypedStorage:
        """The deferred storage, as long as its tensors show it."""
        with torch._C.DisableTorchFunction():  # lazy modules' parameters refuse to tell
            return self.declarations[0].tensors[0].untyped_storage()

    @property
    def deferred_nbytes(self) -> int:
        """The size of the deferred storage."""
        return self.deferred.nbytes()

    @property
    def is_shown_in_part(self) -> bool:
        """Whether something else may show elements that none of the tensors here shows."""
        deferred, tensors = self.deferred, {id(tensor) for each in self.declarations for tensor in each.tensors}
        return not any(each.view.fills(deferred.nbytes()) for each in self.declarations) and bool(
            torch._C._storage_Use_Count(deferred._cdata) > 1 + len(tensors)
        )

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
        before, after = self.cast
        dtype = view.dtype if before == after else self.dtypes.get(view.dtype)
        if dtype is None:
            raise RuntimeError(f"memory of {', '.join(map(str, self.dtypes))} in another dtype has no {view.dtype}")
        return replace(view, dtype=dtype).on(self.real)


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
        if history is not None:
            storage = storages.setdefault(history.key, Allocated(history, device or history.device))
            storage.declarations.append(each)
            storage.dtypes[each.dtype] = each.dtype_in(dtype)
    for storage in storages.values():
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
            storage.real = _empty(storage.nbytes, storage.device)
            if head is None and any(each not in loaded for each in storage.declarations):
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


def _empty(nbytes: int, device: torch.device) -> torch.UntypedStorage:
    return ask_for_huge_pages(torch.empty(nbytes, dtype=torch.uint8, device=device)).untyped_storage()


def largest_first(storage: Allocated) -> list[Declaration]:
    """The tensors that show a storage, so that one that lies in another comes after it."""
    return sorted(storage.declarations, key=lambda each: -each.view.numel)


def write(storages: list[Allocated], seed: int, backend: str | None, loaded: Collection[Declaration]) -> None:
    """Write what has laws: in one plan, but for tensors of which others show some elements and not all."""
    first: list[Fill] = []
    second: list[Fill] = []
    for storage in storages:
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
    for fills in (first, second):
        if fills:
            Plan(fills, backend).run()


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
