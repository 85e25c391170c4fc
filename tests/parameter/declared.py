"""Parameters to set and to clone, declared and real, of one dtype and of many."""

import numpy as np

from tritonparam import Parameter, ParameterTuple
from tritonparam.initializer import Normal, initializer

FLOATS = ["float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
MIXED = [*FLOATS, "int64", "int8", "uint16", "bool_"]


def normal(name="w", shape=(2, 3), dtype="float32", **flags):
    return Parameter(initializer("normal", shape, dtype), name, **flags)


def mixed():
    """Real parameters of many dtypes, a scalar and one without elements among them."""
    group = [
        Parameter(initializer(Normal(50.0), [5, n + 1], dtype), f"p{n}").init_data() for n, dtype in enumerate(MIXED)
    ]
    return ParameterTuple([*group[:3], Parameter(2.5, "s"), Parameter(np.zeros((0, 3), np.float32), "e"), *group[3:]])
