"""Patterns: what a tensor holds as a whole, where no single law says it for every element."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from tritonparam.plan import Box, Fill, Plan
from tritonparam.stream import Constant, Normal, Uniform, derive_key
from tritonparam.tensor import Pattern, put_from_host

_AT_ONCE = 2**22  # elements of temporaries; changes no value


@dataclass(frozen=True)
class DiagonalPattern(Pattern):
    """Zeros, and ones at [g * n + d, d, middle, ...] for each of `groups` groups g of n = shape[0] // groups rows."""

    shape: tuple[int, ...]
    groups: int = 1

    def _runs(self, sizes: tuple[int, ...], offsets: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
        """The ones of a contiguous box: flat position of the first of a run, steps between them and their number."""
        strides = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
        position = 0
        for d in range(2, len(sizes)):
            middle = self.shape[d] // 2 - offsets[d]
            if not 0 <= middle < sizes[d]:
                return
            position += middle * strides[d]
        rows = self.shape[0] // self.groups
        for start in range(0, self.shape[0], rows):
            first = max(0, offsets[1], offsets[0] - start)
            end = min(rows, self.shape[1], offsets[1] + sizes[1], offsets[0] + sizes[0] - start)
            if first < end:
                at = (start + first - offsets[0]) * strides[0] + (first - offsets[1]) * strides[1] + position
                yield at, strides[0] + strides[1], end - first

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> Iterator[Fill]:
        flat, done = out.view(-1), 0
        for start, step, count in self._runs(tuple(out.shape), offsets):
            yield Fill(flat[done:start], Constant(0))
            done = start + (count - 1) * step + 1
            yield Fill(flat[start:done:step], Constant(1))
            if count > 1 and step > 1:  # a table of what lies between one and the next, row by row
                origin = int(flat.storage_offset()) + start + 1
                yield Fill(flat.as_strided((count - 1, step - 1), (step, 1), origin), Constant(0))
        yield Fill(flat[done:], Constant(0))


@dataclass(frozen=True)
class SparsePattern(Pattern):
    """Normal values, but zeros in `zeros` rows of every column: those with the smallest numbers of a uniform draw."""

    shape: tuple[int, ...]
    zeros: int
    sigma: float

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> Iterable[Fill]:
        return (Fill(out, Normal(mean=0.0, std=self.sigma), key, self.shape, offsets),)

    def finish(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
        rows = self.shape[0]
        width = max(1, _AT_ONCE // rows)
        for column in range(0, out.shape[1], width):
            part = out[:, column : column + width]
            draw = torch.empty(rows, part.shape[1], device=out.device)
            box = (0, offsets[1] + column)
            Plan([Fill(draw, Uniform(low=0.0, high=1.0), derive_key(key, "sparse"), self.shape, box)]).run()
            chosen = draw.argsort(dim=0, stable=True)[: self.zeros]
            is_zero = torch.zeros_like(draw, dtype=torch.bool).scatter_(0, chosen, True)
            part.copy_(torch.where(is_zero[offsets[0] : offsets[0] + part.shape[0]], part.new_zeros(()), part))


@dataclass(frozen=True)
class OrthogonalPattern(Pattern):
    """The orthogonal factor of a normal draw times `gain`; every box of it takes the factorization of the whole."""

    shape: tuple[int, ...]
    gain: float

    def fills(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> Iterable[Fill]:
        return ()

    def finish(self, out: torch.Tensor, key: int, offsets: tuple[int, ...]) -> None:
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        with torch.device("cpu"):
            draw = torch.empty(rows, columns, dtype=torch.float64)
            Plan([Fill(draw, Normal(mean=0.0, std=1.0), key)]).run()
            factor, triangle = torch.linalg.qr(draw if rows >= columns else draw.T)
            signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(torch.float64)
            whole = factor * signs * self.gain
            whole = (whole if rows >= columns else whole.T).reshape(self.shape)
        put_from_host(out, Box(offsets, tuple(out.shape)).of(whole))
