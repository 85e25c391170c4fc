"""Which tensor of a checkpoint goes into which of a target, and whether it can."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tritonparam._arguments import shown
from tritonparam.checkpoint.casts import goes_into
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.matching.nested import Nested, agrees, nested
from tritonparam.checkpoint.staging import Move
from tritonparam.checkpoint.stored import Checkpoint, StoredTensor
from tritonparam.checkpoint.targets import Renaming, Slot, listed, rename
from tritonparam.plan import Box, check_memory, check_writable, is_a_run


@dataclass(frozen=True)
class LoadReport:
    """What `load` did, by name.

    Attributes:
        loaded: Tensors that have the values of the checkpoint.
        initialized: Tensors that were lazy or deferred, are not in the checkpoint, and were drawn instead.
        kept: Tensors that were real, are not in the checkpoint, and are as before.
        unexpected: Names of the checkpoint that nothing here goes by.
        conflicting: Tied tensors for whose names the checkpoint has different values; they have those of the first.

    Examples:
        >>> print(LoadReport(("a", "b"), ("head.weight",), (), ()))
        2 loaded, 1 initialized: head.weight
    """

    loaded: tuple[str, ...]
    initialized: tuple[str, ...]
    kept: tuple[str, ...]
    unexpected: tuple[str, ...]
    conflicting: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = ("initialized", "kept", "unexpected", "conflicting")
        rest = {what: names for what in kinds if (names := getattr(self, what))}
        told = [f"{len(names)} {what}: {listed(names)}" for what, names in rest.items()]
        return f"{len(self.loaded)} loaded" + (", " if told else "") + "; ".join(told)


class Match:
    """Which tensor of a checkpoint goes into which of a target; names, shapes and boxes have been compared.

    Attributes:
        found: The tensors to load, with what is stored of them.
        drawn: Those without values that are not loaded.
        kept: Those with values that are not loaded.
    """

    def __init__(self, slots: Sequence[Slot], stored: Checkpoint, mapping: Renaming, strict: bool) -> None:
        self._stored, self._strict = stored, strict
        self.found: dict[Slot, StoredTensor] = {}
        self._further: dict[Slot, list[StoredTensor]] = {}  # stored under the other names of a tensor
        self._followers: set[Slot] = set()  # that have the memory of another tensor
        self._nested: list[Nested] = []  # the first of each pair has the memory of the second
        self._conflicting: list[str] = []
        missing: list[Slot] = []
        lacking: list[str] = []
        unexpected = dict.fromkeys((*stored.tensors, *stored.unreadable))
        for slot, names in rename((slot for slot in slots if slot.expected), mapping).items():
            if len(names) == 1 and names[0] in unexpected and names[0] in stored.tensors:  # as nearly always
                del unexpected[names[0]]
                self.found[slot] = stored.tensors[names[0]]
                continue
            there = [name for name in dict.fromkeys(names) if name in unexpected]
            for name in there:
                del unexpected[name]
            held = [stored.tensors[name] for name in there if name in stored.tensors]
            if held:
                self.found[slot] = held[0]
                if held[1:]:
                    self._further[slot] = held[1:]
            elif there:
                lacking.append(f"{slot.name} is of the dtype {stored.unreadable[there[0]]}")
            else:
                missing.append(slot)
        others = [*missing, *(slot for slot in slots if not slot.expected)]
        self._take_tied(others)
        missing = [slot for slot in missing if slot not in self.found]
        self._unexpected = tuple(unexpected)
        if lacking:
            raise TypeError(f"{stored.path} has tensors that torch cannot hold: {listed(lacking)}")
        if strict:
            self._check_names(missing)
        self._check_shapes()
        self._check_cover()
        self.drawn = [slot for slot in others if slot.values is None and slot not in self.found]
        self.kept = [slot for slot in missing if slot.values is not None]

    @property
    def nbytes(self) -> int:
        """The bytes to read."""
        found = [(slot, tensor) for slot, tensor in self.found.items() if slot not in self._followers]
        in_one = sum(t.dtype.itemsize * math.prod(slot.box.sizes) for slot, t in found if slot.parts is None)
        return in_one + sum(t.dtype.itemsize * slot.numel for slot, t in found if slot.parts is not None)

    def _take_tied(self, lacking: Iterable[Slot]) -> None:
        """Let those that were tied to one that is found, until they were sharded, have what was found for that one."""
        severed = [slot for slot in lacking if slot.declaration is not None and slot.declaration.stand_ins]
        if severed:
            found = {slot.declaration: tensor for slot, tensor in self.found.items() if slot.declaration is not None}
            self.found.update((slot, found[slot.declaration]) for slot in severed if slot.declaration in found)

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
            lacking = tensor.uncovered(slot.box) if slot.parts is None else _uncovered(tensor, slot.boxes)
            if lacking is not None:
                raise CheckpointError(
                    f"{self._stored.path} has only parts of {shown(tensor.name)}: no file has its {str(lacking)[:300]}"
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

    def written(self, real: Iterable[tuple[Slot, torch.Tensor]]) -> list[tuple[Slot, torch.Tensor]]:
        """Those that are to be written: of tensors that are the same view of the same memory, the first.

        Raises:
            ValueError: One cannot be written to.
        """
        starts: dict[int, tuple[Slot, torch.Tensor]] = {}  # by address, at which there is hardly ever another
        views: dict[object, Slot] = {}  # where there is
        kept = []
        for slot, values in real:
            if not is_a_run(values):
                _check_writable(slot, values)
            if slot in self._followers:
                continue
            first, other = starts.setdefault(values.data_ptr(), (slot, values)) if values.numel() else (slot, values)
            if first is not slot:
                views.setdefault(_view(first, other), first)
                first = views.setdefault(_view(slot, values), slot)
            if first is slot:
                kept.append((slot, values))
            else:
                self._followers.add(slot)
                self._further.setdefault(first, []).extend((self.found[slot], *self._further.pop(slot, ())))
        return kept

    def find_nested(self) -> None:
        """Take tensors of a module that lie in others of it for parts of these, which are written once."""
        self._nested = nested(self.found)
        self._followers.update(pair.inner for pair in self._nested)

    def check_ties(self) -> None:
        """Compare what is stored under several names of one tensor, which takes reading it.

        Raises:
            ValueError: It differs, and `strict` is True.
        """
        told = []
        for slot, first in self.found.items() if self._further else ():
            others = self._further.get(slot, ())
            wrong = [
                other.name for other in others if not all(self._stored.same(first, other, box) for box in slot.boxes)
            ]
            if wrong:
                self._conflicting.append(slot.name)
                told.append(f"{first.name} and {listed(wrong, limit=3)}")
        for inner, outer, spot in self._nested:
            if not agrees(self._stored, self.found[inner], self.found[outer], spot):
                self._conflicting.append(inner.name)
                told.append(f"{self.found[outer].name} and its part {self.found[inner].name}")
        if told and self._strict:
            raise ValueError(
                f"{self._stored.path} has different values for names of one tensor: {listed(told)}. With strict=False, "
                "those of the first name are taken"
            )

    def moves(self, outs: Iterable[tuple[Slot, torch.Tensor]]) -> list[Move]:
        """What copies the values of real tensors, or of their boxes, to where they go; `written` has checked these."""
        moves = []
        for slot, out in outs:
            tensor = self.found[slot]
            if slot.parts is None and tensor.is_whole_in_one(slot.box):
                moves.append(Move(out, self._stored.view(tensor, tensor.saved[0], slot.box)))
                continue
            for box, place in ((slot.box, out),) if slot.parts is None else slot.parts:
                moves += self._parts(tensor, box, place)
        return moves

    def moves_to(self, outs: Iterable[tuple[Slot, Box, torch.Tensor]]) -> list[Move]:
        """The same for boxes of tensors that have no values yet, and the memory that is made for each."""
        moves = []
        for slot, box, out in outs:
            if slot in self._followers:
                continue
            _check_writable(slot, out)
            tensor = self.found[slot]
            if tensor.is_whole_in_one(box):
                moves.append(Move(out, self._stored.view(tensor, tensor.saved[0], box)))
            else:
                moves += self._parts(tensor, box, out)
        return moves

    def _parts(self, tensor: StoredTensor, box: Box, out: torch.Tensor) -> Iterator[Move]:
        for saved, part in tensor.parts(box):
            source = self._stored.view(tensor, saved, part)
            yield Move(out if part.sizes == box.sizes else part.within(box).of(out), source)

    def report(self) -> LoadReport:
        """The names of what was loaded, initialized and kept, once all is done."""
        loaded, drawn, kept = (tuple(slot.name for slot in slots) for slots in (self.found, self.drawn, self.kept))
        return LoadReport(loaded, drawn, kept, self._unexpected, tuple(self._conflicting))


def _uncovered(tensor: StoredTensor, boxes: Iterable[Box]) -> Box | None:
    """Some box within one of `boxes` that no file has; None where there is none."""
    return next((lacking for each in boxes if (lacking := tensor.uncovered(each)) is not None), None)


def _view(slot: Slot, values: torch.Tensor) -> object:
    """Which elements of which memory `values` are, as which box of a whole."""
    return values.device, values.data_ptr(), values.shape, values.stride(), values.dtype, slot.shape, tuple(slot.boxes)


def _check_writable(slot: Slot, values: torch.Tensor) -> None:
    try:
        if not check_memory("target", values).is_contiguous():
            check_writable("target", values)
    except ValueError as error:
        raise ValueError(f"{listed([slot.name])} cannot be written to: {error}") from None
