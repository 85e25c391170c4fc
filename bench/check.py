"""Whether a maker's values are right. Each check returns what is wrong, or None."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import erf, exp, pi, sqrt

import torch

from bench.cases import LAWS, WHOLE, Case
from bench.memory import Memory
from tritonparam import Constant, Fill, Law, Normal, Plan, Uniform, derive_key

COMPARED_WHOLE = 2**16  # a tensor of so many elements or fewer is compared whole, a larger one in windows
PIECE = 2**24  # elements that statistics look at at a time
_BITS = {2: torch.int16, 4: torch.int32}


def key_of(position: int) -> int:
    """The key of the tensor at this position of a case."""
    return derive_key(0, f"tensor {position}")


def windows(position: int, count: int) -> Iterator[tuple[int, int]]:
    """Start and stop of what is compared of a tensor: both ends, and eight windows anywhere."""
    if count <= COMPARED_WHOLE:
        yield 0, count
        return
    choose = random.Random(position)
    yield 0, COMPARED_WHOLE // 4
    yield count - COMPARED_WHOLE // 4, count
    for _ in range(8):
        start = choose.randrange(count - COMPARED_WHOLE // 16)
        yield start, start + COMPARED_WHOLE // 16


def not_the_reference(case: Case, memory: Memory) -> str | None:
    """Every value was written, and those in the windows have the bits that the NumPy definition gives."""
    law = LAWS[case.op]
    fills: list[Fill] = []
    compared: list[tuple[int, int, torch.Tensor]] = []
    for position, tensor in enumerate(memory.tensors):
        missing = torch.isnan(tensor)
        if bool(missing.any()):
            return f"tensor {position}, element {int(missing.reshape(-1).nonzero()[0])} was not written"
        rows = tensor.view(-1) if case.layout == WHOLE else tensor
        shape, offsets = case.place(tuple(rows.shape))
        inner = max(1, rows[:1].numel())  # elements a row
        for start, stop in windows(position, rows.numel()):
            first, last = start // inner, -(-stop // inner)
            want = torch.empty((last - first, *rows.shape[1:]), dtype=rows.dtype)
            fills.append(Fill(want, law, key_of(position), shape, (offsets[0] + first, *offsets[1:])))
            compared.append((position, first * inner, rows[first:last].cpu()))
    Plan(fills, backend="numpy").run()
    for (position, start, values), fill in zip(compared, fills, strict=True):
        fault = other_bits(values, fill.out, start)
        if fault is not None:
            return f"tensor {position}, {fault}"
    return None


def other_bits(got: torch.Tensor, want: torch.Tensor, first: int = 0) -> str | None:
    """Where two tensors of one shape and dtype differ first, if they do; the first element counts as `first`."""
    size = got.element_size()
    got, want = (each.contiguous().view(-1).view(_BITS[size]) for each in (got, want))
    wrong = got != want
    if not bool(wrong.any()):
        return None
    at, mask = int(wrong.nonzero()[0]), 2 ** (8 * size) - 1
    return f"element {first + at}: got bits {int(got[at]) & mask:#x}, want {int(want[at]) & mask:#x}"


def moments(law: Law) -> tuple[float, float, float, float]:
    """Mean, standard deviation, lowest and highest value of a law; a normal's bounds are 7 standard deviations."""
    if isinstance(law, Constant):
        return float(law.value), 0.0, float(law.value), float(law.value)
    if isinstance(law, Uniform):
        return (law.low + law.high) / 2, (law.high - law.low) / sqrt(12), law.low, law.high
    if isinstance(law, Normal):
        return law.mean, law.std, law.mean - 7 * law.std, law.mean + 7 * law.std
    a, b = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
    mass = (erf(b / sqrt(2)) - erf(a / sqrt(2))) / 2
    at_a, at_b = (exp(-x * x / 2) / sqrt(2 * pi) for x in (a, b))
    shift = (at_a - at_b) / mass
    variance = 1 + (a * at_a - b * at_b) / mass - shift**2
    return law.mean + shift * law.std, law.std * sqrt(variance), law.low, law.high


def not_plausible(case: Case, memory: Memory) -> str | None:
    """The values of a peer, which owes nothing to our stream: bounds hold, mean and deviation are near."""
    return unlike(LAWS[case.op], memory.tensors)


def unlike(law: Law, tensors: Sequence[torch.Tensor]) -> str | None:
    """Why these are not values of a law, all together; None if they may be.

    Bounds hold, mean and deviation are near: within six standard errors and one part in 32, which leaves room for peers
    that round or draw coarsely in bfloat16.
    """
    mean, deviation, low, high = moments(law)
    edges = torch.tensor([low, high], dtype=tensors[0].dtype).double()
    low, high = edges.tolist()
    total = squares = 0.0
    for position, tensor in enumerate(tensors):
        for piece in torch.split(tensor.reshape(-1), PIECE):
            if not bool(((piece >= low) & (piece <= high)).all()):
                return f"tensor {position} has values outside [{low}, {high}] or not written"
            centred = piece.double() - mean
            total += float(centred.sum())
            squares += float(centred.square().sum())
    count = sum(tensor.numel() for tensor in tensors)
    shift, spread = total / count, sqrt(squares / count)
    if abs(shift) > deviation * (6 / sqrt(count) + 1 / 32):
        return f"the mean is {mean + shift}, not {mean}"
    if abs(spread - deviation) > deviation * (6 / sqrt(count) + 1 / 32):
        return f"the standard deviation is {spread}, not {deviation}"
    return None
