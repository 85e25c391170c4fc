"""The walk through a module: every tensor of it, deferred or real, with all the names that it goes by."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from tritonparam.module.blueprint import Blueprint, Whole, awaits_values, declared_of, is_foreign, joined, writes_to
from tritonparam.module.covers import recognize
from tritonparam.module.tape import History, Piece, Version
from tritonparam.module.traversal import Scripts, Spot, named_tensors, tensors_within
from tritonparam.plan import View
from tritonparam.tensor import is_dtensor, is_of_lazy

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_LAZY = " (of a lazy Parameter: call its init_data() first)"


@dataclass(slots=True)
class Found:
    """What a walk through a module finds out about one tensor.

    Attributes:
        names: What it is called in the module.
        full_names: What it was called in the outermost module that a block has built with it.
        tensors: The tensors of the module that show it, by their ids.
        stand_ins: Those that were put in their place and have no values yet, such as DTensors.
        stood_for: The names of each of those.
        pieces: The boxes with laws that it consists of; None where it has to be replayed, or is real.
    """

    history: History | None
    view: View
    kind: str
    names: list[str] = field(default_factory=list)
    full_names: list[str] = field(default_factory=list)
    saved_names: list[str] = field(default_factory=list)
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)
    stand_ins: dict[int, torch.Tensor] = field(default_factory=dict)
    stood_for: dict[int, list[str]] = field(default_factory=dict)
    pieces: tuple[Piece, ...] | None = None


def walk(
    module: torch.nn.Module, *, uninitialized: bool = False, scripts: Scripts | None = None, before: str = ""
) -> list[Found]:
    """Every tensor of `module`: parameters, then buffers, then deferred ones that are neither, as "attribute".

    Those are found in the attributes of the modules, in lists, tuples, sets, dicts, partial functions, bound methods
    and the attributes of other objects, at most 16 steps deep, and in modules found so that are not registered and are
    no parent of `module`; also gradients. What a closure, a class or a weak reference holds is out of reach. Their
    names are the paths: "freqs", "tables.m", "extra.0", "weight.grad".

    A module that is registered several times is found under each of its names, up to the first 1,024; one that is
    registered inside itself is not entered again.

    A DTensor without values, or what else has replaced a deferred tensor and has none, counts as that one.

    Args:
        module: What to walk through.
        uninitialized: List parameters and buffers of lazy modules that have no shape yet, as empty tensors.
        scripts: Where to note what there is of TorchScript.
        before: What full names begin with, without the dot.

    Raises:
        ValueError: Parameters or buffers are on the meta device and not deferred, have no shape yet and
            `uninitialized` is False, or stand in the place of deferred ones of another shape; a tensor of a class of
            its own wraps deferred ones. The error names them.
        RuntimeError: Something was written to what stands in the place of deferred tensors.
    """
    collected = _Collected()
    lost, unwritten, wrapping = [], [], []
    replaced = _Replaced()
    with torch._C.DisableTorchFunction():
        for spot in named_tensors(module, scripts, before):
            name, tensor, kind = spot[:3]
            lazy = is_lazy(tensor)
            plain = tensor.detach() if lazy else tensor
            if lazy and not uninitialized:
                unwritten.append(name)
                continue
            history = History.of(plain)
            if history is None:
                declared = replaced.by(spot)
                if declared is not None:
                    collected.add(spot, declared, History.of(declared), is_there=False)
                    continue
                is_meta = plain.is_meta
                known = History.of if is_meta or kind == "attribute" else attrgetter("is_meta")
                if any(map(known, tensors_within(plain))):
                    wrapping.append(f"{name} ({type(plain).__name__})")
                elif is_meta and kind != "attribute":
                    lost.append(f"{name}{_LAZY if is_of_lazy(plain) else ''}")
                if is_meta or lazy or kind == "attribute":
                    continue
            collected.add(spot, plain, history)
    if lost:
        raise ValueError(
            f"tensors on the meta device that do not know their values: {', '.join(lost)}; they were made or copied "
            "outside deferred_init()"
        )
    if wrapping:
        raise ValueError(
            f"tensors that wrap deferred ones, and cannot be made real with them: {', '.join(wrapping)}; take them out "
            "of the module, and wrap these tensors after materialize"
        )
    raise_unwritten(unwritten)
    replaced.check()
    return collected.found


def _found(history: History | None, view: View, kind: str) -> Found:
    """What there is to say of a tensor before its names are known."""
    pieces = None if history is None else recognize(history.head, view)
    return Found(history, view, kind, pieces=None if pieces is None else tuple(pieces))


class _Collected:
    """Tensors, each once."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._by_memory: dict[int, Found] = {}  # by the key of the history, or, below 0, by the id of the tensor
        self._further: dict[tuple[int, View], Found] = {}  # other views of the same histories

    def add(self, spot: Spot, tensor: torch.Tensor, history: History | None, is_there: bool = True) -> None:
        """Add one more name of a tensor.

        Args:
            spot: The name.
            tensor: The tensor that tells what it is.
            history: Its history.
            is_there: Whether it is the one of the spot, which something else has replaced otherwise.
        """
        view = _view_of(tensor, None if history is None else history.head)
        memory = -1 - id(spot.tensor) if history is None else history.key
        each = self._by_memory.get(memory)
        if each is not None and history is not None and each.view != view:
            each = self._further.get((memory, view))
        if each is None:
            each = _found(history, view, spot.kind)
            if self._by_memory.setdefault(memory, each) is not each:
                self._further[memory, view] = each
            self.found.append(each)
        name, mine, kind, persistent, full_name, *_ = spot
        if kind != "attribute" or each.kind == "attribute":
            each.names.append(name)
            each.full_names.append(full_name)
        if persistent:
            each.saved_names.append(name)
        (each.tensors if is_there else each.stand_ins)[id(mine)] = mine
        if not is_there:
            each.stood_for.setdefault(id(mine), []).append(name)


