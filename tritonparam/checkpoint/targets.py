"""Targets: the tensors that `load` writes and `save` reads, whatever they are held by, and which box of which whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tritonparam._arguments import got, shown
from tritonparam.checkpoint.stored import whole_box
from tritonparam.checkpoint.wrappers import Flat, check_sharded, flat_tensors
from tritonparam.module import Declaration, History, declared, held_of
from tritonparam.parameter import Parameter, ParameterTuple
from tritonparam.plan import CAST_DTYPES, Box
from tritonparam.tensor import Tensor, box_of, is_dtensor, mesh_boxes

Target = (
    torch.nn.Module
    | Tensor
    | Iterable[Parameter]
    | Mapping[str, Tensor]
    | Mapping[str, torch.Tensor]
    | Mapping[str, Any]
)
Layout = tuple[Any, ...] | Box
Layouts = Layout | Mapping[str, Layout] | None
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # which are no DTensors
_LONGEST = 160  # characters of one thing that is listed; there is room for two, and for two such lists
Renaming = Mapping[str, str] | Callable[[str], str] | None


@dataclass(eq=False, slots=True)
class Slot:
    """One tensor of a target.

    Attributes:
        names: Its name and, of tied ones, the further ones; of a module, those that its state dict has if it has one.
        shape: Of the whole.
        box: Which box of the whole is held here, or will be; of several, the smallest that they all lie in.
        dtype: The dtype it has, or was declared with.
        values: The real local tensor, of the shape of the box; None where there is none yet.
        parts: Where what is held is several boxes, or `values` is not of the shape of the box: the boxes, each with its
            view of `values`, or of the tensor without values that stands in their place. Else None.
        lazy: The lazy Tensor or Parameter.
        declaration: What a deferred tensor of a module is to hold.
        tensor: The DTensor that it is; or what stands in the place of the deferred tensor, as a DTensor does.
        expected: Whether a checkpoint is to have it.
        mine: Whether this process is the one to write it; None where others may hold the same and nobody knows.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    box: Box
    dtype: torch.dtype
    values: torch.Tensor | None = None
    lazy: Tensor | None = None
    declaration: Declaration | None = None
    tensor: Any = None
    expected: bool = True
    mine: bool | None = None
    parts: list[tuple[Box, torch.Tensor]] | None = None

    @property
    def mesh(self) -> Any:
        """The device mesh of a DTensor; None of others."""
        return getattr(self.tensor, "device_mesh", None)

    @property
    def boxes(self) -> list[Box]:
        """The boxes of the whole that are held here, or will be."""
        return [self.box] if self.parts is None else [box for box, _ in self.parts]

    def pieces(self) -> list[tuple[Box, torch.Tensor]]:
        """The boxes that are held here, with their values; none where there are none yet."""
        if self.parts is not None:
            return self.parts
        return [] if self.values is None else [(self.box, self.values)]

    @property
    def numel(self) -> int:
        """How many elements are held here, or will be."""
        return sum(math.prod(box.sizes) for box in self.boxes)

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def is_whole(self) -> bool:
        """Whether all of the tensor is held here."""
        return self.box == whole_box(self.shape) and len(self.boxes) == 1


def slots_of(target: Any) -> list[Slot]:
    """The tensors of `target`, each once, in its order.

    Raises:
        TypeError: target is nothing that holds tensors.
        ValueError: Two Parameters have one name, a tensor has no values and nothing that says which it should have, or
            parameters that are sharded are gathered just now.
    """
    if isinstance(target, torch.nn.Module):
        check_sharded(target)
        flat = flat_tensors(target)
        if flat is not None:
            return [_flat_slot(each) for each in flat]
        return [slot for each in declared(target) for slot in _declared_slots(each)]
    if isinstance(target, Mapping):
        return _mapped_slots(target)
    if isinstance(target, Parameter):
        target = (target,)
    if isinstance(target, (torch.Tensor, Tensor, str)) or not isinstance(target, Iterable):
        raise TypeError(
            "target must be a torch.nn.Module, a Parameter, an iterable of Parameters or a mapping from names to "
            f"Parameters and torch tensors, {got(target)}"
        )
    members = ParameterTuple(target)
    return [_tensor_slot((each.name,), each) for each in {id(each): each for each in members}.values()]


def _mapped_slots(target: Mapping[Any, Any]) -> list[Slot]:
    slots: dict[int, Slot] = {}
    for name, tensor in dict(target).items():  # a dict keeps them all, so that no two have one id
        if not isinstance(name, str) or not isinstance(tensor, (torch.Tensor, Tensor)):
            raise TypeError(
                f"target must map names to Parameters and torch tensors, got {shown(name)}: {shown(tensor)} of type "
                f"{type(tensor).__name__[:100]}"
            )
        slot = slots.get(id(tensor))
        if slot is None:
            slots[id(tensor)] = _tensor_slot((name,), tensor)
        else:
            slot.names = (*slot.names, name)
    return list(slots.values())


