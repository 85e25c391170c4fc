"""Replay: do for real, on the host, what the tape says about some storages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam.module.tape import Draw, Drawn, Identity, Node, Read, Version, slice_of
from tritonparam.plan import Fill, Plan, View
from tritonparam.stream import Law, derive_key


@dataclass(frozen=True, slots=True)
class Origin:
    """Which elements of which keyed tensor a box repeats.

    Attributes:
        name, occurrence: Of the key.
        shape: The shape of the keyed tensor.
        offsets: Where in it the box starts.
        dims: For each of its dimensions, the dimension of the box that runs along it; None where the box is one long.
        reshape: The shape to view the box as before; None for its own.
        seed: The seed of the key, where it does not depend on that of `materialize`.
    """

    name: str
    occurrence: int
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    dims: tuple[int | None, ...]
    reshape: tuple[int, ...] | None = None
    seed: int | None = None

    @classmethod
    def of(cls, drawn: Drawn, draw: Draw, identity: Identity) -> Origin:
        """The origin of `drawn`, whose `draw` has the given identity."""
        holder = tuple(range(len(draw.shape))) if drawn.reshaped else drawn.dims
        offsets, dims = list(identity.offsets), [None] * len(identity.shape)
        along: list[int | None] = list(dims)
        for d, target in enumerate(identity.dims):
            if target is not None:
                offsets[target] += drawn.start[d]
                along[target] = holder[d]
        return cls(
            name=identity.name,
            occurrence=identity.occurrence,
            shape=identity.shape,
            offsets=tuple(offsets),
            dims=tuple(along),
            reshape=draw.shape if drawn.reshaped else None,
            seed=identity.seed,
        )

    def fill(self, out: torch.Tensor, law: Law, seed: int) -> Fill:
        """The fill that writes these elements to `out`."""
        if self.reshape is not None:
            out = out.view(self.reshape)
        sizes = [1 if d is None else out.shape[d] for d in self.dims]
        strides = [1 if d is None else out.stride(d) for d in self.dims]
        key = derive_key(seed if self.seed is None else self.seed, self.name, self.occurrence)
        return Fill(out.as_strided(sizes, strides), law, key, self.shape, self.offsets)


class Replay:
    """Makes versions real on the host, in the order in which they were recorded.

    Values depend on the seed and the identities only; the global random state is as before when it is done.

    Args:
        seed: 0 <= seed < 2**64.
        identities: What every draw and every random operation on the way is keyed by.
    """

    def __init__(self, seed: int, identities: Mapping[Draw | Node, Identity]) -> None:
        self._seed = seed
        self._identities = identities
        self._storages: dict[Version, torch.UntypedStorage] = {}
        self._uses: Counter[Version] = Counter()
        self._wanted: set[Version] = set()

    def run(self, targets: list[Version]) -> list[torch.UntypedStorage]:
        """A host storage for each of `targets`, with what it held then."""
        self._wanted, steps = slice_of(targets)
        self._uses.update(targets)
        for step in steps:
            self._uses.update(step.needs())
        with _host_random_state(), torch.no_grad():
            for step in steps:
                if isinstance(step, Node):
                    self._compute(step)
                else:
                    self._write(step)
                self._release(step.needs())
        return [self._storages[target] for target in targets]

    def _release(self, versions: set[Version]) -> None:
        for version in versions:
            self._uses[version] -= 1
            if not self._uses[version]:
                del self._storages[version]

    def _take(self, version: Version | None, nbytes: int, *, to_write: bool) -> torch.UntypedStorage:
        """The storage of a version, which is copied only if it is to be written to and needed later too."""
        if version is None:
            return _storage(nbytes)
        storage = self._storages[version]
        if not to_write or (self._uses[version] == 1 and storage.nbytes() == nbytes):
            return storage
        copy, common = _storage(nbytes), min(nbytes, storage.nbytes())
        _bytes(copy)[:common].copy_(_bytes(storage)[:common])
        return copy

    def _write(self, version: Version) -> None:
        storage = self._take(version.previous, version.nbytes, to_write=True)
        out, content = version.view.on(storage), version.content
        if isinstance(content, torch.Tensor):
            out.copy_(content)
        elif isinstance(content, Drawn) and content.draw is not None:
            identity = content.draw.pinned or self._identities[content.draw]
            Plan([Origin.of(content, content.draw, identity).fill(out, content.law, self._seed)]).run()
        elif isinstance(content, Drawn):
            Plan([Fill(out, content.law)]).run()
        self._storages[version] = storage

    def _compute(self, node: Node) -> None:
        storages: dict[int, torch.UntypedStorage] = {}
        for read in node.reads:
            if read.key not in storages:
                storages[read.key] = self._take(read.version, read.nbytes, to_write=read.key in node.writes)

        def real(value: object) -> object:
            return value.view.on(storages[value.key]) if isinstance(value, Read) else value

        if node.random:
            identity = node.pinned or self._identities[node]
            seed = self._seed if identity.seed is None else identity.seed
            torch.default_generator.manual_seed(derive_key(seed, identity.name, identity.occurrence))
        with _default_dtype(node.default_dtype):
            got = node.func(*tree_map(real, node.args), **tree_map(real, node.kwargs))
        for key, after in node.writes.items():
            if after in self._wanted:
                self._storages[after] = storages[key]
        values = tree_flatten(got)[0]
        for position, after in node.results:
            if after in self._wanted:
                self._storages[after] = _laid_out(values[position], after)


def _laid_out(value: torch.Tensor, version: Version) -> torch.UntypedStorage:
    """The storage of `value`, laid out as the tape says, which on another device may not be how it came."""
    if View.of(value) == version.view and value.untyped_storage().nbytes() == version.nbytes:
        return value.untyped_storage()
    storage = _storage(version.nbytes)
    version.view.on(storage).copy_(value)
    return storage


def _storage(nbytes: int) -> torch.UntypedStorage:
    return torch.empty(nbytes, dtype=torch.uint8, device="cpu").untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return View((storage.nbytes(),), (1,), 0, torch.uint8).on(storage)


@contextlib.contextmanager
def _host_random_state() -> Iterator[None]:
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    if before == dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
