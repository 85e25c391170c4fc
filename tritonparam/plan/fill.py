"""Fill, the operation of a plan: one box of a global tensor, written into a torch tensor of the shape of the box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tritonparam._arguments import got, integers, shown
from tritonparam.plan.memory import check_memory, check_writable
from tritonparam.stream import LAWS, Constant, Law, TruncatedNormal, constant_tensor, contiguous_start, float32_bounds

RANDOM_DTYPES = frozenset(
    (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
)
_LAW_TYPES = tuple(LAWS.values())


class Fill:
    """Write one box of a global tensor: `out[j]` gets the value at position `offsets + j` of the global tensor.

    Attributes:
        out: Where the values go: the box, of any strides without overlap. Its shape is the box's sizes, its dtype the
            values'.
        law: What they are drawn from.
        key: The 64-bit key of the global tensor (`derive_key`). A constant does not look at it.
        shape: The shape of the global tensor; None where `out` is the whole of it.
        offsets: Where the box starts in the global tensor; None for the origin.
        run_start: The global index of the first element, if the box is one run of consecutive elements of the global
            tensor and of memory; else None.

    Raises:
        TypeError: An argument is of the wrong type, or `out` has a dtype that the law cannot fill.
        ValueError: The box does not lie in the tensor, the tensor is larger than 2**63 elements, `out` overlaps itself
            or has no storage, or the key is not 64 bits.

    Examples:
        >>> from tritonparam import Normal, Plan
        >>> whole, half = torch.empty(8, 3), torch.empty(4, 3)
        >>> Plan([Fill(whole, Normal(), key=1), Fill(half, Normal(), key=1, shape=(8, 3), offsets=(4, 0))]).run()
        >>> torch.equal(whole[4:], half)
        True
    """

    __slots__ = ("key", "law", "offsets", "out", "run_start", "shape")

    def __init__(
        self,
        out: torch.Tensor,
        law: Law,
        key: int = 0,
        shape: Sequence[int] | None = None,
        offsets: Sequence[int] | None = None,
    ) -> None:
        check_memory("out", out)
        check_law(law, out.dtype)
        if type(key) is not int or not 0 <= key < 2**64:
            raise ValueError(f"key must be an int in [0, 2**64), got {shown(key)}")
        is_contiguous = out.is_contiguous()
        if not is_contiguous:
            check_writable("out", out)
        self.out, self.law, self.key = out, law, key
        sizes = tuple(out.shape)
        self.run_start: int | None
        if shape is None and offsets is None:
            self.shape, self.offsets = sizes, (0,) * len(sizes)
            self.run_start = 0 if is_contiguous else None
            return
        self.shape = sizes if shape is None else integers("shape", shape)
        self.offsets = (0,) * len(self.shape) if offsets is None else integers("offsets", offsets)
        check_box(self.shape, self.offsets, sizes)
        self.run_start = contiguous_start(self.shape, self.offsets, sizes) if is_contiguous else None

    def __repr__(self) -> str:
        box = f"shape={self.shape}, offsets={self.offsets}"
        return f"Fill(out={tuple(self.out.shape)} {self.out.dtype}, law={self.law!r}, key={self.key:#x}, {box})"


def check_law(law: Law, dtype: torch.dtype) -> None:
    """Let laws pass that can fill tensors of `dtype`.

    Raises:
        TypeError: It is no law, or dtype is one that it cannot fill.
        ValueError: It has no value in that dtype.
    """
    if not isinstance(law, _LAW_TYPES):
        raise TypeError(
            "law must be a Constant, Normal, TruncatedNormal or Uniform of tritonparam, such as "
            f"tritonparam.Normal(std=0.02), {got(law)}"
        )
    if type(law) is Constant:
        if dtype == torch.complex128:
            raise TypeError("out must not be complex128")
        constant_tensor(law, dtype)
    elif dtype not in RANDOM_DTYPES:
        raise TypeError(
            f"out must be of a dtype in {sorted(map(str, RANDOM_DTYPES))} for a {law.kind} law, got {dtype}"
        )
    elif type(law) is TruncatedNormal:
        float32_bounds(law)  # are there any?


def check_box(shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...], argument: str = "out") -> None:
    """Let boxes pass that lie in a tensor of `shape`; `argument` is what the tensor of the box is called.

    Raises:
        ValueError: It does not, or the tensor is larger than 2**63 elements.
    """
    if not len(shape) == len(offsets) == len(sizes):
        raise ValueError(
            f"shape, offsets and {argument} must have the same rank, got {shown(shape)}, {shown(offsets)} "
            f"and {argument} of shape {sizes}"
        )
    if math.prod(shape) > 2**63:
        raise ValueError(f"shape must come to at most 2**63 elements, got {shown(shape)}")
    if any(o < 0 or o + s > n for n, o, s in zip(shape, offsets, sizes, strict=True)):
        raise ValueError(
            f"the box must lie in the tensor, got offsets {shown(offsets)} and sizes {sizes} in shape {shown(shape)}"
        )
