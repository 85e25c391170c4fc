"""Replay: do for real, on the host, what the tape says about some storages."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam._errors import TritonParamError
from tritonparam.module.covers import is_written, recognize
from tritonparam.module.operators import bind, with_generator
from tritonparam.module.source import Source
from tritonparam.module.tape import Draw, Drawn, GeneratorState, Node, Read, Version, slice_of
from tritonparam.plan import Fill, Plan, View
from tritonparam.stream import Uniform


class ReplayError(TritonParamError, RuntimeError):
    """An operation failed on the values that it got, which were not known when it was recorded.

    Attributes:
        node: The operation.
        cause: What it raised.
    """

    def __init__(self, node: Node, cause: Exception) -> None:
        super().__init__(f"{node.func._schema.name}: {cause}")
        self.node = node
        self.cause = cause


@contextlib.contextmanager
def naming(heads: Iterable[tuple[str, Version | None]]) -> Iterator[None]:
    """Let an operation that fails here be an error about the tensors that need it, of which `heads` has the names.

    Raises:
        RuntimeError: One fails.
    """
    try:
        yield
    except ReplayError as error:
        needing = (name for name, head in heads if head is not None and error.node in slice_of([head])[1])
        raise RuntimeError(
            f"{', '.join(needing)} cannot be computed: {error}; deferred_init() did not notice in the constructor, "
            "where this was done, as the values come from the seed or from what is computed only now"
        ) from error.cause


class Replay:
    """Makes versions real on the host, in the order in which they were recorded.

    Values depend on the seed and the sources only; no random state but its own is used.

    Args:
        seed: 0 <= seed < 2**64.
        sources: Where every draw and every random operation on the way comes from.
        blank: What the bytes of memory that was never written are; None for anything.
    """

    def __init__(self, seed: int, sources: Mapping[Draw | Node, Source], blank: int | None = None) -> None:
        self._seed = seed
        self._sources = sources
        self._blank = blank
        self._storages: dict[Version, torch.UntypedStorage] = {}
        self._uses: Counter[Version] = Counter()
        self._wanted: set[Version] = set()

    def run(self, targets: list[Version]) -> list[torch.UntypedStorage]:
        """A host storage for each of `targets`, with what it held then."""
        self._wanted, steps = slice_of(targets)
        self._uses.update(targets)
        for step in steps:
            self._uses.update(step.needs())
        with torch.no_grad():
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
            return resized(_storage(0), nbytes, self._blank)
        storage = self._storages[version]
        if storage.nbytes() >= nbytes and not to_write:
            return storage
        if storage.nbytes() == nbytes and self._uses[version] == 1:
            return storage
        return resized(storage, nbytes, self._blank)

    def _write(self, version: Version) -> None:
        storage = self._take(version.previous, version.nbytes, to_write=True)
        out, content = version.view.on(storage), version.content
        if isinstance(content, torch.Tensor):
            out.copy_(content)
        elif isinstance(content, Drawn):
            source = content.source(self._sources)
            Plan([Fill(out, content.law) if source is None else source.fill(out, content.law, self._seed)]).run()
        self._storages[version] = storage

    def _compute(self, node: Node) -> None:
        storages: dict[int, torch.UntypedStorage] = {}
        written: list[tuple[torch.Tensor, View]] = []
        for read in node.reads:
            if read.key not in storages:
                storages[read.key] = self._take(read.version, read.nbytes, to_write=read.key in node.writes)

        def real(value: object) -> object:
            if isinstance(value, GeneratorState):
                return value.generator()
            if not isinstance(value, Read):
                return value
            shown = value.view.on(storages[value.key])
            if value.key in node.writes:
                written.append((shown, value.view))
            return _half_open(shown, value, value.key in node.writes)

        func, args, kwargs = node.func, tree_map(real, node.args), tree_map(real, node.kwargs)
        if node.random:
            source = node.pinned or self._sources[node]
            func, args, kwargs = _drawing(func, bind(func, args, kwargs), source.key(self._seed))
        with _default_dtype(node.default_dtype):
            try:
                got = func(*args, **kwargs)
            except Exception as error:
                raise ReplayError(node, error) from error
        for shown, view in written:
            if shown.is_conj() != view.conjugate:  # a kernel may leave its result to be conjugated by who reads it
                torch._C._set_conj(shown, view.conjugate)
                shown.conj_physical_()
        for key, after in node.writes.items():
            if after in self._wanted:
                self._storages[after] = storages[key]
        values = tree_flatten(got)[0]
        for position, after in node.results:
            if after in self._wanted:
                self._storages[after] = _laid_out(values[position], after)


def _half_open(shown: torch.Tensor, read: Read, in_place: bool) -> torch.Tensor:
    """A tensor that an operation reads, its uniform draws below their upper bound, which 16 bits may round them to.

    A uniform parameter may have that value; torch's own draws never do, and -log(1 - u) counts on it.
    """
    if not shown.is_floating_point() or shown.element_size() > 2 or read.version is None:
        return shown
    laws = [(piece.box, piece.drawn.law) for piece in recognize(read.version, read.view) or ()]
    bounds = [(box, law.high) for box, law in laws if isinstance(law, Uniform)]
    if bounds and not in_place:
        shown = shown.clone()
    for box, high in bounds:
        box.of(shown).clamp_(max=_below(high, shown.dtype))
    return shown


def _below(bound: float, dtype: torch.dtype) -> torch.Tensor:
    """The largest number of `dtype`, of at most 16 bits, below `bound`."""
    nearest = torch.full((), bound, dtype=dtype)
    if float(nearest) < bound:
        return nearest
    if not float(nearest):
        return -torch.full((), torch.finfo(dtype).smallest_normal, dtype=dtype)
    bits = nearest.view(torch.int16 if nearest.element_size() == 2 else torch.int8)
    return (bits - (1 if bound > 0 else -1)).view(dtype)


def is_defined(head: Version | None, view: View, sources: Mapping[Draw | Node, Source]) -> bool:
    """Whether what `view` holds depends on nothing that was never written.

    Where the tape does not tell, it is computed twice, from memory of different bytes.
    """
    written = is_written(head, view)
    if written is not None or head is None:
        return bool(written)
    one, other = (_bits(view.on(Replay(0, sources, blank).run([head])[0])) for blank in (0x00, 0xFF))
    return torch.equal(one, other)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor's elements: a NaN is equal to itself."""
    return tensor.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)


