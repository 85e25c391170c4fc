"""What a tensor is to hold: an initializer says it for a shape, as a law, or as a pattern where no single law does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonparam.dtype import as_dtype
from tritonparam.plan import Box, Copy, Fill, Plan
from tritonparam.stream import Law

if TYPE_CHECKING:
    import numpy.typing as npt


class Pattern:
    """What `Initializer.law` returns where one law does not do: the values of a whole tensor, written box by box.

    Derive from it, keep the shape of the whole tensor, and write `fills`; `finish` where fills are not enough. What is
    written must depend on the shape, the key and the element's place in the whole tensor, not on the box, so that boxes
    put together are the whole.

    Examples:
        >>> import tritonparam
        >>> from tritonparam.initializer import Initializer, initializer
        >>> class HeadPattern(Pattern):
        ...     def fills(self, out, key, offsets):
        ...         ones = max(0, min(2 - offsets[0], len(out)))
        ...         yield Fill(out[:ones], tritonparam.Constant(1))
        ...         yield Fill(out[ones:], tritonparam.Constant(0))
        >>> class Head(Initializer):
        ...     def law(self, shape):
        ...         return HeadPattern()
        >>> print(initializer(Head(), 5).asnumpy())
        [1. 1. 0. 0. 0.]
    """

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> Iterable[Fill]:
        """The operations that write a box; they run in one plan with those of all other tensors.

        Args:
            out: The box, contiguous, of a floating-point dtype; not written yet.
            key: The 64-bit key of the whole tensor.
            offsets: Where the box starts in the whole tensor.

        Returns:
            Fills of disjoint parts of `out`.
        """
        raise NotImplementedError(f"{type(self).__name__} must override fills(out, key, offsets)")

    def finish(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
        """Write what no fill can, after the plan has run. Arguments as for `fills`."""


Content = Law | Pattern


def fills_of(
    content: Content, out: torch.Tensor, key: int, shape: tuple[int, ...], offsets: tuple[int, ...]
) -> Iterable[Fill]:
    """The fills of a box of a tensor of `shape`, whatever its content is; `finish_of` follows once they have run."""
    if isinstance(content, Pattern):
        return content.fills(out, key, offsets)
    return (Fill(out, content, key, shape, offsets),)


def finish_of(content: Content, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
    """What is left to write after the fills of `fills_of`."""
    if isinstance(content, Pattern):
        content.finish(out, key, offsets)


def put_from_host(out: torch.Tensor, values: torch.Tensor) -> None:
    """Write values from the host into `out`, on any device, cast to its dtype."""
    Plan([Copy(out, values.to(out.device))]).run()


@dataclass(frozen=True)
class ArrayPattern(Pattern):
    """What a function of MindSpore's kind leaves in a NumPy array of the whole, on the host; boxes are cut from it."""

    shape: tuple[int, ...]
    write: Callable[[npt.NDArray[Any]], object]

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> Iterable[Fill]:
        return ()

    def finish(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
        dtype = as_dtype(out.dtype)
        array = np.zeros(self.shape, dtype.numpy if dtype.in_numpy else np.float32)
        self.write(array)
        put_from_host(out, Box(offsets, tuple(out.shape)).of(torch.from_numpy(array)))


class Initializer:
    """What a tensor's elements are drawn from, as a function of its shape. Derive from it and write `law`.

    Mostly that is one law for every element. Where it is not, `law` returns a `Pattern`, which writes the tensor box by
    box.

    A subclass written for MindSpore, which fills a NumPy array in `_initialize(arr)`, works too: the array is the whole
    tensor, on the host, also where only a slice is asked for. What it draws is its own affair. Of a class that has both
    methods, that of the class nearest to it counts: one derived from `Normal` that writes `_initialize` is asked.

    Args:
        kwargs: Not looked at; MindSpore's base class takes any.

    Examples:
        >>> import tritonparam
        >>> from tritonparam.initializer import fans, initializer
        >>> class InverseFan(Initializer):
        ...     def law(self, shape):
        ...         return tritonparam.Normal(std=1.0 / fans(shape)[0])
        >>> initializer(InverseFan(), (8, 100)).shape
        (8, 100)
    """

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs

    def _initialize(self, arr: npt.NDArray[Any]) -> None:
        """MindSpore's hook."""

    def law(self, shape: tuple[int, ...]) -> Content:
        """The law of a tensor of this (global) shape, or the pattern.

        Raises:
            NotImplementedError: The class does not say.
            ValueError: There is none for this shape.
        """
        if type(self)._initialize is Initializer._initialize:
            raise NotImplementedError(f"{type(self).__name__} must override law(shape)")
        return ArrayPattern(shape, self._initialize)


def content_of(init: Initializer, shape: tuple[int, ...]) -> Content:
    """What `init` says for a tensor of this shape, by whichever of its two methods was overridden last.

    Raises:
        NotImplementedError, ValueError: As `Initializer.law`.
    """
    for kind in type(init).__mro__:
        if "law" in vars(kind):
            break
        if "_initialize" in vars(kind):
            return ArrayPattern(shape, init._initialize)
    return init.law(shape)
