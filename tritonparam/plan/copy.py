"""Copy, the operation of a plan that moves values: a box of one tensor into a box of another, cast on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import torch

from tritonparam._arguments import got, shown
from tritonparam.plan.arrays import view_of_array
from tritonparam.plan.memory import REAL_DTYPES, check_memory, check_writable, overlap
from tritonparam.plan.views import Box

if TYPE_CHECKING:
    import numpy.typing as npt

CAST_DTYPES = REAL_DTYPES


class Copy:
    """Write the elements of one box into another of the same sizes, cast to its dtype.

    Casts are those of torch's `copy_`, rounding and all (docs/copies.md); of one dtype the bits move as they are, so
    any dtype may be copied into itself.

    Args:
        out: Where the values go, of any strides without overlap.
        source: What is copied, of any strides: broadcast ones too and, in a NumPy array, negative ones. Its shape is
            that of `out`, where there are no boxes.
        out_box, source_box: The boxes, of the same sizes; None for the whole of the tensor.

    Attributes:
        out: The box that is written, as a tensor.
        source: The box that is read, as a tensor of the same shape on the same device.
        backwards: The dimensions along which `source` is read from its end.

    Raises:
        TypeError: An argument is of the wrong type, or there is no cast between the two dtypes.
        ValueError: A box does not lie in its tensor, the shapes or devices differ, `out` overlaps itself or has no
            storage, or the two overlap: a copy within one tensor has to go through a third (`copy_slices` does so).

    Examples:
        >>> from tritonparam import Plan
        >>> out = torch.zeros(2, 3, dtype=torch.bfloat16)
        >>> rows = torch.arange(6, dtype=torch.float32).view(2, 3)
        >>> Plan([Copy(out, rows, Box((0, 1), (2, 2)), Box((0, 0), (2, 2)))]).run()
        >>> out.tolist()
        [[0.0, 0.0, 1.0], [0.0, 3.0, 4.0]]
    """

    __slots__ = ("backwards", "out", "source")

    def __init__(
        self,
        out: torch.Tensor,
        source: torch.Tensor | npt.NDArray[Any],
        out_box: Box | None = None,
        source_box: Box | None = None,
    ) -> None:
        backwards: tuple[int, ...] = ()
        if isinstance(source, np.ndarray):
            source, backwards = view_of_array(source)
        out = check_memory("out", out).detach()
        source = _readable(source, out)
        out = out if out_box is None else _in_box("out_box", out, out_box)
        source = source if source_box is None else _in_box("source_box", source, source_box, backwards)
        _check_shapes(out, source)
        if not out.is_contiguous():
            check_writable("out", out)
        if overlap(out, source):
            raise ValueError("source must not overlap out; copy_slices copies within one tensor")
        self.out, self.source, self.backwards = out, source, backwards

    @classmethod
    def _into_new(cls, out: torch.Tensor, source: torch.Tensor) -> Copy:
        """A Copy of `source` into a contiguous tensor of new memory, which nothing can overlap: the rest is checked."""
        copy = cls.__new__(cls)
        copy.out, copy.source, copy.backwards = out, _readable(source, out), ()
        _check_shapes(out, copy.source)
        return copy

    @classmethod
    def _checked(cls, out: torch.Tensor, source: torch.Tensor) -> Copy:
        """A Copy for one plan, run without gradients, of which the caller has checked what `_into_new` checks."""
        copy = cls.__new__(cls)
        copy.out, copy.source, copy.backwards = out, source, ()
        return copy

    def __repr__(self) -> str:
        return f"Copy(out={tuple(self.out.shape)} {self.out.dtype}, source={self.source.dtype})"


class CopyColumns(Sequence[Copy]):
    """Copies of whole tensors as columns, since an object for each takes longer than many a copy.

    It is a sequence of `Copy`s, which are made when they are asked for. So a backend may read it as it reads a list, or
    take the columns as they are. It is for one plan, run without gradients, whose caller has checked each pair as
    `Copy` does.

    Args:
        outs: Where the values go; at least one, all on one device.
        sources: What is copied, each of the shape and on the device of its `out`.

    Attributes:
        outs, sources: As given.
        dtypes: The pairs of dtypes that occur, of out and of source.

    Raises:
        ValueError: The columns are of several lengths.

    Examples:
        >>> from tritonparam import Plan
        >>> outs = [torch.empty(2), torch.empty(1)]
        >>> Plan(CopyColumns(outs, [torch.tensor([1, 2]), torch.tensor([3.0])])).run()
        >>> outs
        [tensor([1., 2.]), tensor([3.])]
    """

    __slots__ = ("dtypes", "outs", "sources")

    def __init__(self, outs: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        if len(outs) != len(sources):
            raise ValueError(f"outs and sources must be of one length, got {len(outs)} and {len(sources)}")
        self.outs, self.sources = outs, sources
        self.dtypes = frozenset(zip([each.dtype for each in outs], [each.dtype for each in sources], strict=True))

    def __len__(self) -> int:
        return len(self.outs)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Copy: ...

    @overload
    def __getitem__(self, index: slice) -> list[Copy]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Copy | list[Copy]:
        if isinstance(index, slice):
            return [*map(Copy._checked, self.outs[index], self.sources[index])]
        return Copy._checked(self.outs[index], self.sources[index])

    def __iter__(self) -> Iterator[Copy]:
        return map(Copy._checked, self.outs, self.sources)


def _readable(source: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`source`, detached, if it lies in memory on the device of `out` and can be cast to its dtype."""
    source = check_memory("source", source).detach()
    if out.dtype != source.dtype and not (out.dtype in CAST_DTYPES and source.dtype in CAST_DTYPES):
        raise TypeError(f"source must be of a dtype that can be cast to {out.dtype}, got {source.dtype}")
    if out.device != source.device:
        raise ValueError(f"source must be on the device of out, {out.device}, got {source.device}")
    return source


def _check_shapes(out: torch.Tensor, source: torch.Tensor) -> None:
    if out.shape != source.shape:
        raise ValueError(
            f"source must have the shape of out, {shown(tuple(out.shape))}, got {shown(tuple(source.shape))}"
        )


def _in_box(argument: str, tensor: torch.Tensor, box: Box, backwards: tuple[int, ...] = ()) -> torch.Tensor:
    if not isinstance(box, Box):
        raise TypeError(f"{argument} must be a Box, {got(box)}")
    if not box.lies_in(tuple(tensor.shape)):
        raise ValueError(f"{argument} must lie in a tensor of shape {shown(tuple(tensor.shape))}, got {shown(box)}")
    return box.mirrored(tensor.shape, backwards).of(tensor)
