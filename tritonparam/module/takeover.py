"""Taking over: the tensors of a module become the real ones, in place, all of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from tritonparam.tensor import become


def take_over(module: torch.nn.Module, pairs: Sequence[tuple[str, torch.Tensor, torch.Tensor]]) -> None:
    """Turn deferred tensors of `module` into real ones: all of them, or none where one cannot be.

    Args:
        module: Whose tensors they are.
        pairs: The name of each, the deferred tensor, and a real one with its values, shape and dtype.

    Raises:
        RuntimeError: Something outside holds on to one of them.
    """
    done: list[tuple[torch.Tensor, torch.Tensor]] = []
    with _recurrent_weights_released(module, {id(mine) for _, mine, _ in pairs}):
        try:
            for name, mine, _ in pairs:
                if mine._is_view() or not mine.is_leaf:
                    # Autograd holds on to what it comes from, which then could not be swapped; this shows the same.
                    _become(name, mine, torch.Tensor._make_subclass(type(mine), mine.detach()))
            for name, mine, real in pairs:
                other = torch.Tensor._make_subclass(type(mine), real, mine.requires_grad)
                _become(name, mine, other)
                done.append((mine, other))
        except BaseException:
            for pair in reversed(done):
                become(*pair)
            raise


def _become(name: str, mine: torch.Tensor, other: torch.Tensor) -> None:
    try:
        become(mine, other)
    except RuntimeError as error:
        raise RuntimeError(f"{name} cannot be made real in place: {error}") from error


@contextlib.contextmanager
def _recurrent_weights_released(module: torch.nn.Module, changing: set[int]) -> Iterator[None]:
    """Let torch's recurrent layers drop their weak references, which forbid swaps, and take them up after it.

    The layers do the same when they move (`RNNBase._apply`). On CUDA this also packs their weights, as cuDNN wants
    them.
    """
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, torch.nn.RNNBase) and any(id(weight) in changing for weight in layer._flat_weights)
    ]
    for layer in layers:
        layer._flat_weight_refs = []
    try:
        yield
    finally:
        for layer in layers:
            layer._init_flat_weights()
