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

from tritonparam.checkpoint import dtype_name
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.pieces import Part, Shard, Source, pieces_of
from tritonparam.cli.record import Entry
from tritonparam.plan import Box, Sum, ask_for_huge_pages, sums
from tritonparam.stream import fingerprint_digest, fingerprint_key

PIECE = 1 << 23  # bytes: a core's share of the cache, and many times what handing it over costs
AHEAD = 4  # pieces in memory: one that is made, those that are hashed, one that is written
_HASHERS = 4
_PATIENCE = 0.5  # seconds, after which a thread looks whether its program is ending

_PAGE = 4096  # bytes


class Making:
    """The bytes of a job's shards, made while earlier ones are written; memory holds AHEAD pieces of them.

    A context manager, whose end ends its threads. What goes wrong in one of them is raised to who asks for bytes.

    Attributes:
        fingerprints: Of each tensor whose digest has been asked for.

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
        self.fingerprints: dict[str, str] = {}
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
        """The sha256 of each tensor of `shard`, all of whose parts have been asked for; `fingerprints` gets theirs."""
        for each in self._hashing.pop(shard.name):
            each.result()
        found = {}
        for entry in shard.entries:
            state = self._hashes.pop(entry.name, None) or _Hash(entry)
            found[entry.name], self.fingerprints[entry.name] = state.total.hexdigest(), state.fingerprint()
        return found

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
        work: dict[int, list[tuple[_Hash, Box, memoryview]]] = {}
        for part in piece:
            state = self._hashes.get(part.entry.name)
            if state is None:
                least = min(range(len(self._pools)), key=self._loads.__getitem__)
                self._loads[least] += part.entry.nbytes
                state = self._hashes[part.entry.name] = _Hash(part.entry, least)
            work.setdefault(state.pool, []).append((state, part.box, data[part.start : part.stop]))
        return [self._pools[pool].submit(_update, each) for pool, each in work.items()]


class _Hash:
    """The hash and the sums of what there is of a tensor so far, and the number of the thread that makes them."""

    def __init__(self, entry: Entry, pool: int = 0) -> None:
        self.total, self.pool = hashlib.sha256(), pool
        self._entry, self._key, self._sums = entry, fingerprint_key(entry.name), [0, 0]

    def update(self, box: Box, data: memoryview) -> None:
        """See the bytes of a box, the next in the order of the file."""
        self.total.update(data)
        values = torch.frombuffer(data, dtype=self._entry.dtype).view(box.sizes)
        (own,) = sums([Sum(values, self._key, self._entry.shape, box.offsets)])
        self._sums = [(one + int(other)) % 2**64 for one, other in zip(self._sums, own, strict=True)]

    def fingerprint(self) -> str:
        """That of the tensor, all of which has been seen."""
        return fingerprint_digest(self._entry.name, dtype_name(self._entry.dtype), self._entry.shape, self._sums)


def _update(work: list[tuple[_Hash, Box, memoryview]]) -> None:
    for state, box, data in work:
        state.update(box, data)
