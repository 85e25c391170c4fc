"""Placing: what stands in the place of deferred tensors, as DTensors do, gets the boxes of them that are held here.

No process writes, or allocates, more than its boxes; none communicates. Only a tensor without laws is made whole for
a moment, on the host, one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tritonparam._arguments import got
from tritonparam.module.blueprint import mark_ours, mark_written
from tritonparam.module.declaration import Declaration
from tritonparam.plan import Box, Fill, View, ask_for_huge_pages
from tritonparam.tensor import Held, is_dtensor, mesh_boxes


@dataclass(eq=False, slots=True)
class Placed:
    """A tensor that stands in the place of a deferred one, and what becomes of it.

    Attributes:
        declaration: What it is to hold.
        mine: It.
        held: Which boxes this process holds.
        dtype, device: What the tensor will have.
        local: The memory of the boxes, once there is some: of a DTensor, its local tensor.
    """

    declaration: Declaration
    mine: Any
    held: Sequence[Held]
    dtype: torch.dtype
    device: torch.device
    local: torch.Tensor | None = field(default=None)

    @property
    def is_in_place(self) -> bool:
        """Whether it has memory of its own, in which nothing is yet, as it is to be."""
        return not self.mine.is_meta and (self.mine.dtype, _local_of(self.mine).device) == (self.dtype, self.device)

    @property
    def nbytes(self) -> int:
        """The bytes of what this process holds."""
        return _local_of(self.mine).numel() * self.dtype.itemsize

    def allocate(self) -> torch.Tensor:
        """Give it memory, if it has none."""
        if self.local is None:
            plain = _local_of(self.mine)
            if self.is_in_place:
                mark_ours(self.mine)
                # As a tensor of its own, so that what is written counts as values only once `settle` says so.
                self.local = View.of(plain).on(plain.untyped_storage())
            else:
                made = torch.empty_strided(plain.shape, plain.stride(), dtype=self.dtype, device=self.device)
                self.local = ask_for_huge_pages(made)
        return self.local

    def parts(self) -> list[tuple[Box, torch.Tensor]]:
        """The boxes that this process holds, each with the memory that its values go to."""
        local = self.allocate()
        return [(each.box, each.place.of(local)) for each in self.held]

    def settle(self) -> None:
        """Take note that the values are there, once all of them are."""
        mark_written(self.mine)

    def fills(self, seed: int) -> list[Fill]:
        """What writes the values, where all of them have laws."""
        return [fill for box, out in self.parts() for fill in self.declaration.fills(out, seed, box)]

    def take_from(self, whole: torch.Tensor) -> None:
        """Take the boxes from a tensor that is all of it."""
        for box, out in self.parts():
            out.copy_(box.of(whole))

    def made(self) -> torch.Tensor | None:
        """The tensor, in nobody's hands yet, that it becomes; None where it has the values already."""
        if self.is_in_place:
            return None
        local, mine = self.allocate(), self.mine
        if not is_dtensor(mine):
            plain: torch.Tensor = torch.Tensor._make_subclass(type(mine), local, mine.requires_grad)
            return plain
        spec = copy.copy(mine._spec)
        spec.tensor_meta = spec.tensor_meta._replace(dtype=self.dtype)
        # from_local would move what is on the host to the device of the mesh.
        made: torch.Tensor = type(mine)(local, spec, requires_grad=mine.requires_grad)
        return made


def placed_for(
    declared: Iterable[Declaration],
    device: torch.device | None,
    dtype: torch.dtype | None,
    on_host: Collection[int] = (),
) -> list[Placed]:
    """What stands in the place of deferred tensors.

    Args:
        declared: What a module declares.
        device: Where what is on the meta device goes; None for the device of its mesh, or the one that the deferred
            tensor was made for.
        dtype: As for `materialize`; None for the dtype that each tensor has now.
        on_host: The ids of tensors of a mesh that are to be on the host.

    Raises:
        ValueError: A placement is neither a shard nor a replica; or the device is none of a mesh.
    """
    return [
        Placed(each, mine, held_of(each, mine), *_options(each, mine, device, dtype, on_host))
        for each in declared
        for mine in each.stand_ins
    ]


def write_placed(placed: Iterable[Placed], seed: int) -> tuple[list[Fill], int]:
    """Give all their memory; write what has no laws, and say what writes the rest, and how many there were without."""
    fills: list[Fill] = []
    replayed = 0
    for each in placed:
        each.allocate()
        if each.held and each.declaration.laws is None:
            each.take_from(each.declaration.replay(seed))
            replayed += 1
        elif each.held:
            fills += each.fills(seed)
    return fills, replayed


def offloaded(modules: Iterable[torch.nn.Module]) -> set[int]:
    """The ids of the tensors of `modules` that fully_shard keeps on the host, whatever the device of their mesh."""
    found = set()
    for module in modules:
        state_of: Any = getattr(module, "_get_fsdp_state", None)
        if not callable(state_of):
            continue
        state = state_of()
        # Several, where parameters of one module are on different meshes; torch up to 2.10 has one.
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for each in (each for group in groups for each in getattr(group, "fsdp_params", ())):
            if getattr(each, "offload_to_cpu", False):
                found.add(id(each.sharded_param))
    return found


def _local_of(tensor: Any) -> torch.Tensor:
    with torch.no_grad():
        local: torch.Tensor = tensor.to_local() if is_dtensor(tensor) else tensor.detach()
        return local


def held_of(declaration: Declaration, mine: Any) -> list[Held]:
    """Which boxes of a tensor this process holds in `mine`, which stands in its place.

    Raises:
        ValueError: A placement is neither a shard nor a replica.
    """
    whole = Box.whole(declaration.shape)
    if not is_dtensor(mine):
        return [Held(whole, whole)] if declaration.view.numel else []
    if mine.device_mesh.get_coordinate() is None:  # this process holds nothing
        return []
    layout = mine.device_mesh, tuple(mine.placements)
    try:
        return mesh_boxes(layout, declaration.shape, local=tuple(_local_of(mine).shape))
    except ValueError as error:
        raise ValueError(f"{declaration.name} holds no boxes of a tensor: {error}") from None


def _options(
    declaration: Declaration,
    mine: Any,
    device: torch.device | None,
    dtype: torch.dtype | None,
    on_host: Collection[int],
) -> tuple[torch.dtype, torch.device]:
    chosen = mine.dtype if dtype is None else declaration.dtype_in(dtype)
    if not mine.is_meta and device is None:
        return chosen, _local_of(mine).device
    if not is_dtensor(mine):
        made_for = torch.device("cpu") if declaration.history is None else declaration.history.device
        return chosen, device or made_for
    kind = mine.device_mesh.device_type
    if device is not None and device.type not in (kind, "cpu"):
        raise ValueError(f"device must be of the mesh of {declaration.name}, {kind}, or the host, {got(device)}")
    if device is None:
        device = torch.device("cpu" if id(mine) in on_host else kind)
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
    return chosen, device
