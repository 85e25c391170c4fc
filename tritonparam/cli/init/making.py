"""Making: values are computed and hashed in threads of their own, a few pieces ahead of the one that writes them.

All file operations stay with the caller, so that an interrupt, a full disk or a kill finds them in the order in which
they stand in `writing`.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

from tritonparam.cli.init.job import Job
from tritonparam.cli.init.pieces import Part, Shard, Source, pieces_of
from tritonparam.plan import ask_for_huge_pages

PIECE = 1 << 23  # bytes: a core's share of the cache, and many times what handing it over costs
AHEAD = 4  # pieces in memory: one that is made, those that are hashed, one that is written
_HASHERS = 4
_PATIENCE = 0.5  # seconds, after which a thread looks whether its program is ending

_PAGE = 4096  # bytes


class Making:
    """The bytes of a job's shards, made while earlier ones are written; memory holds AHEAD pieces of them.

    A context manager, whose end ends its threads. What goes wrong in one of them is raised to who asks for bytes.

    Args:
        job: What is made.
        shards: Its shards, in the order in which they are asked for.
        device: Where values are computed. It changes none of them.
        backend: Who computes them; the device's own where None. It changes none of them.
    """

    def __init__(self, job: Job, shards: Iterable[Shard], device: torch.device, backend: str | None) -> None:
        self._shards = tuple(shards)
        self._source = Source(job, device, backend)
        largest = max((shard.nbytes for shard in self._shards), default=0)
        self._size = max([min(PIECE, largest), *(entry.dtype.itemsize for entry in job.entries)])
        on_gpu = device.type == "cuda"
        apart = -(-self._size // _PAGE) * _PAGE  # so that elements of any dtype lie at multiples of their size
        room = torch.empty(AHEAD * apart, dtype=torch.uint8, device="cpu", pin_memory=on_gpu)
        ask_for_huge_pages(room)
        self._room = [room[slot * apart : slot * apart + self._size] for slot in range(AHEAD)]
        self._staging = torch.empty(self._size, dtype=torch.uint8, device=device) if on_gpu else None
        self._free = threading.Semaphore(AHEAD)
        self._ready: queue.SimpleQueue[memoryview | BaseException] = queue.SimpleQueue()
        self._readers: list[list[Future[None]]] = [[] for _ in range(AHEAD)]
        self._hashes: dict[str, _Hash] = {}
        self._hashing: dict[str, list[Future[None]]] = {shard.name: [] for shard in self._shards}
        self._pools = [ThreadPoolExecutor(1) for _ in range(min(_HASHERS, os.cpu_count() or 1))]
        self._loads = [0] * len(self._pools)  # bytes that each has or had to hash
        self._maker = threading.Thread(target=self._make, name="tritonparam-making")
        self._stopped = False

    def __enter__(self) -> Making:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._free.release()
        if self._maker.ident is not None:
            self._maker.join()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def parts(self, shard: Shard) -> Iterator[memoryview]:
        """The bytes of the tensors of `shard`, the next that is due; each part lasts until the next is asked for.

        Raises:
            BaseException: What went wrong while they were made.
        """
        if self._maker.ident is None:  # only now: who started it will end it
            self._maker.start()
        missing = shard.nbytes
        while missing:
            part = self._ready.get()
            if isinstance(part, BaseException):
                raise part
            yield part
            missing -= len(part)
            self._free.release()

    def digests(self, shard: Shard) -> dict[str, str]:
        """The sha256 of each tensor of `shard`, all of whose parts have been asked for."""
        for each in self._hashing.pop(shard.name):
            each.result()
        return {entry.name: self._hashes.pop(entry.name, _Hash()).total.hexdigest() for entry in shard.entries}

    def _make(self) -> None:
        try:
            with torch.no_grad():
                for turn, (shard, piece) in enumerate(self._pieces()):
                    if not self._next_is_free():
                        return
                    for each in self._readers[turn % AHEAD]:
                        each.result()
                    self._put(shard, piece, turn % AHEAD)
        except BaseException as error:
            self._ready.put(error)

    def _pieces(self) -> Iterator[tuple[Shard, list[Part]]]:
        for shard in self._shards:
            for piece in pieces_of(shard, self._size):
                yield shard, piece

    def _next_is_free(self) -> bool:
        """Wait until the oldest piece has been written; whether the next is wanted."""
        while not self._free.acquire(timeout=_PATIENCE):
            if not threading.main_thread().is_alive():
                return False
        return not self._stopped

    def _put(self, shard: Shard, piece: list[Part], slot: int) -> None:
        """Make a piece, and give it to those who hash and who write."""
        host = self._room[slot][: piece[-1].stop]
        if self._staging is None:
            self._source.write(piece, host)
        else:
            staged = self._staging[: len(host)]
            self._source.write(piece, staged)
            host.copy_(staged)
        data = host.numpy().data
        self._readers[slot] = self._hash(piece, data)
        self._hashing[shard.name] += self._readers[slot]
        self._ready.put(data)

    def _hash(self, piece: list[Part], data: memoryview) -> list[Future[None]]:
        """Hash a piece: of one tensor, one thread has all parts, in order."""
        work: dict[int, list[tuple[_Hash, memoryview]]] = {}
        for part in piece:
            state = self._hashes.get(part.entry.name)
            if state is None:
                least = min(range(len(self._pools)), key=self._loads.__getitem__)
                self._loads[least] += part.entry.nbytes
                state = self._hashes[part.entry.name] = _Hash(least)
            work.setdefault(state.pool, []).append((state, data[part.start : part.stop]))
        return [self._pools[pool].submit(_update, each) for pool, each in work.items()]


class _Hash:
    """The hash of what there is of a tensor so far, and the number of the thread that makes it."""

    def __init__(self, pool: int = 0) -> None:
        self.total, self.pool = hashlib.sha256(), pool


def _update(work: list[tuple[_Hash, memoryview]]) -> None:
    for state, data in work:
        state.total.update(data)
