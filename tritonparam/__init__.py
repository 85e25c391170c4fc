"""Parameter initialization for torch, with the same bits on every device, sharding and order.

The laws `Constant`, `Uniform`, `Normal` and `TruncatedNormal` are what a `Fill` takes. MindSpore's initializers, some
of the same name, are in `tritonparam.initializer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonparam._interrupt import quiet_interrupt
from tritonparam._program import begin

begin()
with quiet_interrupt():  # torch takes seconds
    from tritonparam import dtype, initializer
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
    from tritonparam.checkpoint import LoadReport, SaveReport, load, save
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
__getattr__, __dir__ = lazily(
    __name__,
    dict.fromkeys(
        (
            "DeferredWarning",
            "KeptWarning",
            "Ledger",
            "declarations",
            "deferred_init",
            "ledger",
            "materialize",
            "param_init_fn",
        ),
        "module",
    )
    | dict.fromkeys(("LoadReport", "SaveReport", "load", "save"), "checkpoint")
    | dict.fromkeys(("Fingerprint", "ReplicaDifference", "check_replicas", "fingerprint"), "distributed"),
)
