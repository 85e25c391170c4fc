"""Materialization: give a deferred module its values, all at once, each a function of (seed, name, index)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import torch

from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module.declaration import Declaration, check_written, declared
from tritonparam.module.deferred import recording_paused
from tritonparam.module.replay import Replay
from tritonparam.module.takeover import take_over
from tritonparam.module.tape import History, Version
from tritonparam.plan import Fill, Plan, View, apart, ask_for_huge_pages, checked_device, placement
from tritonparam.stream import Generator


def materialize(
    module: torch.nn.Module,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: DTypeLike | None = None,
    backend: str | None = None,
) -> torch.nn.Module:
    """Make every deferred parameter and buffer of `module` real, in place; a call that raises changes nothing.

    All tensors whose elements have a known law are written by one plan; the others by doing again, on the host and in
    order, what the constructor did. Tensors stay the same objects, with their requires_grad, attributes and hooks, so
    an optimizer made before goes on working; what was tied, or a view of one storage, stays so. Tensors that are real
    already stay as they are, whatever `device` and `dtype` say: on a module that is all real this does nothing.

    Values depend on the seed and on the fully qualified name and the index of each element. They do not depend on
    device, backend, other tensors, or the order of construction; dtype only rounds them. Of a submodule on its own the
    names are others, and so are the values. The random states of torch, NumPy and Python are neither used nor changed.

    Args:
        module: A module built inside `deferred_init`, all of it or in part.
        seed: 0 <= seed < 2**64.
        device: A CPU or CUDA device for all of it; None for the one each tensor was made for.
        dtype: A floating-point dtype for all floating-point tensors; None for the one each was made with.
        backend: What writes the values, as for `Plan`; None for the device's own.

    Returns:
        `module`.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: An argument is out of range; tensors were never written, or are on the meta device without being
            deferred (the error names them); `dtype` differs for a storage that tensors of several dtypes share.
        ImportError: The backend is not installed.
        RuntimeError: Something outside holds on to a tensor in such a way that it cannot be changed in place.

    Examples:
        >>> from tritonparam import deferred_init
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 2)
        >>> materialize(model, seed=7, dtype=torch.bfloat16).weight.dtype
        torch.bfloat16
    """
    seed = Generator(seed).seed
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        if device is not None:
            checked_device(device, backend)
        float_dtype(dtype)
        found = declared(module, uninitialized=True)
        check_written(found)
        work = Materialization(found, device, dtype, backend)
        work.write(seed)
        work.take_over(module)
    return module


class Materialization:
    """The deferred tensors of a module on their way to being real: allocated, written, then put in its tensors.

    Args:
        declared: What the module declares; tensors that are real already are left out.
        device, dtype, backend: As for `materialize`.

    Raises:
        TypeError, ValueError, ImportError: As for `materialize`.
    """

    def __init__(
        self,
        declared: Iterable[Declaration],
        device: torch.device | str | None,
        dtype: DTypeLike | None,
        backend: str | None,
    ) -> None:
        target = None if device is None else checked_device(device, backend)
        self._storages = _storages(declared, target, float_dtype(dtype))
        self._backend = backend
        for each in {storage.device for storage in self._storages} or {torch.device("cpu")}:
            checked_device(each, backend)

    def dtypes(self) -> dict[Declaration, torch.dtype]:
        """The dtype that each deferred tensor will have."""
        return {each: storage.dtypes[each.dtype] for storage in self._storages for each in storage.declarations}

    def write(self, seed: int, loaded: Collection[Declaration] = ()) -> None:
        """Allocate every tensor, and write all but those that are `loaded`, which the caller writes afterwards."""
        self._seed = seed
        _allocate(self._storages, seed, loaded)
        _write(self._storages, seed, self._backend, loaded)

    def outs(self, loaded: Collection[Declaration]) -> list[list[tuple[Declaration, torch.Tensor]]]:
        """Where the values of `loaded` go: a list to write first, and one whose tensors show elements of the first."""
        first: list[tuple[Declaration, torch.Tensor]] = []
        second: list[tuple[Declaration, torch.Tensor]] = []
        for storage in self._storages:
            views: list[View] = []
            for each in _largest_first(storage):
                if each in loaded:
                    outs = first if all(apart(each.view, other) for other in views) else second
                    outs.append((each, storage.show(each.view)))
                    views.append(each.view)
        return [first, second]

    def take_over(self, module: torch.nn.Module) -> None:
        """Turn the tensors of `module` into the real ones: all of them, or none where one cannot be.

        Raises:
            RuntimeError: Something outside holds on to one of them.
        """
        take_over(
            module,
            [
                (each.name, mine, storage.show(each.view))
                for storage in self._storages
                for each in storage.declarations
                for mine in each.tensors
            ],
            self._replayed,
        )

    def _replayed(self, versions: list[Version]) -> list[torch.UntypedStorage]:
        return Replay(self._seed, self._storages[0].declarations[0].sources).run(versions)


def shown_by(declaration: Declaration, others: Iterable[Declaration]) -> bool:
    """Whether all elements of a deferred tensor are elements of one of `others` too."""
    return any(
        each.history is declaration.history and placement(declaration.view, each.view) is not None for each in others
    )


@dataclass
class _Storage:
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
        with torch._C.DisableTorchFunction():
            nbytes = self.declarations[0].tensors[0].untyped_storage().nbytes()
        before, after = next(iter(self.dtypes.items()))
        return nbytes if before == after else nbytes // before.itemsize * after.itemsize

    def show(self, view: View) -> torch.Tensor:
        """The real tensor that shows what the deferred one with this view did."""
        if self.real is None:
            raise RuntimeError("the storage was not allocated yet")
        return replace(view, dtype=self.dtypes[view.dtype]).on(self.real)


def _storages(
    declared: Iterable[Declaration], device: torch.device | None, dtype: torch.dtype | None
) -> list[_Storage]:
    """The deferred storages behind what is declared."""
    storages: dict[int, _Storage] = {}
    for each in declared:
        history = each.history
        if history is not None:
            storage = storages.setdefault(history.key, _Storage(history, device or history.device))
            storage.declarations.append(each)
            casts = dtype is not None and each.dtype.is_floating_point
            storage.dtypes[each.dtype] = dtype if dtype is not None and casts else each.dtype
    for storage in storages.values():
        if len(storage.dtypes) > 1 and any(before != after for before, after in storage.dtypes.items()):
            names = ", ".join(each.name for each in storage.declarations)
            raise ValueError(
                f"dtype must be None where one storage has tensors of several dtypes ({names}), got {dtype}"
            )
    return list(storages.values())


def _allocate(storages: list[_Storage], seed: int, loaded: Collection[Declaration]) -> None:
    """Give every storage its memory, with the replayed values in it."""
    replayed: list[tuple[_Storage, Version]] = []
    for storage in storages:
        head = storage.history.head
        if head is not None and any(each.laws is None and each not in loaded for each in storage.declarations):
            replayed.append((storage, head))
        else:
            storage.real = _empty(storage.nbytes, storage.device)
    sources = storages[0].declarations[0].sources if storages else {}
    hosts = Replay(seed, sources).run([head for _, head in replayed])
    for (storage, _), host in zip(replayed, hosts, strict=True):
        before, after = next(iter(storage.dtypes.items()))
        if storage.device == torch.device("cpu") and before == after:
            storage.real = host
        else:
            flat = View((host.nbytes() // before.itemsize,), (1,), 0, before).on(host)
            storage.real = flat.to(storage.device, after).untyped_storage()


def _empty(nbytes: int, device: torch.device) -> torch.UntypedStorage:
    return ask_for_huge_pages(torch.empty(nbytes, dtype=torch.uint8, device=device)).untyped_storage()


def _largest_first(storage: _Storage) -> list[Declaration]:
    return sorted(storage.declarations, key=lambda each: -each.view.numel)


def _write(storages: list[_Storage], seed: int, backend: str | None, loaded: Collection[Declaration]) -> None:
    """Write what has laws: in one plan, but for tensors of which others show some elements and not all."""
    first: list[Fill] = []
    second: list[Fill] = []
    for storage in storages:
        written: list[View] = []
        covered = [each.view for each in storage.declarations if each in loaded]
        for each in _largest_first(storage):
            view = each.view
            if each in loaded or each.laws is None or any(placement(view, other) for other in (*covered, *written)):
                continue
            fills = first if all(apart(view, other) for other in written) else second
            fills += each.fills(storage.show(view), seed)
            written.append(view)
    for fills in (first, second):
        if fills:
            Plan(fills, backend).run()
