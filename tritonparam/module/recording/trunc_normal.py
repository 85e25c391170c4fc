"""`torch.nn.init.trunc_normal_` under deferral: noted as the law it means, not as the operations it is made of."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch

from tritonparam._locks import across_forks
from tritonparam.stream import TruncatedNormal

Note = Callable[[torch.Tensor, TruncatedNormal], None]

_torch_trunc_normal = torch.nn.init._no_grad_trunc_normal_
_lock = across_forks()
_depth = 0
_noting_for: Callable[[torch.Tensor], Note | None] | None = None


@functools.wraps(_torch_trunc_normal)
def _noting_trunc_normal(
    tensor: torch.Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    note = None if _noting_for is None else _noting_for(tensor)
    if note is None or generator is not None:  # whose numbers are data, as wherever one is given
        return _torch_trunc_normal(tensor, mean, std, a, b, generator=generator)
    mean, std, a, b = (float(number) for number in (mean, std, a, b))  # which may be tensors
    try:
        law = TruncatedNormal(mean, std, a, b)
    except ValueError as error:
        raise ValueError(f"trunc_normal_ of a deferred tensor: {error}") from None
    note(tensor, law)
    return tensor


@contextlib.contextmanager
def truncated_normals_noted(noting_for: Callable[[torch.Tensor], Note | None]) -> Iterator[None]:
    """Send `trunc_normal_` of the tensors that `noting_for` has a note for to that note.

    Since torch 2.13 it redraws until its values fit, and so asks for them. The function is looked up by name in its
    module in every version, also by those who imported the caller earlier. It is torch's own again when the last block
    ends.

    Args:
        noting_for: What takes the law of a tensor, or None where torch is to draw; the same in all blocks.
    """
    global _depth, _noting_for
    with _lock:
        _depth += 1
        _noting_for = noting_for
        torch.nn.init._no_grad_trunc_normal_ = _noting_trunc_normal
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                torch.nn.init._no_grad_trunc_normal_ = _torch_trunc_normal