class _Replaced:
    """Tensors without values that were put in the place of deferred ones."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._other: list[str] = []
        self._unknown: list[str] = []
        self._elsewhere: list[str] = []
        self._declared: dict[int, torch.Tensor] = {}

    def by(self, spot: Spot) -> torch.Tensor | None:
        """The deferred tensor that the one of a spot has replaced; None where it has values, or replaced none."""
        tensor = spot.tensor
        if spot.kind == "attribute" or not awaits_values(tensor) or not (type(tensor) in _PLAIN or is_dtensor(tensor)):
            return None
        declared = declared_of(spot.owner, spot.local)
        if declared is None:
            return None
        if tensor.is_meta and _is_written(tensor, declared):
            self._written.append(spot.name)
        if tensor.shape != declared.shape:
            self._other.append(f"{spot.name} ({tuple(tensor.shape)}, and not {tuple(declared.shape)})")
        elif (tensor.is_meta and not is_dtensor(tensor)) or is_foreign(spot.owner, spot.local):
            self._unknown.append(spot.name)
        if not _are_tied(self._declared.setdefault(id(tensor), declared), declared):
            self._elsewhere.append(spot.name)
        return declared

    def check(self) -> None:
        """Refuse what was written to, has another shape than what it replaced, or came from elsewhere."""
        if self._other:
            raise ValueError(f"tensors of other shapes than those that they replaced: {', '.join(self._other)}")
        if self._unknown:
            raise ValueError(
                "tensors without values were put in the place of deferred ones, or of shards of them, and nothing says "
                f"what they are to hold: {', '.join(self._unknown)}; put them there inside `with deferred_init():` and "
                "before they are sharded, or after materialize"
            )
        if self._elsewhere:
            raise ValueError(
                f"tensors that stand in the place of deferred ones were put in the place of others too: "
                f"{', '.join(self._elsewhere)}; tie tensors before they are sharded, or after materialize"
            )
        if self._written:
            raise RuntimeError(
                f"tensors were written to while they had no memory, where nothing takes note of it: "
                f"{', '.join(self._written)}; initialize them before they are sharded, inside `with deferred_init():`, "
                "or after materialize"
            )


def _is_written(tensor: Any, declared: torch.Tensor) -> bool:
    """Whether something was written to a tensor without memory, or to the local one of a DTensor."""
    if not is_dtensor(tensor):
        return writes_to(tensor) > 0
    local = tensor._local_tensor
    if History.of(local) is not None and History.of(local) is History.of(declared):
        return bool(tensor._version > 0)  # the block wrote to it: its history tells what is written since
    return writes_to(tensor) > 0


def _are_tied(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two deferred tensors show the same elements."""
    return one is other or (History.of(one) is History.of(other) and View.of(one.detach()) == View.of(other.detach()))


def with_missing(
    found: Iterable[Found], module: torch.nn.Module, before: str, origin: Whole | None = None
) -> list[Found]:
    """`found`, with what a block has built in `module` and is no part of it any more, where it was then.

    The rest of a model has the values that it has in the whole, also where the first tensor of a draw is gone. With
    `origin`, of which all of `module` is, it has the names that it has there.
    """
    found = list(found)
    if origin is not None:
        return _as_built(found, [*_viewed(origin.tensors), *origin.beside])
    blueprint = Blueprint.of(module)
    if blueprint is None or blueprint.whole is None:
        return found
    built = blueprint.whole.tensors
    if before != blueprint.path:
        begin = f"{blueprint.path}." if blueprint.path else ""
        built = [(joined(before, name.removeprefix(begin)), tensor) for name, tensor in built if name.startswith(begin)]
    known = set(itertools.chain.from_iterable(map(attrgetter("full_names"), found)))
    return found if dict(built).keys() <= known else _as_built(found, _viewed(built))


def _viewed(built: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, History, View]]:
    for name, tensor in built:
        history = History.of(tensor)
        if history is not None:
            yield name, history, _view_of(tensor, history.head)


def _as_built(found: list[Found], built: Iterable[tuple[str, History, View]]) -> list[Found]:
    """`found`, and what else was `built`, under its names and in its order."""
    by_view = {(each.history.key, each.view): each for each in found if each.history is not None}
    ordered: dict[tuple[int, View], Found] = {}
    for name, history, view in built:
        key = history.key, view
        if key not in ordered:
            each = by_view.get(key)
            if each is None:
                each = _found(history, view, "parameter")
            ordered[key] = replace(each, full_names=[])
        ordered[key].full_names.append(name)
    for key, each in by_view.items():
        if key in ordered:
            names = ordered[key].full_names
            names += (name for name in each.full_names if name not in names)
    others = (each for each in found if each.history is None or (each.history.key, each.view) not in ordered)
    return [*ordered.values(), *others]


def _view_of(tensor: torch.Tensor, head: Version | None) -> View:
    """What a tensor shows: the view that was written last, where that is the one, as nearly always."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return View((tensor.numel(),) if tensor.is_nested else tuple(tensor.shape), (), 0, tensor.dtype)
    if head is not None:
        last = head.view
        if (
            tensor.shape == last.shape
            and tensor.stride() == last.stride
            and tensor.storage_offset() == last.offset
            and tensor.dtype == last.dtype
            and tensor.is_conj() == last.conjugate
            and tensor.is_neg() == last.negative
        ):
            return last
    return View.of(tensor)


def raise_unwritten(names: list[str]) -> None:
    if names:
        raise ValueError(f"uninitialized tensors, some of whose elements were never written: {', '.join(names)}")
