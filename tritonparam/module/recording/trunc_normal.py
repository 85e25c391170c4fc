"""`torch.nn.init.trunc_normal_` under deferral: noted as the law it means, not as the operations it is made of."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from tritonparam.module.recording.patches import Patches
from tritonparam.stream import TruncatedNormal

Note = Callable[[torch.Tensor, TruncatedNormal], None]

_noting_for: Callable[[torch.Tensor], Note | None] | None = None


def _noting(original: Any) -> Any:
    @functools.wraps(original)
    def trunc_normal(
        tensor: torch.Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        note = None if _noting_for is None else _noting_for(tensor)
        if note is None or generator is not None:  # whose numbers are data, as wherever one is given
            drawn: torch.Tensor = original(tensor, mean, std, a, b, generator=generator)
            return drawn
        mean, std, a, b = (float(number) for number in (mean, std, a, b))  # which may be tensors
        try:
            law = TruncatedNormal(mean=mean, std=std, low=a, high=b)
        except ValueError as error:
            raise ValueError(f"trunc_normal_ of a deferred tensor: {error}") from None
        note(tensor, law)
        return tensor

    return trunc_normal


_patches = Patches((torch.nn.init, "_no_grad_trunc_normal_", _noting))


def truncated_normals_noted(
    noting_for: Callable[[torch.Tensor], Note | None],
) -> contextlib.AbstractContextManager[None]:
    """Send `trunc_normal_` of the tensors that `noting_for` has a note for to that note.

    Since torch 2.13 it redraws until its values fit, and so asks for them. The function is looked up by name in its
    module in every version, also by those who imported the caller earlier. It is torch's own again when the last block
    ends.

    Args:
        noting_for: What takes the law of a tensor, or None where torch is to draw; the same in all blocks.
    """
    global _noting_for
    _noting_for = noting_for
    return _patches.applied()
