"""Parameter initialization at memory speed, with the same bits on every device, sharding and order.

The laws `Constant`, `Uniform`, `Normal` and `TruncatedNormal` are what a `Fill` takes. MindSpore's initializers, some
of the same name, are in `tritonparam.initializer`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tritonparam import dtype, initializer
from tritonparam._copy_slices import copy_slices
from tritonparam._key import derive_key
from tritonparam._law import Constant, Law, Normal, TruncatedNormal, Uniform
from tritonparam._version import __version__
from tritonparam._views import Box
from tritonparam.generator import Generator, get_generator, get_seed, set_seed
from tritonparam.parameter import Parameter, ParameterTuple
from tritonparam.plan import Copy, Fill, Plan
from tritonparam.tensor import Tensor

if TYPE_CHECKING:
    from tritonparam.checkpoint.load import LoadReport, load
    from tritonparam.checkpoint.save import SaveReport, save
    from tritonparam.deferred import deferred_init
    from tritonparam.materialize import declarations, materialize

__all__ = [
    "Box",
    "Constant",
    "Copy",
    "Fill",
    "Generator",
    "Law",
    "LoadReport",
    "Normal",
    "Parameter",
    "ParameterTuple",
    "Plan",
    "SaveReport",
    "Tensor",
    "TruncatedNormal",
    "Uniform",
    "__version__",
    "copy_slices",
    "declarations",
    "deferred_init",
    "derive_key",
    "dtype",
    "get_generator",
    "get_seed",
    "initializer",
    "load",
    "materialize",
    "save",
    "set_seed",
]

_LAZY = {
    "LoadReport": "checkpoint.load",
    "SaveReport": "checkpoint.save",
    "declarations": "materialize",
    "deferred_init": "deferred",
    "load": "checkpoint.load",
    "materialize": "materialize",
    "save": "checkpoint.save",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


class _Package(ModuleType):
    """Keeps `tritonparam.materialize` the function: importing the submodule of that name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(
            name, value.materialize if name == "materialize" and isinstance(value, ModuleType) else value
        )


sys.modules[__name__].__class__ = _Package
