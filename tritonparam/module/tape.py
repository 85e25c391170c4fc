"""The tape: what was done to the storages of deferred tensors, kept so that it can be recognized or done for real.

A deferred tensor is a tensor on the meta device. Its storage, which holds no data, carries a `History`, whose head is
the last of a chain of `Version`s: each says which elements were written and with what, and leads to the version before
it. Versions are never changed, so an operation keeps what it read by keeping a version. Tensors that are views of one
storage share its history; a view, a detach or a tie needs no entry.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tritonparam._locks import across_forks
from tritonparam.module.source import ONE, Elements, Source
from tritonparam.plan import Box, View
from tritonparam.stream import Constant, Law

_ATTRIBUTE = "_tritonparam_history"
_alive: weakref.WeakSet[History] = weakref.WeakSet()
_counter = itertools.count()
_PAGE = 4096  # bytes
_PLACES = across_forks()
_next_address = 1 << 48  # beyond those that a process has
_NO_STORAGE = torch.empty(0, dtype=torch.uint8, device="meta").untyped_storage()


@dataclass(eq=False, slots=True)
class Draw:
    """One act of drawing random values; copies of the values share it.

    Attributes:
        shape: Of what was drawn.
        pinned: Its source, where a constructor looked at the values.
        settled: Its source, once a module that has it is real: copies in other modules have it too.
    """

    shape: tuple[int, ...]
    pinned: Source | None = None
    settled: Source | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """Values with a law.

    Attributes:
        law: The law.
        draw: Whose values they are; None for a constant.
        elements: Which elements of the draw they are.
        reshaped: They are all of the draw, in row-major order, under another shape.
    """

    law: Law
    draw: Draw | None = None
    elements: Elements = ONE
    reshaped: bool = False

    @classmethod
    def fresh(cls, law: Law, shape: tuple[int, ...]) -> Drawn:
        """New values of `law` for a tensor of `shape`."""
        return cls(law) if isinstance(law, Constant) else cls(law, Draw(shape), Elements.all_of(shape))

    def source(self, draws: Mapping[Draw | Node, Source]) -> Source | None:
        """Where they come from, given where draws do; None for a constant."""
        if self.draw is None:
            return None
        drawn = self.draw.pinned or draws[self.draw]
        return drawn.of(self.elements, self.draw.shape if self.reshaped else None)


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor and the values it holds."""

    box: Box
    drawn: Drawn


@dataclass(frozen=True, slots=True)
class Read:
    """A tensor argument of a recorded operation: elements of a storage as they were at that moment."""

    key: int
    version: Version | None
    nbytes: int
    view: View


@dataclass(frozen=True, eq=False, slots=True)
class GeneratorState:
    """What a generator that a caller gave was about to draw."""

    state: torch.Tensor

    def generator(self) -> torch.Generator:
        """A generator of its own that draws the same."""
        generator = torch.Generator()
        generator.set_state(self.state)
        return generator


