"""MindSpore's `Parameter` and `ParameterTuple`: named tensors that are declared first and become real later.

Their attributes, `set_data`, clones in one allocation, and copies of boxes (`copy_slices`). Parameters of torch modules
that know nothing of this are for `module`.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.parameter.box_copies import copy_slices
from tritonparam.parameter.parameter import Parameter
from tritonparam.parameter.parameter_tuple import ParameterTuple
from tritonparam.parameter.set_data import takes

__all__ = ["Parameter", "ParameterTuple", "copy_slices", "takes"]

__dir__ = public_names(__name__)
