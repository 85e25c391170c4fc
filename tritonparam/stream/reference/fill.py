"""The value of element i of a tensor, for any set of i: the definition that every backend meets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tritonparam._arguments import shown
from tritonparam.stream.index import contiguous_start
from tritonparam.stream.law import Constant, Law, Normal, TruncatedNormal, Uniform
from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform
from tritonparam.stream.reference.fma import Floats
from tritonparam.stream.reference.philox import block_words
from tritonparam.stream.reference.transforms import normal, truncated_normal, uniform

CHUNK = 2**15  # elements at a time: the temporaries stay in a core's cache


def block_values(law: Law, key: int, block: NDArray[np.int64]) -> Floats:
    """The values of elements 4*block .. 4*block + 3 in float32, shape [n, 4].

    Depends on the law, the key and the block numbers; each row on its own block number only.

    Args:
        law: Anything but a constant.
        key: 64 bits, from `derive_key`.
        block: Global row-major index // 4; int64 of shape [n].

    Raises:
        TypeError: `law` is a constant (its values need no float32) or no law.
    """
    words = block_words(key, block)
    if isinstance(law, Uniform):
        return uniform(words, lower_uniform(law))
    if isinstance(law, Normal):
        return normal(words, lower_normal(law))
    if isinstance(law, TruncatedNormal):
        return truncated_normal(words, lower_truncated_normal(law))
    raise TypeError(
        f"law must be a random law, got {shown(law)}"
        if isinstance(law, Constant)
        else f"law must be a law, got {shown(law)}"
    )


def values_at(law: Law, key: int, index: NDArray[np.int64]) -> Floats:
    """The float32 values of the elements with these global row-major indices, in the shape of `index`.

    Examples:
        >>> whole = values_at(Normal(), 7, np.arange(10))
        >>> bool((values_at(Normal(), 7, np.array([9, 3])) == whole[[9, 3]]).all())
        True
    """
    block, row = np.unique(index >> 2, return_inverse=True)
    values: Floats = block_values(law, key, block)[row.reshape(index.shape), index & 3]
    return values


def box_chunks(
    law: Law, key: int, shape: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], chunk: int = CHUNK
) -> Iterator[tuple[int, Floats]]:
    """The float32 values of a box of a global tensor, in row-major order of the box.

    Args:
        law, key: Of the global tensor.
        shape: Of the global tensor.
        offsets, sizes: The box: element j of it is element offsets + j of the tensor.
        chunk: At most so many values at a time; changes no value.

    Yields:
        (start, values): the values of the box's elements start, start + 1, ....
    """
    total = int(np.prod(sizes, dtype=object)) if len(sizes) else 1
    start_of_run = contiguous_start(shape, offsets, sizes)
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        if start_of_run is not None:
            first, last = start_of_run + start, start_of_run + stop
            block = np.arange(first >> 2, (last + 3) >> 2)
            yield start, block_values(law, key, block).reshape(-1)[first & 3 : (first & 3) + last - first]
        else:
            yield start, values_at(law, key, global_index(np.arange(start, stop), shape, offsets, sizes))


def global_index(
    box_index: NDArray[np.int64], shape: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]
) -> NDArray[np.int64]:
    """Row-major indices in the box, as row-major indices in the global tensor."""
    index = np.zeros_like(box_index)
    stride = 1
    for extent, offset, size in zip(reversed(shape), reversed(offsets), reversed(sizes), strict=True):
        box_index, coordinate = np.divmod(box_index, size)
        index += (coordinate + offset) * stride
        stride *= extent
    return index
