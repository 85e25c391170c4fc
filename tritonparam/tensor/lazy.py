"""Lazy tensors made from others: of the same law under another key, or of the same values in another dtype."""

from __future__ import annotations

from tritonparam.dtype import DType
from tritonparam.tensor.content import Content
from tritonparam.tensor.storage import declare, fit
from tritonparam.tensor.tensor import Tensor
from tritonparam.tensor.writes import cast_content


def lazy_like(source: Tensor, dtype: DType | None = None, key: int | None = None) -> Tensor:
    """A lazy tensor of the shape and law of `source`, and of its dtype and key where no others are given.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> source = initializer("normal", [2])
        >>> lazy_like(source).asnumpy().tolist() == source.asnumpy().tolist()
        True
    """
    return _lazy(source, source._law, source.dtype if dtype is None else dtype, source._key if key is None else key)


def lazy_cast(source: Tensor, dtype: DType) -> Tensor:
    """A lazy tensor of the values of `source`, cast.

    Examples:
        >>> from tritonparam.dtype import int32
        >>> from tritonparam.initializer import initializer
        >>> lazy_cast(initializer(2.7, [2]), int32).tolist()
        [2, 2]
    """
    law = source._law
    cast = None if law is None else cast_content(law, source.dtype, dtype, source.shape)
    return _lazy(source, cast, dtype, source._key)


def _lazy(source: Tensor, law: Content | None, dtype: DType, key: int) -> Tensor:
    return Tensor._wrap(declare(source.shape, dtype), None if law is None else fit(law, dtype), key)
