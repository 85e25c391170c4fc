"""Initializers by object, name or number: `initializer(init, shape, dtype)` makes a lazy tensor of any of them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from types import ModuleType

import numpy as np

from tritonparam._arguments import did_you_mean, got, shown
from tritonparam.dtype import DTypeLike, float32
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
)
from tritonparam.initializer.structured import Dirac, Identity, Orthogonal
from tritonparam.stream import LAWS
from tritonparam.tensor import Initializer, Tensor, as_shape

_BY_NAME: dict[str, type[Initializer]] = {
    "zero": Zero,
    "zeros": Zero,
    "one": One,
    "ones": One,
    "uniform": Uniform,
    "normal": Normal,
    "truncated_normal": TruncatedNormal,
    "xavier_uniform": XavierUniform,
    "xavier_normal": XavierNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "variance_scaling": VarianceScaling,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
    "identity": Identity,
    "dirac": Dirac,
    "orthogonal": Orthogonal,
}
_ALIASES = {alias: kind for name, kind in _BY_NAME.items() for alias in (name, name.replace("_", ""))}


def initializer(
    init: Tensor | Initializer | str | float,
    shape: int | Sequence[int] | None = None,
    dtype: DTypeLike = float32,
    *,
    name: str = "",
) -> Tensor:
    """A lazy tensor: it knows its shape, its dtype and what it will be drawn from, and holds no data.

    Its values depend on the seed of the current generator, on `name` and on how many tensors of that name the generator
    has seen before. A Parameter made from it draws its own values, by its own name.

    Args:
        init: An Initializer, the name of one in any case ("normal", "XavierUniform", "he_uniform", ...), a number for a
            constant, or a Tensor, which is returned as it is.
        shape: An int or a sequence of ints >= 1; [] for a scalar. For a Tensor: its own shape, or None.
        dtype: Anything that `as_dtype` takes. A Tensor keeps its own.
        name: What to draw random numbers by, so that they do not depend on the order in which tensors are made.

    Raises:
        TypeError: init is of another type, or dtype is no dtype.
        ValueError: The name is unknown, shape is missing or is no shape or not that of the Tensor, or init needs
            another one.
        NotImplementedError: The class of init says nothing: it writes neither `law` nor `_initialize`.

    Examples:
        >>> initializer("ones", [2, 3])
        Tensor(shape=[2, 3], dtype=Float32, value=<uninitialized>)
        >>> print(initializer("ones", [2, 3]).asnumpy())
        [[1. 1. 1.]
         [1. 1. 1.]]
        >>> first = initializer("normal", [2], name="bias").asnumpy()
        >>> second = initializer("normal", [2], name="bias").asnumpy()
        >>> bool((first == second).any())
        False
    """
    if isinstance(init, Tensor):
        if shape is not None and as_shape(shape) != init.shape:
            raise ValueError(f"shape must be that of init, {init.shape}, got {as_shape(shape)}")
        return init
    if isinstance(init, str):
        if init.lower() == "sparse":
            raise TypeError(f"init must say its sparsity, such as Sparse(0.1), got {shown(init)}")
        found = _ALIASES.get(init.lower())
        if found is None:
            hint = did_you_mean(init.lower(), _ALIASES)
            raise ValueError(f"init must be one of {', '.join(_ALIASES)}, got {shown(init)}{hint}")
        init = found()
    elif isinstance(init, (Real, np.bool_)):
        init = Constant(init)  # type: ignore[arg-type]
    elif isinstance(init, type) and issubclass(init, Initializer):
        raise TypeError(f"init must be an Initializer object, such as {init.__name__}(), got the class {init.__name__}")
    elif isinstance(init, tuple(LAWS.values())):
        name = type(init).__name__
        raise TypeError(
            f"init must be an Initializer, such as tritonparam.initializer.{name}, got tritonparam.{name}, the law of "
            "a Fill"
        )
    elif not isinstance(init, Initializer):
        raise TypeError(
            f"init must be a Tensor, an Initializer object, a number or the name of an initializer, {got(init)}"
        )
    if shape is None:
        raise ValueError(f"shape must be given where init is no Tensor, got None for {shown(init)}")
    return Tensor(shape=shape, dtype=dtype, init=init, name=name)


class CallableModule(ModuleType):
    """A module that is called as `initializer` is: in MindSpore the function and its module have one name.

    Examples:
        >>> import tritonparam as tp
        >>> tp.initializer("ones", [2]).asnumpy().tolist()
        [1.0, 1.0]
    """

    def __call__(
        self,
        init: Tensor | Initializer | str | float,
        shape: int | Sequence[int] | None = None,
        dtype: DTypeLike = float32,
        *,
        name: str = "",
    ) -> Tensor:
        return initializer(init, shape, dtype, name=name)