def _declared_slots(each: Declaration) -> list[Slot]:
    """The slot of what is declared, or one for each tensor that stands in its place: sharding may sever ties."""
    names = each.saved_names or (each.name, *each.aliases)
    if each.history is None:
        slot = _tensor_slot(names, each.tensors[0])
        slot.expected = each.persistent
        return [slot]
    if not each.stand_ins:
        return [_deferred_slot(names, each)]
    stood_for = set().union(*each.stood_for)
    own = tuple(name for name in names if name not in stood_for)
    slots = [_deferred_slot(own, each)] if each.tensors else []
    for stand_in, all_names in zip(each.stand_ins, each.stood_for, strict=True):
        saved = tuple(name for name in all_names if name in names)
        slots.append(_stand_in_slot(saved or all_names, each, stand_in, each.persistent and bool(saved)))
    return slots


def _deferred_slot(names: tuple[str, ...], each: Declaration) -> Slot:
    expected = each.persistent and bool(names)
    return Slot(
        names or (each.name,), each.shape, Box.whole(each.shape), each.dtype, declaration=each, expected=expected
    )


def _stand_in_slot(names: tuple[str, ...], each: Declaration, stand_in: Any, expected: bool) -> Slot:
    try:
        held = held_of(each, stand_in)
    except ValueError as error:
        raise ValueError(f"target must hold boxes of tensors: {error}") from None
    box = _around(each.shape, [part.box for part in held])
    slot = Slot(names, each.shape, box, stand_in.dtype, declaration=each, tensor=stand_in, expected=expected)
    if len(held) != 1:
        local = stand_in.detach().to_local() if is_dtensor(stand_in) else stand_in.detach()
        slot.parts = [(part.box, part.place.of(local)) for part in held]
    return slot


def _tensor_slot(names: tuple[str, ...], tensor: Tensor | torch.Tensor) -> Slot:
    if isinstance(tensor, Tensor):
        storage = tensor._torch
        shape = tuple(storage.shape)
        box = whole_box(shape)
        if isinstance(tensor, Parameter) and tensor._within is not None:
            shape, box = tensor.global_shape, tensor.box
        dtype = storage.dtype if storage.dtype in CAST_DTYPES else tensor.dtype.torch
        if tensor._law is not None:
            return Slot(names, shape, box, dtype, lazy=tensor)
        return Slot(names, shape, box, dtype, storage.detach())
    if type(tensor) not in _PLAIN and is_dtensor(tensor):
        return _dtensor_slot(names, tensor)
    if tensor.is_meta:
        what = (
            "is deferred: it goes with its module" if History.of(tensor) else "has no values: it is on the meta device"
        )
        raise ValueError(f"target must hold tensors with values, and {shown(names[0])} {what}")
    shape = tuple(tensor.shape)
    return Slot(names, shape, whole_box(shape), tensor.dtype, tensor.detach())


def _dtensor_slot(names: tuple[str, ...], tensor: Any) -> Slot:
    shape, mesh, placements = tuple(tensor.shape), tensor.device_mesh, tuple(tensor.placements)
    local = tensor.detach().to_local()
    coordinate = mesh.get_coordinate()
    if coordinate is None:  # this process is not in the mesh and holds nothing
        return Slot(
            names,
            shape,
            Box((0,) * len(shape), (0,) * len(shape)),
            tensor.dtype,
            values=local,
            mine=False,
            tensor=tensor,
        )
    try:
        held = mesh_boxes((mesh, placements), shape, local=tuple(local.shape))
    except ValueError as error:
        raise ValueError(f"target must hold boxes of tensors, and {shown(names[0])} has none: {error}") from None
    first = all(not each.is_replicate() or not at for each, at in zip(placements, coordinate, strict=True))
    if 0 in shape:  # then all hold all of it
        return Slot(
            names, shape, whole_box(shape), tensor.dtype, values=local.new_empty(shape), mine=first, tensor=tensor
        )
    if len(held) == 1:
        return Slot(names, shape, held[0].box, tensor.dtype, values=local, mine=first, tensor=tensor)
    parts = [(each.box, each.place.of(local)) for each in held]
    around = _around(shape, [each.box for each in held])
    return Slot(names, shape, around, tensor.dtype, values=local, mine=first, tensor=tensor, parts=parts)


