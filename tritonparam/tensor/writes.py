"""Writes: what tensors are to hold, gathered for one plan; what no operation can write directly is staged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tritonparam.dtype import DType, as_dtype, float32, float64
from tritonparam.plan import Box, Copy, Fill, Plan, box_of_box, cut_boxes, is_deferred, overlap, view_of_array
from tritonparam.stream import Constant, Law, constant_tensor
from tritonparam.tensor.content import Content, Pattern, fills_of, finish_of
from tritonparam.tensor.storage import copy_of_array

if TYPE_CHECKING:
    import numpy.typing as npt

_AT_ONCE = 2**20  # elements of temporaries; changes no value


class Writes:
    """Operations that are checked as they are added and done by `run`, those that need no staging in one plan.

    Raises, on adding: what Fill and Copy raise; nothing has been written then.
    """

    def __init__(self) -> None:
        self._reads: list[Copy] = []  # into staging, before anything is written
        self._operations: list[Fill | Copy] = []
        self._unfinished: list[tuple[Content, torch.Tensor, int, tuple[int, ...]]] = []
        self._last: list[Copy] = []  # of what was drawn into staging
        self._noted: list[tuple[torch.Tensor, torch.Tensor]] = []  # inside deferred_init
        self._overwritten: list[torch.Tensor] = []

    def law(
        self,
        out: torch.Tensor,
        content: Content,
        key: int,
        shape: tuple[int, ...],
        offsets: tuple[int, ...],
        fresh: bool = True,
    ) -> None:
        """Write into `out` the box at `offsets` of what `content` gives a tensor of `shape` and the dtype of `out`.

        Args:
            out: Of any strides without overlap.
            content, key, shape, offsets: As for `fills_of`. Integers are cut from what is drawn as float32.
            fresh: Nobody minds what is in `out` if something goes wrong while it is written.
        """
        dtype = out.dtype
        if not (dtype.is_floating_point or isinstance(content, (Constant, CastPattern))):
            dtype = torch.float32
        direct = dtype == out.dtype and (isinstance(content, Law) or (fresh and out.is_contiguous()))
        drawn = out if direct else torch.empty(out.shape, dtype=dtype, device=out.device)
        self._operations += fills_of(content, drawn, key, shape, offsets)
        self._unfinished.append((content, drawn, key, offsets))
        if not direct:
            self._last.append(Copy(out, drawn))
        if not fresh:
            self._overwritten.append(out)

    def copy(
        self,
        out: torch.Tensor,
        source: torch.Tensor | npt.NDArray[Any],
        fresh: bool = True,
        stage: bool | None = None,
    ) -> None:
        """Write `source`, on any device, into `out`.

        Args:
            out: Of any strides without overlap; contiguous if fresh.
            source: Of the shape of `out`.
            fresh: `out` is new memory: nobody minds what is in it, nor can `source` share it.
            stage: It is to be read before anything is written; None if that is so where it shares memory with `out`.
        """
        if is_deferred(out):  # which takes note of what torch does
            if not isinstance(source, torch.Tensor):
                source = copy_of_array(source)
            elif not fresh:  # it may be read where another one has written by then
                source = source.clone()
            self._noted.append((out, source))
            return
        if isinstance(source, np.ndarray) and out.device.type != "cpu":
            source = _on_host(source)
        if isinstance(source, torch.Tensor) and source.device != out.device:
            source = source.to(out.device)
        elif stage or (stage is None and not fresh and shares_memory(out, source)):
            dtype = source.dtype if isinstance(source, torch.Tensor) else as_dtype(source.dtype).torch
            staged = torch.empty(source.shape, dtype=dtype, device=out.device)
            self._reads.append(Copy(staged, source))
            source = staged
        if fresh and isinstance(source, torch.Tensor):
            self._operations.append(Copy._into_new(out, source))
        else:
            self._operations.append(Copy(out, source))
        if not fresh:
            self._overwritten.append(out)

    def run(self, backend: str | None = None) -> None:
        """Do them, in one plan if nothing is staged."""
        first = [Plan(each, backend) for each in (self._reads, self._operations) if each]
        last = [Plan(self._last, backend)] if self._last else []
        for plan in first:
            plan.run()
        for content, drawn, key, offsets in self._unfinished:
            finish_of(content, drawn, key, offsets)
        for plan in last:
            plan.run()
        for out, source in self._noted:
            out.copy_(source)
        for out in self._overwritten:
            if out.device.type != "cpu" and not out.is_inference():  # on a host torch's own copies have said so
                torch.autograd.graph.increment_version(out)


def _on_host(array: npt.NDArray[Any]) -> torch.Tensor:
    """A contiguous copy of an array."""
    copied = torch.empty(array.shape, dtype=as_dtype(array.dtype).torch, device="cpu")
    Plan([Copy(copied, array)]).run()
    return copied


def shares_memory(out: torch.Tensor, source: torch.Tensor | npt.NDArray[Any]) -> bool:
    """Whether some byte is in both, or may be where that is hard to find out."""
    if isinstance(source, torch.Tensor):
        return overlap(out, source)
    # What torch cannot show is copied when it is looked at.
    return out.device.type == "cpu" and source.dtype.isnative and overlap(out, view_of_array(source)[0])


@dataclass(frozen=True)
class CastPattern(Pattern):
    """What `content` gives a tensor of `dtype`, cast: what rounding to that dtype has lost stays lost."""

    content: Content
    dtype: DType
    shape: tuple[int, ...]

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> tuple[()]:
        return ()

    def finish(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
        limit = _AT_ONCE if isinstance(self.content, Law) else out.numel()
        for box in cut_boxes(out.shape, limit):
            drawn = torch.empty(box.sizes, dtype=self.dtype.torch, device=out.device)
            writes = Writes()
            origin = box_of_box(Box(offsets, tuple(out.shape)), box).offsets
            writes.law(drawn, self.content, key, self.shape, origin)
            writes.run()
            Plan([Copy(box.of(out), drawn)]).run()


def cast_content(content: Content, source: DType, dtype: DType, shape: tuple[int, ...]) -> Content:
    """The content of a tensor of `dtype` that has, cast, the values of a lazy one of `source`.

    Examples:
        >>> from tritonparam import Normal
        >>> from tritonparam.dtype import bfloat16
        >>> cast_content(Normal(), float32, bfloat16, (2,))
        Normal(mean=0.0, std=1.0)
        >>> cast_content(Constant(0.1), bfloat16, float32, (2,))
        Constant(value=0.10009765625)
        >>> cast_content(Normal(), bfloat16, float32, (2,)) == CastPattern(Normal(), bfloat16, (2,))
        True
    """
    if source is dtype:
        return content
    if isinstance(content, Constant):
        value = constant_tensor(content, source.torch)
        cast = torch.empty_like(value, dtype=dtype.torch)
        Plan([Copy(cast, value)]).run()
        return Constant(cast.item())
    if isinstance(content, Law) and source in (float32, float64) and dtype.is_floating_point:
        return content  # a float32 value, rounded once
    return CastPattern(content, source, shape)
