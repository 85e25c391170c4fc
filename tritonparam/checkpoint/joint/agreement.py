"""What processes compare before they load one model: of each tensor, where its values come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from tritonparam.checkpoint.stored import Checkpoint, StoredTensor
from tritonparam.checkpoint.targets import Slot
from tritonparam.module import Facts, fact, facts_of
from tritonparam.stream import Law
from tritonparam.tensor import Tensor

_SAMPLE = 64  # bytes of a tensor that stand for its values


def facts_of_load(
    stored: Checkpoint,
    found: Mapping[Slot, StoredTensor],
    drawn: Iterable[Slot],
    kept: Iterable[Slot],
    dtypes: Mapping[Slot, torch.dtype],
    dtype: torch.dtype | None,
) -> Facts:
    """What is compared of each tensor, by all its names.

    Args:
        stored: The checkpoint. Processes may have it under different paths.
        found: The tensors to load, with what is stored of them.
        drawn: Those without values that are not loaded.
        kept: Those that stay as they are.
        dtypes: What those to load will have that have no values yet; the others keep theirs.
        dtype: As for `load`.
    """
    facts: Facts = {name: None for slot in kept for name in slot.names}
    for slot, tensor in found.items():
        own = fact(dtypes.get(slot, slot.dtype), slot.shape, _origin(stored, tensor))
        facts |= dict.fromkeys(slot.names, own)
    for slot in drawn:
        if slot.lazy is not None:
            facts |= dict.fromkeys(slot.names, fact(dtype or slot.dtype, slot.shape, _drawn(slot.lazy)))
    declared = (slot.declaration for slot in drawn if slot.declaration is not None)
    return facts | facts_of({each: each.dtype_in(dtype) for each in declared}, ())


def _drawn(lazy: Tensor) -> bytes:
    """Key and law of a lazy tensor, or the kind of its pattern, which may have no words that are equal everywhere."""
    law = lazy._law
    return repr((lazy._key, law if isinstance(law, Law) else type(law).__qualname__)).encode()


def _origin(stored: Checkpoint, tensor: StoredTensor) -> bytes:
    """Name, dtype and boxes of a stored tensor, and the first bytes of the first box that has some."""
    saved = sorted(tensor.saved, key=lambda each: (each.box.offsets, each.box.sizes))
    said = repr((tensor.name, tensor.dtype, tensor.shape, [each.box for each in saved])).encode()
    for each in saved:
        if 0 not in each.box.sizes:
            values = stored.view(tensor, each, each.box).reshape(-1)[: _SAMPLE // tensor.dtype.itemsize]
            return said + values.view(torch.uint8).numpy().tobytes()
    return said
