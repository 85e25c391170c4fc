"""Moving values from mapped files to where they will live: straight to a host, in turns of two buffers to a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from tritonparam.checkpoint.casts import WIDENED, widened
from tritonparam.plan import Copy, CopyColumns, Plan, cut_boxes

STAGING = 1 << 26  # bytes of a staging buffer
_STEP = 1 << 28  # bytes of a step of the progress bar on a host, where each takes its threads a start and a wait
_WIDENED = 1 << 22  # elements that are widened on the host at a time
_WIDEST = 8  # bytes of the widest float
_ALIGNMENT = 16


class Move(Copy):
    """A Copy that is not checked, since who makes it has: `out` as `Copy` does, and `source` is memory of its own.

    `out` may be on another device than `source`, which is on the host; such a Move is for `Staging` to do.

    Attributes:
        nbytes: The bytes of a file that it stands for.
    """

    __slots__ = ("nbytes",)

    def __init__(self, out: torch.Tensor, source: torch.Tensor, nbytes: int | None = None) -> None:
        self.out, self.source, self.backwards = out, source, ()
        self.nbytes = source.nbytes if nbytes is None else nbytes


def move(moves: Iterable[Move], backend: str | None = None, advance: Callable[[int], None] = lambda _: None) -> None:
    """Do all moves; beside the results, memory is taken for CUDA devices' staging buffers, and for what is widened.

    Args:
        moves: No two of them write the same element.
        backend: As for `Plan`.
        advance: Called with the bytes of each piece that was read.
    """
    by_device: dict[torch.device, list[Move]] = {}
    for each in moves:
        by_device.setdefault(each.out.device, []).append(each)
    for device, group in by_device.items():
        narrow = [each for each in group if _is_narrow(each)]
        plain = [each for each in group if not _is_narrow(each)] if narrow else group
        if device.type == "cpu":
            for batch in itertools.chain(_batches(plain, _STEP), _widened(narrow, _WIDENED)):
                columns = CopyColumns([each.out for each in batch], [each.source for each in batch])
                Plan(columns, backend).run()
                advance(_nbytes(batch))
        else:
            size = sum(_aligned(each.source.nbytes) for each in plain)
            size = min(STAGING, size + sum(_aligned(_WIDEST * each.source.numel()) for each in narrow))
            batches = itertools.chain(_batches(plain, size), _widened(narrow, min(_WIDENED, size // _WIDEST)))
            with torch.cuda.device(device):
                Staging(device, size).run(batches, backend, advance)


class Staging:
    """Two page-locked buffers used in turn: while a device fetches one, the host copies into the other.

    Args:
        device: Where the values go.
        size: Of each buffer, in bytes.
        pinned: Whether the buffers are page-locked.
        event: Makes what tells that the device is done with a buffer.
    """

    def __init__(
        self, device: torch.device, size: int, pinned: bool = True, event: Callable[[], Any] = torch.cuda.Event
    ) -> None:
        self._hosts = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        # One will do: the next transfer into it comes after the plan that reads it, on the same stream.
        self._arrived = torch.empty(size, dtype=torch.uint8, device=device)
        self._events: list[Any] = [None, None]
        self._event = event

    def run(self, batches: Iterable[list[Move]], backend: str | None, advance: Callable[[int], None]) -> None:
        """Move batches, each of at most the size of a buffer; returns when the device has read the last."""
        for turn, batch in enumerate(batches):
            host, done = self._hosts[turn % 2], self._events[turn % 2]
            if done is not None:
                done.synchronize()
            used = _packed(batch, host)
            end = used[-1][1] if used else 0
            Plan(Move(_shown(host, span, each), each.source) for span, each in zip(used, batch, strict=True)).run()
            self._arrived[:end].copy_(host[:end], non_blocking=True)
            event = self._events[turn % 2] = self._event()
            event.record()
            moves = [Move(each.out, _shown(self._arrived, span, each)) for span, each in zip(used, batch, strict=True)]
            Plan(moves, backend).run()
            advance(_nbytes(batch))
        for event in self._events:
            if event is not None:
                event.synchronize()


def _batches(moves: Sequence[Move], limit: int) -> Iterator[list[Move]]:
    """The moves, cut into pieces and gathered into lists that fit a buffer of `limit` bytes."""
    if moves and sum([_ALIGNMENT + each.source.nbytes for each in moves]) <= limit:
        yield [*moves]
        return
    batch: list[Move] = []
    filled = 0
    for whole in moves:
        for each in _cut(whole, limit):
            nbytes = _aligned(each.source.nbytes)
            if batch and filled + nbytes > limit:
                yield batch
                batch, filled = [], 0
            batch.append(each)
            filled += nbytes
    if batch:
        yield batch


def _cut(whole: Move, limit: int) -> Iterable[Move]:
    if whole.source.nbytes <= limit:
        return (whole,)
    boxes = cut_boxes(whole.source.shape, limit // whole.source.element_size())
    return (Move(box.of(whole.out), box.of(whole.source)) for box in boxes)


def _is_narrow(move: Move) -> bool:
    """Whether a plan has no cast for it."""
    return move.source.dtype in WIDENED and move.out.dtype != move.source.dtype


def _widened(moves: Iterable[Move], limit: int) -> Iterator[list[Move]]:
    """Moves that a plan has no cast for, in pieces of at most `limit` elements, each with a source that it takes."""
    for whole in moves:
        for box in cut_boxes(whole.source.shape, limit):
            out, source = box.of(whole.out), box.of(whole.source)
            yield [Move(out, widened(source, out.dtype), source.nbytes)]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _nbytes(batch: Iterable[Move]) -> int:
    return sum(each.nbytes for each in batch)


def _packed(batch: Iterable[Move], buffer: torch.Tensor) -> list[tuple[int, int]]:
    """Where in `buffer` each move's values are staged: first byte and the one after the last."""
    spans, start = [], 0
    for each in batch:
        end = start + each.source.nbytes
        spans.append((start, end))
        start = _aligned(end)
    if spans and spans[-1][1] > buffer.numel():
        raise ValueError(f"batches must fit into the {buffer.numel()} bytes of a buffer, got {spans[-1][1]}")
    return spans


def _shown(buffer: torch.Tensor, span: tuple[int, int], each: Move) -> torch.Tensor:
    return buffer[span[0] : span[1]].view(each.source.dtype).view(each.source.shape)
