"""Sum, the operation that reads: what a box of a tensor adds to the fingerprint of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tritonparam._arguments import integers, shown
from tritonparam.plan.fill import check_box
from tritonparam.plan.memory import check_memory, is_deferred


class Sum:
    """The sums over one box of a global tensor: `source[j]` is the element at position `offsets + j`.

    Attributes:
        source: What is read, of any strides; a complex tensor as pairs of reals.
        key: The 64-bit key of the global tensor (`fingerprint_key`).
        shape: The shape of the global tensor; None where `source` is the whole of it.
        offsets: Where the box starts in the global tensor; None for the origin.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The box does not lie in the tensor, the tensor is larger than 2**63 bytes, `source` has no storage
            or no values yet, or the key is not 64 bits.

    Examples:
        >>> from tritonparam.plan import sums
        >>> whole = torch.arange(24.0).view(8, 3)
        >>> of_whole, *of_parts = sums([
        ...     Sum(whole, key=1), Sum(whole[:, :2], 1, (8, 3)), Sum(whole[:, 2:], 1, (8, 3), (0, 2))
        ... ])
        >>> bool((of_whole == of_parts[0] + of_parts[1]).all())
        True
    """

    __slots__ = ("key", "offsets", "shape", "source")

    def __init__(
        self,
        source: torch.Tensor,
        key: int,
        shape: Sequence[int] | None = None,
        offsets: Sequence[int] | None = None,
    ) -> None:
        if isinstance(source, torch.Tensor) and is_deferred(source):
            raise ValueError("source must have values, got a deferred tensor: materialize it first")
        check_memory("source", source)
        if type(key) is not int or not 0 <= key < 2**64:
            raise ValueError(f"key must be an int in [0, 2**64), got {shown(key)}")
        sizes = tuple(source.shape)
        wanted = sizes if shape is None else integers("shape", shape)
        start = (0,) * len(wanted) if offsets is None else integers("offsets", offsets)
        check_box(wanted, start, sizes, "source")
        source = source.detach()
        if source.is_complex():
            source, wanted, start = torch.view_as_real(source), (*wanted, 2), (*start, 0)
        if math.prod(wanted) * source.itemsize > 2**63:
            raise ValueError(f"shape must come to at most 2**63 bytes, got {shown(wanted)} of {source.dtype}")
        self.source, self.key, self.shape, self.offsets = source, key, wanted, start

    def __repr__(self) -> str:
        box = f"shape={self.shape}, offsets={self.offsets}"
        return f"Sum(source={tuple(self.source.shape)} {self.source.dtype}, key={self.key:#x}, {box})"
