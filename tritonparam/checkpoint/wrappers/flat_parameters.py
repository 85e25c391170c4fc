"""FullyShardedDataParallel: which elements of which original parameters its flat parameters hold here, and where."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from tritonparam._arguments import shown
from tritonparam.plan import Box


class Flat(NamedTuple):
    """A tensor of a module that has flat parameters.

    Attributes:
        names: What it was called before the module was wrapped; more than one where it is tied.
        tensor: One that no flat parameter has, a buffer or an ignored parameter; else None.
        shape: Of the original parameter.
        values: The elements that this process holds of it: a view of the flat parameter, of one dimension.
        start: Of how many elements before them they come in row-major order.
        mine: Whether this process is the first of those that hold the same.
        persistent: Whether it is saved.
    """

    names: tuple[str, ...]
    tensor: torch.Tensor | None
    shape: tuple[int, ...] = ()
    values: torch.Tensor = torch.empty(0)
    start: int = 0
    mine: bool = True
    persistent: bool = True

    def parts(self) -> list[tuple[Box, torch.Tensor]]:
        """The boxes of the original that `values` are, each with its view of them."""
        found, at = [], 0
        for box in boxes_of_run(self.shape, self.start, self.values.numel()):
            count = math.prod(box.sizes)
            found.append((box, self.values[at : at + count].view(box.sizes)))
            at += count
        return found


def boxes_of_run(shape: Sequence[int], start: int, count: int) -> list[Box]:
    """The fewest boxes that are, one after the other, `count` elements of a tensor in row-major order from `start` on.

    Examples:
        >>> [(box.offsets, box.sizes) for box in boxes_of_run((4, 3), 2, 8)]
        [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
        >>> boxes_of_run((2, 3), 0, 6)
        [Box(offsets=(0, 0), sizes=(2, 3))]
    """
    if not count:
        return []
    return [Box(offsets, sizes) for offsets, sizes in _cut(tuple(shape), start, start + count)]


def _cut(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    if len(shape) < 2:
        yield (start,) * len(shape), (stop - start,) * len(shape)
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if start < first * row:
        end = min(stop, first * row)
        for offsets, sizes in _cut(shape[1:], start - (first - 1) * row, end - (first - 1) * row):
            yield (first - 1, *offsets), (1, *sizes)
    if first < last:
        yield (first, *(0,) * (len(shape) - 1)), (last - first, *shape[1:])
    if first <= last and last * row < stop:
        for offsets, sizes in _cut(shape[1:], 0, stop - last * row):
            yield (last, *offsets), (1, *sizes)


def flat_tensors(module: torch.nn.Module) -> list[Flat] | None:
    """The tensors of a module parts of which are in FullyShardedDataParallel; None where none are.

    Nothing is communicated, and nothing gathered.

    Raises:
        ValueError: A flat parameter is gathered just now, or made of DTensors, or not what torch says of it; the error
            names the remedy.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # where nobody has imported it, nothing is wrapped in it
    kind = getattr(fsdp, "FullyShardedDataParallel", None)
    if kind is None or not any(isinstance(each, kind) for each in module.modules()):
        return None
    found: list[Flat] = []
    managed: set[tuple[int, str]] = set()
    for name, each in module.named_modules():
        handle = getattr(each, "_handle", None) if isinstance(each, kind) else None
        if handle is not None:
            try:
                found += _of_handle(handle, _clean(name), each, managed)
            except (AttributeError, TypeError) as error:
                raise ValueError(
                    f"target must hold flat parameters as this version knows them, and torch {torch.__version__} says "
                    f"other things of {shown(name)} ({error}); save or load "
                    "torch.distributed.checkpoint.state_dict.get_model_state_dict(module) instead"
                ) from None
    others: dict[int, Flat] = {}
    for name, each in module.named_modules():
        for group, kept in ((each._parameters, set[str]()), (each._buffers, each._non_persistent_buffers_set)):
            for local, tensor in group.items():
                if tensor is None or (id(each), local) in managed or local == "_flat_param":
                    continue
                own = _clean(f"{name}.{local}" if name else local)
                before = others[id(tensor)].names if id(tensor) in others else ()
                others[id(tensor)] = Flat((*before, own), tensor, persistent=local not in kept)
    return found + list(others.values())


def _of_handle(handle: Any, prefix: str, wrapper: Any, managed: set[tuple[int, str]]) -> Iterator[Flat]:
    """The parameters that a flat one has; where its module names them is added to `managed`."""
    flat = handle.flat_param
    local = getattr(flat, "_local_shard", flat).detach()
    if handle.uses_sharded_strategy and not handle.is_sharded(flat.detach()):
        raise ValueError(
            f"target must be sharded, and the parameters of {shown(prefix or 'the module itself')} are gathered; leave "
            "summon_full_params, and finish the backward pass, first"
        )
    if any(each is not None for each in flat._param_extensions):
        raise ValueError(
            f"target must hold flat parameters of plain tensors, and those of {shown(prefix or 'the module itself')} "
            "are of DTensors; over tensor parallelism use fully_shard instead of FullyShardedDataParallel"
        )
    replicas = getattr(wrapper, "_inter_node_pg", None)
    mine = replicas is None or torch.distributed.get_rank(replicas) == 0
    further: dict[tuple[int, str], list[str]] = {}
    for name, owner, path, own_name, own_owner, _ in flat._shared_param_infos:
        further.setdefault((id(own_owner), own_name), []).append(_clean(f"{path}.{name}" if path else name))
        managed.add((id(owner), name))
    rows = zip(flat._param_infos, flat._fqns, flat._shapes, flat._shard_param_infos, strict=True)
    for (name, owner, _), path, shape, info in rows:
        managed.add((id(owner), name))
        names = [_clean(path), *further.get((id(owner), name), ())]
        if prefix:
            names = [f"{prefix}.{each}" for each in names]
        at, count, start = (
            (info.offset_in_shard, info.numel_in_shard, info.intra_param_start_idx) if info.in_shard else (0, 0, 0)
        )
        values = local.reshape(-1)[at : at + count]
        if handle.uses_sharded_strategy or info.in_shard:
            _check_shown(owner, name, values, names[0])
        if not handle.uses_sharded_strategy:
            mine = torch.distributed.get_rank(handle.process_group) == 0
        yield Flat(tuple(names), None, tuple(shape), values, start, mine)


def _check_shown(owner: torch.nn.Module, name: str, values: torch.Tensor, full: str) -> None:
    """With use_orig_params, the module has views of the flat parameter, unless somebody has replaced one."""
    shown_here = owner._parameters.get(name)
    if shown_here is not None and values.numel() and shown_here.data_ptr() != values.data_ptr():
        raise ValueError(
            f"target must hold its flat parameters' own values, and those of {shown(full)} were replaced; run a "
            "forward pass, which takes them over"
        )


def _clean(name: str) -> str:
    """A name without what wrappers put between."""
    for part in ("_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        name = name.replace(f"{part}.", "").removesuffix(f".{part}")
        name = "" if name == part else name
    return name
