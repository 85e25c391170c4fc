"""The clone buffer: storage of many tensors that is one allocation, though each can be saved, moved and freed alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tritonparam.dtype import DType
from tritonparam.plan import ask_for_huge_pages, is_deferred
from tritonparam.tensor import empty

ALIGNMENT = 256  # bytes
# Asked for by the base of the class, which torch's own `__getitem__` calls too, at a third of the time.
_slice: Callable[[Any, Any], Any] = torch._C.StorageBase.__getitem__  # type: ignore[misc]
_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


def clone_buffer(
    wanted: Sequence[tuple[tuple[int, ...], DType]], device: torch.device, grads: Sequence[bool] | None = None
) -> list[torch.Tensor]:
    """Contiguous tensors of these shapes and dtypes, not written, that lie one behind the other in one allocation.

    Each starts at an address that is a multiple of 256 and has a storage of its own, of exactly its bytes: it is no
    view to autograd, and `torch.save`, pickle, `copy.deepcopy` and safetensors take its bytes and no more. The
    allocation lives as long as the last of the storages. One tensor alone, and those without elements, are plain ones.

    What does not work, because the storages are not what torch's allocators made: they cannot be resized
    (`resize_` to more elements, `untyped_storage().resize_`), on CUDA `record_stream` does nothing (a tensor that
    another stream uses must be kept until that is done), and CUDA tensors cannot be sent to another process
    by `torch.multiprocessing`, which asks the allocator for them; their `clone()` can. `share_memory_()` works, and
    takes the one tensor out of the allocation.

    Args:
        wanted: The shape and dtype of each.
        device: Where they are to be.
        grads: Of each, whether it requires a gradient: floats become `torch.nn.Parameter`s. None for plain tensors.

    Examples:
        >>> from tritonparam.dtype import bfloat16, float32
        >>> one, other = clone_buffer([((3,), bfloat16), ((2, 2), float32)], torch.device("cpu"))
        >>> other.data_ptr() - one.data_ptr(), other.untyped_storage().nbytes()
        (256, 16)
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
    if len(sizes) - sizes.count(0) < 2:
        return _alone(wanted, device, grads)
    starts = list(itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
    with torch.inference_mode(False):
        buffer = ask_for_huge_pages(torch.empty(starts[-1] + ALIGNMENT - 1, dtype=torch.uint8, device=device))
        if buffer.is_meta or is_deferred(buffer):
            return _alone(wanted, device, grads)
        first, whole = -buffer.data_ptr() % ALIGNMENT, buffer.untyped_storage()
        # A slice of a storage is a storage of these bytes alone, and keeps the whole alive.
        spans = [slice(first + start, first + start + size) for start, size in zip(starts[:-1], sizes, strict=True)]
        storages = [_slice(whole, span) for span in spans]
        wants: Sequence[bool | None] = grads or [None] * len(sizes)
        blanks: dict[torch.dtype, torch.Tensor] = {}
        made: list[torch.Tensor] = []
        # Not as views of the blank ones, whose count of changes they would share.
        with torch._C._ExcludeDispatchKeyGuard(_VIEWS), torch._C._AutoDispatchBelowAutograd():
            for storage, size, each, grad in zip(storages, sizes, wanted, wants, strict=True):
                dtype = each[1].torch
                if not size:
                    made += _alone([each], device, None if grad is None else [grad])
                    continue
                blank = blanks.get(dtype)
                if blank is None:
                    blank = blanks[dtype] = torch.empty(0, dtype=dtype, device=device)
                if grad is None or not dtype.is_floating_point:
                    out = blank.new_empty(0)
                else:
                    out = torch.Tensor._make_subclass(torch.nn.Parameter, blank, grad)
                made.append(out.set_(storage, 0, each[0]))  # type: ignore[call-overload]
    return made


def _alone(
    wanted: Sequence[tuple[tuple[int, ...], DType]], device: torch.device, grads: Sequence[bool] | None
) -> list[torch.Tensor]:
    plain = [empty(shape, dtype, device) for shape, dtype in wanted]
    if grads is None:
        return plain
    pairs = zip(plain, grads, strict=True)
    return [torch.nn.Parameter(out, grad) if out.is_floating_point() else out for out, grad in pairs]
