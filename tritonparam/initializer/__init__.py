"""MindSpore's initializers, by object, name or number: `initializer(init, shape, dtype)` makes a lazy tensor of any.

An initializer says for a shape which law, or which pattern of several, its elements follow. The values of a law are
for `stream`; the tensors, for `tensor`. The module itself may be called, as `initializer` of it.
"""

from __future__ import annotations

import sys

from tritonparam._lazy import public_names
from tritonparam.initializer.factory import CallableModule, initializer
from tritonparam.initializer.initializers import (
    Constant,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    Normal,
    One,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    Zero,
    fans,
)
from tritonparam.initializer.structured import Dirac, Identity, Orthogonal, Sparse
from tritonparam.tensor import Initializer, Pattern

__all__ = [
    "Constant",
    "Dirac",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Normal",
    "One",
    "Orthogonal",
    "Pattern",
    "Sparse",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "XavierNormal",
    "XavierUniform",
    "Zero",
    "fans",
    "initializer",
]

sys.modules[__name__].__class__ = CallableModule
__dir__ = public_names(__name__)
