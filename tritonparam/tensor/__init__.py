"""MindSpore's `Tensor` over torch storage, lazy until its values are asked for.

What a lazy tensor is to hold (`Initializer`, `Pattern`), how it becomes real (`Writes`, `realize`), and which box of it
a process holds (layouts). The initializers themselves, and `initializer(...)`, which makes tensors of them, are in
`initializer`; names, flags and groups, in `parameter`.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.tensor.content import Content, Initializer, Pattern, put_from_host
from tritonparam.tensor.layout import box_of
from tritonparam.tensor.lazy import lazy_cast, lazy_like
from tritonparam.tensor.mesh import Cut, Held, Runs, cut_runs, dtensor_type, held, is_dtensor, mesh_box, mesh_boxes
from tritonparam.tensor.operators import Device, TorchTensor
from tritonparam.tensor.registration import refuse_in_modules
from tritonparam.tensor.storage import as_shape, copy_of_data, declare, empty, fit
from tritonparam.tensor.swap import become, exchange, is_of_lazy
from tritonparam.tensor.tensor import REALIZING, Tensor, realize
from tritonparam.tensor.writes import Writes, cast_content, shares_memory

__all__ = [
    "REALIZING",
    "Content",
    "Cut",
    "Device",
    "Held",
    "Initializer",
    "Pattern",
    "Runs",
    "Tensor",
    "TorchTensor",
    "Writes",
    "as_shape",
    "become",
    "box_of",
    "cast_content",
    "copy_of_data",
    "cut_runs",
    "declare",
    "dtensor_type",
    "empty",
    "exchange",
    "fit",
    "held",
    "is_dtensor",
    "is_of_lazy",
    "lazy_cast",
    "lazy_like",
    "mesh_box",
    "mesh_boxes",
    "put_from_host",
    "realize",
    "refuse_in_modules",
    "shares_memory",
]

__dir__ = public_names(__name__)
