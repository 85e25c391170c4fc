"""What a constructor makes under deferral, held against what it makes in eager torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tritonparam import deferred_init, materialize


def buffers(*tensors: torch.Tensor) -> nn.Module:
    """A module that holds tensors as its buffers b0, b1, ...."""
    module = nn.Module()
    for number, tensor in enumerate(tensors):
        module.register_buffer(f"b{number}", tensor)
    return module


def check_like_eager(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Every parameter and buffer that `build` makes has the dtype, shape and values that it has in eager torch."""
    want = build()
    with deferred_init():
        module = build()
    got = materialize(module, seed=seed)
    assert list(got.state_dict()) == list(want.state_dict())
    for (name, value), (_, wanted) in zip(got.state_dict().items(), want.state_dict().items(), strict=True):
        assert (value.dtype, value.shape, value.device) == (wanted.dtype, wanted.shape, wanted.device), name
        same = torch.equal(value.resolve_conj().resolve_neg(), wanted.resolve_conj().resolve_neg())
        assert same, f"{name}: got {value}, want {wanted}"
    return got
