"""Parameter initialization for torch, with the same bits on every device, sharding and order.

A torch model that is built inside `deferred_init` takes no memory. `materialize` then gives every parameter its values,
which follow from the seed and the parameter's name. A `Plan` writes any box of a tensor, with the bits of the whole:

    >>> import torch
    >>> import tritonparam as tp
    >>> with tp.deferred_init():
    ...     model = torch.nn.Embedding(8, 4)
    >>> tp.materialize(model, seed=0).weight.shape
    torch.Size([8, 4])
    >>> row = torch.empty(1, 4)
    >>> key = tp.derive_key(seed=0, name="weight")
    >>> tp.Plan([tp.Fill(row, tp.Normal(), key, shape=(8, 4), offsets=(7, 0))], backend="numpy").run()
    >>> torch.equal(row, model.weight[7:])
    True

Models: `deferred_init`, `materialize`, `param_init_fn`, `declarations`, `ledger` (a `Ledger`).
Checkpoints in safetensors files: `load` (a `LoadReport`), `save` (a `SaveReport`).
Equal or not: `fingerprint` (a `Fingerprint`), `check_replicas` (of `ReplicaDifference`).
As in MindSpore: `Parameter`, `ParameterTuple`, `Tensor`, `initializer`, `dtype`; and `copy_slices` between Parameters.
Plans: `Plan` of `Fill` and `Copy`, each on a `Box`; a `Law` is `Constant`, `Uniform`, `Normal` or `TruncatedNormal`.
MindSpore's initializers, some of the same names, are in `tritonparam.initializer`.
Seeds and keys: `set_seed`, `get_seed`, `derive_key`, `Generator`, `get_generator`.
Errors: `TritonParamError` and under it `CheckpointError`, `CheckpointNotFoundError`; bad arguments are a `TypeError` or
`ValueError`. Warnings: `DeferredWarning`, `KeptWarning`. `tritonparam --help` in a shell shows the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonparam._interrupt import quiet_interrupt
from tritonparam._program import begin

begin()
with quiet_interrupt():  # torch takes seconds
    from tritonparam import dtype, initializer
    from tritonparam._errors import TritonParamError
    from tritonparam._lazy import lazily
    from tritonparam._version import __version__
    from tritonparam.parameter import Parameter, ParameterTuple, copy_slices
    from tritonparam.plan import Box, Copy, Fill, Plan
    from tritonparam.stream import (
        Constant,
        Generator,
        Law,
        Normal,
        TruncatedNormal,
        Uniform,
        derive_key,
        get_generator,
        get_seed,
        set_seed,
    )
    from tritonparam.tensor import Tensor

if TYPE_CHECKING:
    from tritonparam.checkpoint import CheckpointError, CheckpointNotFoundError, LoadReport, SaveReport, load, save
    from tritonparam.distributed import Fingerprint, ReplicaDifference, check_replicas, fingerprint
    from tritonparam.module import (
        DeferredWarning,
        KeptWarning,
        Ledger,
        declarations,
        deferred_init,
        ledger,
        materialize,
        param_init_fn,
    )

__all__ = [
    "Box",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Constant",
    "Copy",
    "DeferredWarning",
    "Fill",
    "Fingerprint",
    "Generator",
    "KeptWarning",
    "Law",
    "Ledger",
    "LoadReport",
    "Normal",
    "Parameter",
    "ParameterTuple",
    "Plan",
    "ReplicaDifference",
    "SaveReport",
    "Tensor",
    "TritonParamError",
    "TruncatedNormal",
    "Uniform",
    "__version__",
    "check_replicas",
    "copy_slices",
    "declarations",
    "deferred_init",
    "derive_key",
    "dtype",
    "fingerprint",
    "get_generator",
    "get_seed",
    "initializer",
    "ledger",
    "load",
    "materialize",
    "param_init_fn",
    "save",
    "set_seed",
]

del begin
if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        dict.fromkeys(("DeferredWarning", "KeptWarning", "Ledger", "declarations", "deferred_init", "ledger"), "module")
        | dict.fromkeys(("materialize", "param_init_fn"), "module")
        | dict.fromkeys(
            ("CheckpointError", "CheckpointNotFoundError", "LoadReport", "SaveReport", "load", "save"), "checkpoint"
        )
        | dict.fromkeys(("Fingerprint", "ReplicaDifference", "check_replicas", "fingerprint"), "distributed"),
        elsewhere=("initializer", "dtype"),
    )
