"""Sources: which elements of which keyed tensor some values are; the one way to say where random numbers come from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tritonparam.plan import Box, Fill, Placement
from tritonparam.stream import Law, derive_key


@dataclass(frozen=True, slots=True)
class Elements:
    """Which elements of a tensor another one, their holder, has.

    Attributes:
        offsets: The first of them.
        dims: For each dimension of the tensor, the dimension of the holder that runs along it; None where the elements
            go one far.

    Examples:
        >>> column = Elements((0, 5), (0, None))
        >>> column.cut(Box((2,), (3,)))
        Elements(offsets=(2, 5), dims=(0, None))
    """

    offsets: tuple[int, ...]
    dims: tuple[int | None, ...]

    @classmethod
    def all_of(cls, shape: Sequence[int]) -> Elements:
        """All of a tensor of `shape`, in its own dimensions."""
        return cls((0,) * len(shape), tuple(range(len(shape))))

    def are_all_of(self, shape: tuple[int, ...]) -> bool:
        """Whether they are all of a tensor of `shape`, in its own dimensions, and their holder has that shape."""
        return self == _all_of(shape) or (1 in shape and self == Elements.all_of(shape))

    def cut(self, box: Box) -> Elements:
        """Those in a box of the holder."""
        return Elements(self._shifted(self.dims, box.offsets), self.dims)

    def part(self, spot: Placement, box: Box) -> Elements:
        """Those in a box of a view that lies at `spot` of the holder."""
        back = {outer: inner for inner, outer in enumerate(spot.dims) if outer is not None}
        dims = tuple(None if k is None else back.get(k) for k in self.dims)
        moved = Elements(self._shifted(self.dims, spot.box.offsets), dims)
        return moved.cut(box)

    def inside(self, spot: Placement, box: Box) -> Elements:
        """Those in a box of a larger holder, at `spot` of which this one lies."""
        dims = tuple(None if k is None else spot.dims[k] for k in self.dims)
        moved = Elements(self._shifted(dims, [-offset for offset in spot.box.offsets]), dims)
        return moved.cut(box)

    def of(self, inner: Elements) -> Elements:
        """Those that have the elements `inner` of the holder, a tensor itself.

        Examples:
            >>> Elements((4, 0), (0, 1)).of(Elements((1, 2), (1, 0)))
            Elements(offsets=(5, 2), dims=(1, 0))
        """
        dims = tuple(None if k is None else inner.dims[k] for k in self.dims)
        return Elements(self._shifted(self.dims, inner.offsets), dims)

    def _shifted(self, dims: Sequence[int | None], by: Sequence[int]) -> tuple[int, ...]:
        return tuple(offset if d is None else offset + by[d] for offset, d in zip(self.offsets, dims, strict=True))


@functools.lru_cache(maxsize=1024)
def _all_of(shape: tuple[int, ...]) -> Elements:
    """All of a tensor of `shape`: along dimensions of one element nothing runs."""
    return Elements((0,) * len(shape), tuple(d if size != 1 else None for d, size in enumerate(shape)))


ONE = Elements((), ())  # the element of a tensor without dimensions


@dataclass(frozen=True, slots=True)
class Source:
    """Which elements of which keyed tensor some values are.

    Attributes:
        name, occurrence: Of the key.
        shape: The shape of the keyed tensor.
        elements: Which of its elements the values are.
        reshape: The shape under which the values, all of them in row-major order, have the dimensions that `elements`
            speaks of; None for their own.
        seed: The seed of the key, where it does not depend on that of `materialize`: a constructor looked at the
            values.
    """

    name: str
    occurrence: int
    shape: tuple[int, ...] = ()
    elements: Elements = ONE
    reshape: tuple[int, ...] | None = None
    seed: int | None = None

    def of(self, inner: Elements, reshape: tuple[int, ...] | None = None) -> Source:
        """The source of what holds the elements `inner` of these values."""
        if inner is not self.elements or not inner.are_all_of(self.shape):
            inner = self.elements.of(inner)
        elif reshape == self.reshape:
            return self
        return Source(self.name, self.occurrence, self.shape, inner, reshape, self.seed)

    def are_all_of(self, shape: tuple[int, ...]) -> bool:
        """Whether the values are the keyed tensor, and of `shape`."""
        return self.reshape is None and self.shape == shape and self.elements.are_all_of(shape)

    def reshaped(self, shape: tuple[int, ...]) -> Source:
        """The same values, of which a holder of `shape` has all in their order, so that boxes of it can be cut.

        A keyed tensor has the values of its elements by their row-major index: under another shape they are the same.
        """
        if self.reshape is None or not self.elements.are_all_of(self.shape):
            return self
        return replace(self, shape=shape, elements=Elements.all_of(shape), reshape=None)

    def cut(self, box: Box) -> Source:
        """The source of a box of the values.

        Raises:
            ValueError: They are reshaped, so that a box of them is none of the keyed tensor.
        """
        if self.reshape is not None:
            raise ValueError(f"box must be None where values are reshaped, got {box}")
        return replace(self, elements=self.elements.cut(box))

    def key(self, seed: int) -> int:
        """The 64-bit key, given the seed of `materialize`."""
        return derive_key(seed if self.seed is None else self.seed, self.name, self.occurrence)

    def fill(self, out: torch.Tensor, law: Law, seed: int) -> Fill:
        """The fill that writes the values, which follow `law`, to `out`."""
        if self.are_all_of(tuple(out.shape)):
            return Fill(out, law, self.key(seed))
        if self.reshape is not None:
            out = out.view(self.reshape)
        dims = self.elements.dims
        sizes = [1 if d is None else out.shape[d] for d in dims]
        strides = [1 if d is None else out.stride(d) for d in dims]
        return Fill(out.as_strided(sizes, strides), law, self.key(seed), self.shape, self.elements.offsets)
