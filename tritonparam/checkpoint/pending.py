"""What of a target has no values yet and becomes real by a load: the deferred tensors of a module, or lazy ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from tritonparam.checkpoint.targets import Slot
from tritonparam.dtype import as_dtype
from tritonparam.module import Materialization, check_written, note_made, shown_by, surveyed, unguard
from tritonparam.parameter import Parameter
from tritonparam.plan import Box, checked_device
from tritonparam.tensor import Content, Tensor, empty, lazy_like, realize

Outs = Sequence[tuple[Slot, Box, torch.Tensor]]  # which box of the whole the memory holds


class Pending(Protocol):
    """Tensors without values: first all are written aside, then they become real."""

    @property
    def dtypes(self) -> Mapping[Slot, torch.dtype]:
        """The dtype that each tensor to load will have."""

    def write(self, seed: int) -> Sequence[Outs]:
        """Allocate all, write what is not loaded, and give the memory for what is: groups, to be written in order."""

    def become(self, seed: int) -> None:
        """Make all real, or none where one cannot be; the seed is noted.

        Raises:
            RuntimeError: Something outside holds on to one of them.
        """


def pending_of(
    target: object,
    loaded: Iterable[Slot],
    drawn: Iterable[Slot],
    device: torch.device | str | int | None,
    dtype: torch.dtype | None,
    backend: str | None,
) -> Pending:
    """The tensors of `target` that have no values yet.

    Args:
        target: As for `load`. Those of a module are deferred, all others lazy.
        loaded: The tensors that get their values from a checkpoint; those that are real are left out.
        drawn: Those without values that get the ones that they were declared with.
        device, dtype, backend: As for `load`.

    Raises:
        ValueError, ImportError: As for `load`.
    """
    loaded, drawn = [slot for slot in loaded if slot.values is None], list(drawn)
    if isinstance(target, torch.nn.Module) and (loaded or drawn):
        return _Deferred(target, loaded, drawn, device, dtype, backend)
    return _Lazy(loaded, drawn, device, dtype, backend)


class _Deferred:
    """The deferred tensors of a module; there is at least one."""

    def __init__(
        self,
        module: torch.nn.Module,
        loaded: Iterable[Slot],
        drawn: Iterable[Slot],
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        backend: str | None,
    ) -> None:
        self._module = module
        # By the declaration, and the id of what stands in the place of the tensor.
        self._slots = {(slot.declaration, id(slot.tensor)): slot for slot in loaded if slot.declaration is not None}
        self._loaded = dict.fromkeys(each for each, _ in self._slots)
        others = dict.fromkeys(slot.declaration for slot in drawn if slot.declaration is not None)
        shown = [each for each in self._loaded if each.tensors]
        check_written(each for each in others if each.stand_ins or not shown_by(each, shown))
        self._states = dict.fromkeys(self._loaded, "loaded") | dict.fromkeys(others, "initialized")
        is_sharded = any(each.stand_ins for each in self._states)
        self._survey = surveyed(module) if is_sharded else None
        whole = module if self._survey is None else self._survey.whole
        self._work = Materialization(whole, self._states, device, dtype, backend)
        made, placed = self._work.dtypes()
        self.dtypes = {
            slot: made[each] if slot.tensor is None else placed[id(slot.tensor)]
            for (each, _), slot in self._slots.items()
        }

    def write(self, seed: int) -> list[Outs]:
        self._work.write(seed, self._loaded.keys())
        groups = self._work.outs(self._loaded.keys())
        return [[(self._slots[each, id(mine)], box, out) for each, mine, box, out in group] for group in groups]

    def become(self, seed: int) -> None:
        self._work.take_over(self._module)
        note_made(self._module, self._states, seed=seed)
        unguard(self._module)
        if self._survey is not None:
            self._survey.settle()


class _Lazy:
    """Lazy Tensors and Parameters, or none. They have their keys, so no seed matters."""

    def __init__(
        self,
        loaded: Iterable[Slot],
        drawn: Iterable[Slot],
        device: torch.device | str | int | None,
        dtype: torch.dtype | None,
        backend: str | None,
    ) -> None:
        self._loaded = {slot: slot.lazy for slot in loaded if slot.lazy is not None}
        self._drawn = {slot: slot.lazy for slot in drawn if slot.lazy is not None}
        both = self._loaded | self._drawn
        self.dtypes = {slot: (dtype or slot.dtype) if slot.dtype.is_floating_point else slot.dtype for slot in both}
        self._device = checked_device(device, backend) if both else torch.device("cpu")
        self._backend = backend
        self._values: dict[Slot, torch.Tensor] = {}

    def write(self, seed: int) -> list[Outs]:
        outs = {slot: empty(slot.box.sizes, as_dtype(self.dtypes[slot]), self._device) for slot in self._loaded}
        drafts = {slot: lazy_like(lazy, as_dtype(self.dtypes[slot])) for slot, lazy in self._drawn.items()}
        # One that is lazy and a box already is drawn as it is.
        boxes = {draft: slot.box for slot, draft in drafts.items() if draft.shape == slot.shape}
        realize(drafts.values(), self._device, self._backend, boxes)
        self._values = outs | {slot: draft.torch for slot, draft in drafts.items()}
        return [[(slot, slot.box, out) for slot, out in outs.items()]]

    def become(self, seed: int) -> None:
        lazy = self._loaded | self._drawn
        done: list[tuple[Tensor, torch.Tensor, Content | None]] = []
        try:
            for slot, tensor in lazy.items():
                law = tensor._law
                # Another thread may have drawn it while it was read.
                blank = torch.empty(tensor.shape, dtype=slot.dtype, device="meta")
                before = tensor.torch.detach() if law is None else blank
                tensor._become(self._values[slot])
                done.append((tensor, before, law))
        except BaseException as error:
            for tensor, before, law in reversed(done):
                tensor._become(before)
                tensor._law = law
            if not isinstance(error, RuntimeError):
                raise
            raise RuntimeError(f"{slot.name} cannot become real in place: {error}") from error
        for slot, tensor in lazy.items():
            if isinstance(tensor, Parameter) and not slot.is_whole:
                tensor._within = (slot.box, slot.shape)