def _flat_slot(each: Flat) -> Slot:
    if each.tensor is not None:
        slot = _tensor_slot(each.names, each.tensor)
        slot.expected = each.persistent
        return slot
    if each.values.is_meta:
        raise ValueError(f"target must hold tensors with values, and {shown(each.names[0])} is on the meta device")
    whole = whole_box(each.shape)
    if each.values.numel() == math.prod(each.shape):
        values = each.values.view(each.shape)
        return Slot(each.names, each.shape, whole, each.values.dtype, values=values, mine=each.mine)
    parts = each.parts()
    box = _around(each.shape, [box for box, _ in parts])
    return Slot(each.names, each.shape, box, each.values.dtype, values=each.values, mine=each.mine, parts=parts)


def _around(shape: tuple[int, ...], boxes: list[Box]) -> Box:
    """The smallest box that all of `boxes` lie in."""
    if not boxes:
        return Box((0,) * len(shape), (0,) * len(shape))
    lows = [min(each) for each in zip(*(box.offsets for box in boxes), strict=True)]
    ends = ([o + n for o, n in zip(box.offsets, box.sizes, strict=True)] for box in boxes)
    highs = [max(each) for each in zip(*ends, strict=True)]
    return Box(tuple(lows), tuple(high - low for low, high in zip(lows, highs, strict=True)))


def lay_slots(slots: Iterable[Slot], layouts: Any, rank: int | None) -> None:
    """Give lazy tensors the boxes that `layouts` says.

    Raises:
        TypeError: layouts is of another type, or a layout is.
        ValueError: It names what is not there, a box does not lie in its tensor or a layout does not go with it, or a
            tensor that is real already is another box; or rank is given without layouts.
    """
    if layouts is None:
        if rank is not None:
            raise ValueError(f"rank goes with layouts; without them it must be None, got {shown(rank)}")
        return
    by_name = {name: slot for slot in slots for name in slot.names}
    if isinstance(layouts, Mapping):
        lost = [name for name in layouts if name not in by_name]
        if lost:
            raise ValueError(f"layouts must name tensors of target, got {listed(lost)}")
        wanted = {by_name[name]: layout for name, layout in layouts.items()}
    else:
        wanted = {slot: layouts for slot in by_name.values() if slot.lazy is not None}
    for slot, layout in wanted.items():
        try:
            box = layout if isinstance(layout, Box) else box_of(layout, slot.shape, rank)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layouts, for {shown(slot.name)}: {error}") from None
        if not box.lies_in(slot.shape):
            raise ValueError(f"layouts must be boxes of {shown(slot.name)}, of shape {slot.shape}, got {shown(box)}")
        if (not isinstance(slot.lazy, Parameter) or not slot.is_whole) and box != slot.box:
            raise ValueError(
                f"layouts must be for whole lazy Parameters; {shown(slot.name)} is none, and is not {shown(box)}"
            )
        slot.box = box


def rename(slots: Iterable[Slot], mapping: Any) -> dict[Slot, tuple[str, ...]]:
    """What `mapping` calls each tensor in the checkpoint: as many names as it has here.

    Raises:
        TypeError: mapping is neither a mapping nor a function, or gives what is no string.
        ValueError: It gives two tensors one name.
    """
    if mapping is not None and not isinstance(mapping, Mapping) and not callable(mapping):
        raise TypeError(f"mapping must be a mapping or a function from names to names, {got(mapping)}")
    renamed: dict[Slot, tuple[str, ...]] = {}
    owners: dict[str, Slot] = {}
    for slot in slots:
        if mapping is None and len(slot.names) == 1 and slot.names[0] not in owners:
            renamed[slot], owners[slot.names[0]] = slot.names, slot
            continue
        names = slot.names if mapping is None else tuple(_renamed(name, mapping) for name in slot.names)
        renamed[slot] = names
        for other in names:
            owner = owners.setdefault(other, slot)
            if owner is not slot:
                name = slot.names[names.index(other)]
                raise ValueError(
                    f"mapping must give tensors different names, got {shown(other)} for {shown(owner.name)} and "
                    f"{shown(name)}"
                )
    return renamed


def _renamed(name: str, mapping: Any) -> str:
    other = mapping.get(name, name) if isinstance(mapping, Mapping) else mapping(name)
    if not isinstance(other, str):
        raise TypeError(f"mapping must give strings, got {shown(other)} for {shown(name)}")
    return other


def listed(names: Iterable[str], limit: int = 10) -> str:
    """The first few of `names`, as far as a message has room for them, and how many more there are.

    Examples:
        >>> listed(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    names = list(names)
    told: list[str] = []
    for each in names[:limit]:
        name = each if len(each) <= _LONGEST else f"{each[:_LONGEST]}..."
        if told and sum(map(len, told)) + len(name) > 2 * _LONGEST:
            break
        told.append(name)
    more = f" and {len(names) - len(told)} more" if len(names) > len(told) else ""
    return ", ".join(told) + more
