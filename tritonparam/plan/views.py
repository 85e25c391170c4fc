"""Views and boxes: which elements of a storage a tensor shows, and which box of one view another view is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tritonparam._arguments import got, integers, shown
from tritonparam.plan.memory import check_strided


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a tensor: where it starts and how far it goes, dimension by dimension.

    Attributes:
        offsets: The index of its first element; any iterable of ints becomes a tuple.
        sizes: Its shape, likewise.

    Raises:
        TypeError: offsets or sizes holds anything but ints.
        ValueError: They are not of one length.

    Examples:
        >>> Box((1, 0), (2, 3)).of(torch.arange(12).view(4, 3)).tolist()
        [[3, 4, 5], [6, 7, 8]]
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        for argument in ("offsets", "sizes"):
            given = getattr(self, argument)
            ints = integers(argument, given)
            if ints is not given:
                object.__setattr__(self, argument, ints)
        if len(self.offsets) != len(self.sizes):
            raise ValueError(
                f"offsets and sizes must be of one length, got {shown(self.offsets)} and {shown(self.sizes)}"
            )

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Box:
        """The box that is all of a tensor of `shape`.

        Raises:
            TypeError: shape holds anything but ints.
        """
        sizes = integers("shape", shape)
        return cls._of_ints((0,) * len(sizes), sizes)

    @classmethod
    def _of_ints(cls, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Box:
        """The box of two tuples of one length that hold ints and nothing else."""
        box = cls.__new__(cls)
        object.__setattr__(box, "offsets", offsets)
        object.__setattr__(box, "sizes", sizes)
        return box

    def lies_in(self, shape: Sequence[int]) -> bool:
        """Whether it is a box of a tensor of `shape`.

        Raises:
            TypeError: shape holds anything but ints.
        """
        extents = integers("shape", shape)
        return len(self.offsets) == len(extents) and all(
            offset >= 0 and size >= 0 and offset + size <= extent
            for offset, size, extent in zip(self.offsets, self.sizes, extents, strict=True)
        )

    def meet(self, other: Box) -> Box | None:
        """The elements in both boxes; None where there are none.

        Raises:
            TypeError: other is no Box.
            ValueError: It has another number of dimensions.
        """
        self._check_other("other", other)
        starts = tuple(map(max, self.offsets, other.offsets))
        ends = map(min, self._ends(), other._ends())
        sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return Box(starts, sizes) if all(size > 0 for size in sizes) else None

    def minus(self, inner: Box) -> list[Box]:
        """Disjoint boxes that hold the elements of this box outside `inner`, which lies within it.

        Raises:
            TypeError: inner is no Box.
            ValueError: It has another number of dimensions.
        """
        self._check_other("inner", inner)
        rest, offsets, sizes = [], list(self.offsets), list(self.sizes)
        for d, (start, size) in enumerate(zip(inner.offsets, inner.sizes, strict=True)):
            end = offsets[d] + sizes[d]
            for low, high in ((offsets[d], start), (start + size, end)):
                if low < high:
                    rest.append(Box((*offsets[:d], low, *offsets[d + 1 :]), (*sizes[:d], high - low, *sizes[d + 1 :])))
            offsets[d], sizes[d] = start, size
        return rest

    def within(self, outer: Box) -> Box:
        """This box as a box of what lies in `outer`, which contains it.

        Raises:
            TypeError: outer is no Box.
            ValueError: It has another number of dimensions.

        Examples:
            >>> Box((5, 2), (2, 3)).within(Box((4, 2), (3, 3)))
            Box(offsets=(1, 0), sizes=(2, 3))
        """
        self._check_other("outer", outer)
        return Box(tuple(o - first for o, first in zip(self.offsets, outer.offsets, strict=True)), self.sizes)

    def mirrored(self, shape: Sequence[int], dims: Iterable[int]) -> Box:
        """This box of a tensor of `shape`, counted from its end along `dims`.

        Raises:
            TypeError: shape or dims holds anything but ints.
            ValueError: shape has another number of dimensions, or dims names one that it does not have.

        Examples:
            >>> Box((1, 0), (2, 3)).mirrored((5, 4), (0,))
            Box(offsets=(2, 0), sizes=(2, 3))
        """
        extents, axes, offsets = integers("shape", shape), integers("dims", dims), list(self.offsets)
        if len(extents) != len(offsets):
            raise ValueError(f"shape must have the {len(offsets)} dimensions of the box, got {shown(extents)}")
        if any(not -len(offsets) <= d < len(offsets) for d in axes):
            raise ValueError(f"dims must be dimensions of the box {self}, got {shown(axes)}")
        for d in axes:
            offsets[d] = extents[d] - self.offsets[d] - self.sizes[d]
        return Box(tuple(offsets), self.sizes)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elements of `tensor` in this box, as a view of it.

        Raises:
            TypeError: tensor is no torch.Tensor.
            ValueError: It is sparse, nested or without a shape, or the box does not lie in it.
        """
        check_strided("tensor", tensor)
        if not self.lies_in(tensor.shape):
            raise ValueError(f"the box must lie in tensor, of shape {shown(tuple(tensor.shape))}, got {shown(self)}")
        for d, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            tensor = tensor.narrow(d, offset, size)
        return tensor

    def _check_other(self, argument: str, other: object) -> None:
        if not isinstance(other, Box):
            raise TypeError(f"{argument} must be a Box, {got(other)}")
        if len(other.sizes) != len(self.sizes):
            raise ValueError(f"{argument} must have the {len(self.sizes)} dimensions of the box, got {shown(other)}")

    def _ends(self) -> tuple[int, ...]:
        return tuple(offset + size for offset, size in zip(self.offsets, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class View:
    """The elements of a storage that a strided tensor shows.

    Attributes:
        shape, stride, offset, dtype: Those of the tensor.
        conjugate, negative: Whether it shows their conjugates, or their negatives: torch notes that in a bit.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    conjugate: bool = False
    negative: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> View:
        """The view that `tensor` is of its storage."""
        place = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype
        return cls(*place, tensor.is_conj(), tensor.is_neg())

    @classmethod
    def all_of(cls, storage: torch.UntypedStorage, dtype: torch.dtype = torch.uint8) -> View:
        """The view of all elements of `dtype` that a storage has, one after the other."""
        return cls((storage.nbytes() // dtype.itemsize,), (1,), 0, dtype)

    @property
    def numel(self) -> int:
        """The number of elements shown."""
        return math.prod(self.shape)

    @property
    def last(self) -> int:
        """The largest position in the storage that is shown; offset - 1 where nothing is."""
        if not self.numel:
            return self.offset - 1
        return self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """The tensor that shows these elements of `storage`, which is no autograd view of another."""
        shown = torch.empty(0, dtype=self.dtype, device=storage.device)
        shown.set_(storage, self.offset, self.shape, self.stride)
        if self.conjugate:
            torch._C._set_conj(shown, True)
        if self.negative:
            torch._C._set_neg(shown, True)
        return shown

    def narrow(self, box: Box) -> View:
        """The view of one box of this one."""
        start = sum(offset * step for offset, step in zip(box.offsets, self.stride, strict=True))
        return View(box.sizes, self.stride, self.offset + start, self.dtype, self.conjugate, self.negative)

    def axes(self) -> list[int] | None:
        """The dimensions of more than one element, from the outermost; None where two indices share an element."""
        axes = sorted((d for d, size in enumerate(self.shape) if size > 1), key=lambda d: -self.stride[d])
        for outer, inner in itertools.pairwise(axes):
            if self.stride[outer] < self.stride[inner] * self.shape[inner]:
                return None
        return None if axes and self.stride[axes[-1]] < 1 else axes

    def fills(self, nbytes: int) -> bool:
        """Whether every element of a storage of `nbytes` is shown."""
        return self.numel * self.dtype.itemsize == nbytes and (self.row_major() or self.axes() is not None)

    def row_major(self) -> bool:
        """Whether the elements lie one after the other, in row-major order."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an inner view lies in an outer one.

    Attributes:
        box: The inner view as a box of the outer one.
        dims: For each dimension of the inner view, the dimension of the outer one it runs along; None where it is one
            element long.
    """

    box: Box
    dims: tuple[int | None, ...]


def placement(inner: View, outer: View) -> Placement | None:
    """Where `inner` lies in `outer`, two views of one storage; None where it is no box of it, or has no elements."""
    axes = outer.axes()
    rest = inner.offset - outer.offset
    if inner.dtype != outer.dtype or axes is None or rest < 0 or not inner.numel:
        return None
    if (inner.conjugate, inner.negative) != (outer.conjugate, outer.negative):
        return None
    offsets, sizes = [0] * len(outer.shape), [1] * len(outer.shape)
    for d in axes:
        offsets[d], rest = divmod(rest, outer.stride[d])
    by_stride = {outer.stride[d]: d for d in axes}
    dims: list[int | None] = []
    for size, stride in zip(inner.shape, inner.stride, strict=True):
        found = by_stride.pop(stride, None) if size > 1 else None
        if size > 1 and found is None:
            return None
        if found is not None:
            sizes[found] = size
        dims.append(found)
    if rest or any(start + n > size for start, n, size in zip(offsets, sizes, outer.shape, strict=True)):
        return None
    return Placement(Box(tuple(offsets), tuple(sizes)), tuple(dims))


def apart(a: View, b: View) -> bool:
    """Whether two views of one storage certainly share no element."""

    def span(view: View) -> tuple[int, int]:
        return view.offset * view.dtype.itemsize, (view.last + 1) * view.dtype.itemsize

    (a_start, a_end), (b_start, b_end) = span(a), span(b)
    return a_end <= b_start or b_end <= a_start


def cut_boxes(shape: Sequence[int], limit: int) -> Iterator[Box]:
    """Boxes of at most `limit` elements that follow each other in the row-major tensor of `shape`, and are all of it.

    Examples:
        >>> list(cut_boxes((3, 2), 4))
        [Box(offsets=(0, 0), sizes=(2, 2)), Box(offsets=(2, 0), sizes=(1, 2))]
    """
    if math.prod(shape) <= limit:
        yield Box.whole(shape)
        return
    inner = tuple(shape[1:])
    rows = limit // math.prod(inner)
    if rows:
        for row in range(0, shape[0], rows):
            yield Box((row, *(0,) * len(inner)), (min(rows, shape[0] - row), *inner))
        return
    for row in range(shape[0]):
        for box in cut_boxes(inner, limit):
            yield Box((row, *box.offsets), (1, *box.sizes))