@dataclass(eq=False, slots=True)
class Node:
    """A recorded operation that is done again when its results are needed.

    Attributes:
        func, args, kwargs: The call; a tensor is a `Read`, a generator that a caller gave, a `GeneratorState`.
        reads: What it reads.
        default_dtype: That of the moment.
        random: Whether it draws from a generator that replay gives it.
        reads_unwritten: Whether some of what it reads may never have been written.
        may_leave_unwritten: Whether it writes where another tensor says, in one that may never have been written.
        pinned: Its source, where a constructor looked at what it gives.
        settled: As for `Draw`.
        checks: Operations that give nothing, and raise if what this one gave is not as they want it.
        writes, results: The versions that it makes, by what it writes to and by their place among the results.
        index: When it was done.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: tuple[Read, ...]
    default_dtype: torch.dtype
    random: bool
    reads_unwritten: bool
    may_leave_unwritten: bool = False
    pinned: Source | None = None
    settled: Source | None = None
    checks: list[Node] = field(default_factory=list)
    writes: dict[int, Version] = field(default_factory=dict)
    results: list[tuple[int, Version]] = field(default_factory=list)
    index: int = field(default_factory=_counter.__next__)

    def needs(self) -> set[Version]:
        """The versions that the operation starts from."""
        return {read.version for read in self.reads if read.version is not None}


Content = Drawn | Node | torch.Tensor


@dataclass(eq=False, slots=True)
class Version:
    """One write to a storage.

    Attributes:
        previous: What the other elements hold; None where nothing was written to them.
        view: The elements written.
        content: Values with a law, a tensor of known values, or the operation that computes them.
        nbytes: The size of the storage.
    """

    previous: Version | None
    view: View
    content: Content
    nbytes: int
    index: int = field(default_factory=_counter.__next__)

    def needs(self) -> set[Version]:
        """The versions that writing this one starts from."""
        if isinstance(self.content, Node):
            return self.content.needs()
        return set() if self.previous is None else {self.previous}


@dataclass(eq=False)
class History:
    """What a deferred storage holds.

    Attributes:
        device: The one its tensors were made for.
        names_dtype: Whether the constructor named their dtype; if not, it is torch's default one or comes from it.
        head: The last write.
        key: A number of its own.
        live: Host memory that it shares with a NumPy array, so that either's writes are the other's; None as mostly.
        watched: Tensors that share version counters with those that people hold, and what these counters were.
        place: What passes for its address, once somebody has asked.
        whole: The outermost module that has its tensors, as a block has built it; for `blueprint`.
    """

    device: torch.device
    names_dtype: bool = False
    head: Version | None = None
    key: int = field(default_factory=_counter.__next__)
    live: torch.UntypedStorage | None = None
    watched: list[tuple[torch.Tensor, int]] = field(default_factory=list)
    place: int | None = None
    whole: weakref.ref[Any] | None = None

    def __post_init__(self) -> None:
        _alive.add(self)

    def watch(self, tensor: torch.Tensor) -> None:
        """Take a write to `tensor` that is not noted here, from now on, for one that was not seen."""
        stands_for_others = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__  # as a FakeTensor
        if not stands_for_others and not tensor.is_inference():  # which have no version counter
            counter = tensor.detach()
            # Without the storage, which has this history: what holds each other is never freed.
            blank = _blank(tensor.dtype, tensor.is_conj(), tensor.is_neg())
            torch._C.TensorBase.data.__set__(counter, blank)  # type: ignore[attr-defined]
            self.watched.append((counter, counter._version))

    def watch_on(self) -> None:
        """Take all that was written so far for seen."""
        self.watched = [(counter, counter._version) for counter, _ in self.watched]

    def was_written_unseen(self) -> bool:
        """Whether a version counter has moved since."""
        return any(counter._version != version for counter, version in self.watched)

    @staticmethod
    def of(tensor: object) -> History | None:
        """The history of a deferred tensor; None for any other object."""
        if not isinstance(tensor, torch.Tensor) or not tensor.is_meta or tensor.layout != torch.strided:
            return None
        try:
            return History.of_storage(tensor.untyped_storage())
        except (NotImplementedError, ValueError):  # inside vmap and its like, and of an uninitialized parameter
            return None

    @staticmethod
    def of_storage(storage: torch.UntypedStorage) -> History | None:
        """The history of a deferred storage; None for any other."""
        history: History | None = getattr(storage, _ATTRIBUTE, None)
        return history

    def address(self, nbytes: int) -> int:
        """What passes for the address of its memory, of `nbytes` bytes; no other's lies there."""
        global _next_address
        if self.place is None:
            with _PLACES:
                if self.place is None:
                    self.place = _next_address
                    _next_address += -(-nbytes // _PAGE) * _PAGE + _PAGE
        return self.place

    def begin(self, storage: torch.UntypedStorage) -> None:
        """Make it the history of a new meta storage."""
        setattr(storage, _ATTRIBUTE, self)

    def copied(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """A copy of the deferred storage that this is the history of."""
        copy = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta").untyped_storage()
        History(self.device, self.names_dtype, self.head).begin(copy)
        return copy

    def write(self, tensor: torch.Tensor, content: Content) -> Version:
        """Note that the elements of `tensor` now hold `content`."""
        view, nbytes = View.of(tensor), tensor.untyped_storage().nbytes()
        self.head = Version(None if view.fills(nbytes) else self.head, view, content, nbytes)
        return self.head

    def share(self, view: View, real: torch.Tensor) -> None:
        """Note that the storage is the memory of `real`, which shows `view` of it, from now on."""
        before = None if self.live is None else self.head
        self.live = real.untyped_storage()
        self.head = Version(before, view, real, self.live.nbytes())

    def write_pieces(self, tensor: torch.Tensor, pieces: list[Piece]) -> None:
        """Note that the elements of `tensor` now hold `pieces`, which cover it."""
        view, nbytes = View.of(tensor), tensor.untyped_storage().nbytes()
        if view.fills(nbytes):
            self.head = None
        for piece in pieces:
            self.head = Version(self.head, view.narrow(piece.box), piece.drawn, nbytes)


@lru_cache(maxsize=256)
def _blank(dtype: torch.dtype, conjugate: bool, negative: bool) -> torch.Tensor:
    """A tensor without elements, as it is outside of any mode, whichever it is asked for in."""
    with _disable_current_modes(), torch.inference_mode(False):
        return View((0,), (1,), 0, dtype, conjugate, negative).on(_NO_STORAGE)


def histories_alive() -> bool:
    """Whether there is any deferred storage."""
    return bool(_alive)


def slice_of(targets: list[Version]) -> tuple[set[Version], list[Version | Node]]:
    """What has to be done for `targets` to exist: the versions on the way, and the steps in their order."""
    pending, seen, steps = list(targets), set[Version](), set[Version | Node]()
    while pending:
        version = pending.pop()
        if version not in seen:
            seen.add(version)
            step = version.content if isinstance(version.content, Node) else version
            for each in (step, *step.checks) if isinstance(step, Node) else (step,):
                if each not in steps:
                    steps.add(each)
                    pending += each.needs()
    return seen, sorted(steps, key=lambda step: step.index)


def drawn_before(head: Version) -> Iterator[tuple[Draw | Node, Law | None]]:
    """What is drawn on the way to `head` and depends on the seed, in the order of the tape; with the law of a draw."""
    for step in slice_of([head])[1]:
        if isinstance(step, Node):
            if step.random and step.pinned is None:
                yield step, None
        elif isinstance(step.content, Drawn):
            draw = step.content.draw
            if draw is not None and draw.pinned is None:  # as it is by now: two versions may share it
                yield draw, step.content.law
