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
_slice: Callable[[Any, Any], Any] = torch._C.StorageBase.__getitem__  # type: ignore[misc]


def clone_buffer(wanted: Sequence[tuple[tuple[int, ...], DType]], device: torch.device) -> list[torch.Tensor]:
    """Contiguous tensors of these shapes and dtypes, not written, that lie one behind the other in one allocation.

    Each starts at an address that is a multiple of 256 and has a storage of its own, of exactly its bytes: it is no
    view to autograd, and `torch.save`, pickle, `copy.deepcopy` and safetensors take its bytes and no more. The
    allocation lives as long as the last of the storages. One tensor alone, and those without elements, are plain ones.

    What does not work, because the storages are not what torch's allocators made: they cannot be resized
    (`resize_` to more elements, `untyped_storage().resize_`), on CUDA `record_stream` does nothing (a tensor that
    another stream uses must be kept until that is done), and CUDA tensors cannot be sent to another process
    by `torch.multiprocessing`, which asks the allocator for them; their `clone()` can. `share_memory_()` works, and
    takes the one tensor out of the allocation.

    Examples:
        >>> from tritonparam.dtype import bfloat16, float32
        >>> one, other = clone_buffer([((3,), bfloat16), ((2, 2), float32)], torch.device("cpu"))
        >>> other.data_ptr() - one.data_ptr(), other.untyped_storage().nbytes()
        (256, 16)
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
    if sum(size > 0 for size in sizes) < 2:
        return [empty(shape, dtype, device) for shape, dtype in wanted]
    starts = list(itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
    with torch.inference_mode(False):
        buffer = ask_for_huge_pages(torch.empty(starts[-1] + ALIGNMENT - 1, dtype=torch.uint8, device=device))
        if buffer.is_meta or is_deferred(buffer):
            return [empty(shape, dtype, device) for shape, dtype in wanted]
        first, whole = -buffer.data_ptr() % ALIGNMENT, buffer.untyped_storage()
        blanks = {dtype: torch.empty(0, dtype=dtype.torch, device=device) for _, dtype in wanted}
        # A slice of a storage is a storage of these bytes alone, and keeps the whole alive. (Asked for by the base of
        # the class, which torch's own `__getitem__` calls too, at a third of the time.)
        return [
            blanks[dtype].new_empty(0).set_(_slice(whole, slice(start, start + size)), 0, shape)  # type: ignore[call-overload]
            if size
            else empty(shape, dtype, device)
            for start, size, (shape, dtype) in zip((first + each for each in starts), sizes, wanted, strict=False)
        ]
