"""A script in the manner of MindSpore's Parameter guide. Only its imports differ: python examples/from_mindspore.py

In MindSpore they are

    from mindspore import Parameter, ParameterTuple, Tensor
    from mindspore import dtype as mstype
    from mindspore.common.initializer import initializer

Prints:

    Parameter (name=x, shape=(2, 3), dtype=Int64, requires_grad=True)
    Parameter (name=y, shape=(1, 2, 3), dtype=Float32, requires_grad=True)
    Parameter (name=z, shape=(), dtype=Float32, requires_grad=False)
    x False False False True False True
    Parameter (name=x, shape=(2, 3), dtype=Int64, requires_grad=True)
    True [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]] False
    3.5
    Parameter (name=x_clone, shape=(2, 3), dtype=Int64, requires_grad=True)
    Parameter (name=params_copy.x, shape=(2, 3), dtype=Int64, requires_grad=True)
    Parameter (name=params_copy.y, shape=(1, 2, 3), dtype=Float32, requires_grad=True)
    Parameter (name=params_copy.z, shape=(), dtype=Float32, requires_grad=False)
"""

import numpy as np

from tritonparam import Parameter, ParameterTuple, Tensor
from tritonparam import dtype as mstype
from tritonparam.initializer import initializer

# A parameter from data, from an initializer, and from a number.
x = Parameter(default_input=Tensor(np.arange(2 * 3).reshape((2, 3))), name="x")
y = Parameter(default_input=initializer("ones", [1, 2, 3], mstype.float32), name="y")
z = Parameter(default_input=2.0, name="z", requires_grad=False)
print(x)
print(y)
print(z)

# Attributes.
print(x.name, x.sliced, x.is_init, x.layerwise_parallel, x.parallel_optimizer, x.cache_enable, x.requires_grad)
print(x.data)

# Values come when they are asked for.
print(y.has_init, y.init_data().asnumpy().tolist(), y.has_init)

# New values, and a clone.
print(z.set_data(Tensor(3.5, mstype.float32)).asnumpy())
copy = x.clone()
copy.name = "x_clone"
print(copy)

# Several parameters, and moments for an optimizer.
params = ParameterTuple((x, y, z))
for each in params.clone("params_copy", init="zeros"):
    print(each)
