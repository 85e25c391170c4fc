"""Memory: which tensors have some that a plan can read or write, and which share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    import numpy.typing as npt

_PAGE = 4096  # bytes
# What `numpy.shares_memory` may spend on one pair: enough for boxes of one tensor, whatever its rank.
_MAX_WORK = 10_000
_PLAIN = (torch.Tensor, torch.nn.Parameter)
REAL_DTYPES = frozenset(
    (
        *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    )
)


def check_memory(argument: str, tensor: Any) -> torch.Tensor:
    """`tensor`, if it is a torch tensor whose elements lie in memory as its strides say.

    Raises:
        TypeError: It is no torch.Tensor.
        ValueError: It is sparse, nested, quantized, without a shape yet, on the meta device, a conjugate or negative
            view, or of a class that stands for other tensors, as DTensor and FakeTensor do.
    """
    if is_a_run(tensor):
        plain: torch.Tensor = tensor  # as nearly always, and this is asked of every tensor
        return plain
    if type(tensor) not in _PLAIN:
        _check_class(argument, tensor)
    if tensor.is_nested:
        check_strided(argument, tensor)
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        raise ValueError(f"{argument} must be a strided tensor with storage, got {tensor.layout} on {tensor.device}")
    if not _is_within_storage(tensor):
        raise ValueError(
            f"{argument} must have its memory, got shape {tuple(tensor.shape)} of a storage of "
            f"{tensor.untyped_storage().nbytes()} bytes: it was made smaller, or freed"
        )
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError(f"{argument} must not be a conjugate or negative view: resolve_conj and resolve_neg copy it")
    checked: torch.Tensor = tensor
    return checked


def is_a_run(tensor: Any) -> bool:
    """Whether it is a plain tensor, contiguous in memory that it has: `check_memory` and `check_writable` let it pass.

    Examples:
        >>> x = torch.zeros(4, 6)
        >>> is_a_run(x), is_a_run(x[1]), is_a_run(x.T), is_a_run(x.to("meta"))
        (True, True, False, False)
    """
    if type(tensor) not in _PLAIN or tensor.dtype not in REAL_DTYPES:
        return False
    # Of these dtypes, this is enough.
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_neg():
        return False
    storage = tensor.untyped_storage()
    last = tensor.storage_offset() * tensor.element_size() + tensor.nbytes
    return bool(tensor.is_contiguous() and last <= storage.nbytes())


def check_strided(argument: str, tensor: Any) -> None:
    """Let torch tensors pass that have a shape and strides.

    Raises:
        TypeError: It is no torch.Tensor.
        ValueError: It is sparse, nested or without a shape yet.
    """
    if not isinstance(tensor, torch.Tensor):
        # Of the class, not of the object, whose attributes may raise.
        hint = "; its .torch is one" if isinstance(getattr(type(tensor), "torch", None), property) else ""
        raise TypeError(f"{argument} must be a torch.Tensor, got {type(tensor).__name__[:100]}{hint}")
    if is_lazy(tensor):
        raise ValueError(f"{argument} must have a shape, got a {type(tensor).__name__}, which has none yet")
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"one of layout {tensor.layout}"
        raise ValueError(f"{argument} must be a strided tensor, got {kind}")


def _is_within_storage(tensor: torch.Tensor) -> bool:
    end = tensor.storage_offset() * tensor.element_size() + bytes_spanned(tensor)
    return not tensor.numel() or bool(end <= tensor.untyped_storage().nbytes())


def _check_class(argument: str, tensor: Any) -> None:
    check_strided(argument, tensor)
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise ValueError(
            f"{argument} must be a tensor with memory of its own, got {type(tensor).__name__}, which stands for others"
        )


def is_deferred(tensor: torch.Tensor) -> bool:
    """Whether it has elements but no memory, and does not say so: it was made inside `deferred_init`."""
    if not torch._C._len_torch_function_stack() and type(tensor) in _PLAIN:
        return False  # outside of every such block, and of all others that change what tensors say
    says_so = tensor.is_meta
    with torch._C.DisableTorchFunction():
        return bool(tensor.numel()) and tensor.is_meta and not says_so


def check_writable(argument: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor two of whose elements may share memory.

    Raises:
        ValueError: It overlaps itself.
    """
    if _overlaps_itself(tensor):
        raise ValueError(
            f"{argument} must not overlap itself, got shape {tuple(tensor.shape)} with strides {tensor.stride()}"
        )


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """In order of stride, each dimension must step over all that lies within."""
    if not tensor.numel():
        return False
    extent = 1
    for stride, size in sorted(
        (stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1
    ):
        if stride < extent:
            return True
        extent = stride * (size - 1) + extent
    return False


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether some byte is in both; where that is too hard to find out, yes.

    Examples:
        >>> x = torch.zeros(4, 6)
        >>> overlap(x[:, :3], x[:, 3:]), overlap(x[:, :4], x[:, 3:])
        (False, True)
    """
    lower, upper = (one, other) if one.data_ptr() < other.data_ptr() else (other, one)
    if lower.data_ptr() + bytes_spanned(lower) <= upper.data_ptr() or not upper.numel() or one.device != other.device:
        return False
    if one.is_contiguous() and other.is_contiguous():
        return True
    try:
        return bool(np.shares_memory(_bytes_of(one), _bytes_of(other), max_work=_MAX_WORK))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def bytes_spanned(tensor: torch.Tensor) -> int:
    """Bytes from the first element to the end of the last, of a tensor that has elements.

    Examples:
        >>> bytes_spanned(torch.zeros(4, 6)[:, :2])
        80
    """
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()


class _Addresses:
    """Where a tensor's elements lie, as NumPy has it; nobody looks at what is there, which may be on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        size = tensor.element_size()
        # What does not lead to further addresses may be longer than NumPy can count.
        steps = [
            (length, stride)
            for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
            if length > 1 and stride
        ]
        self.__array_interface__ = {
            "data": (tensor.data_ptr() + _PAGE, True),  # a deferred tensor begins at 0, which is no address to NumPy
            "shape": tuple(length for length, _ in steps),
            "strides": tuple(size * stride for _, stride in steps),
            "typestr": f"|V{size}",
            "version": 3,
        }


def _bytes_of(tensor: torch.Tensor) -> npt.NDArray[np.void]:
    return np.asarray(_Addresses(tensor))