def _drawing(func: Any, bound: dict[str, Any], key: int) -> tuple[Any, list[Any], dict[str, Any]]:
    """A call of a random operator that draws from a generator of its own, seeded with `key`.

    What the process's generator gives depends on which threads draw from it.
    """
    drawing = with_generator(func)
    if drawing is None:
        raise RuntimeError(f"{func._schema.name} takes no generator, so what it draws cannot be repeated")
    generator = torch.Generator()
    generator.manual_seed(key)
    bound["generator"] = generator
    arguments = drawing._schema.arguments
    args = [bound[argument.name] for argument in arguments if not argument.kwarg_only]
    return drawing, args, {argument.name: bound[argument.name] for argument in arguments if argument.kwarg_only}


def _laid_out(value: torch.Tensor, version: Version) -> torch.UntypedStorage:
    """The storage of `value`, laid out as the tape says, which on another device may not be how it came."""
    if View.of(value) == version.view and value.untyped_storage().nbytes() == version.nbytes:
        return value.untyped_storage()
    storage = _storage(version.nbytes)
    version.view.on(storage).copy_(value)
    return storage


def resized(storage: torch.UntypedStorage, nbytes: int, blank: int | None) -> torch.UntypedStorage:
    """A copy of a host storage, of another size; what it has more is `blank`, or anything if that is None."""
    copy, common = _storage(nbytes), min(nbytes, storage.nbytes())
    _bytes(copy)[:common].copy_(_bytes(storage)[:common])
    if blank is not None:
        _bytes(copy)[common:].fill_(blank)
    return copy


def _storage(nbytes: int) -> torch.UntypedStorage:
    return torch.empty(nbytes, dtype=torch.uint8, device="cpu").untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return View.all_of(storage).on(storage)


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
