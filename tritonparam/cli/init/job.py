"""What one run writes: every tensor with its dtype and law, and the settings that make the run repeatable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tritonparam.checkpoint import CheckpointError, UsageError, dtype_name, lay_out, parse_dtype
from tritonparam.cli.init.spec import Spec, build, read_spec
from tritonparam.cli.record import Entry, Origin, Record, entry_to_json, versions
from tritonparam.module import BoxLaw, Declaration, Elements, Source, declarations
from tritonparam.plan import Box, Fill
from tritonparam.stream import STREAM_VERSION, derive_key, flat_index

DEFAULT_SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class Job:
    """The content of a checkpoint, decided but not yet computed.

    Attributes:
        entries: The tensors, in the order of the model.
        settings: What a record keeps beside them: spec, seed, dtype, max_shard_size, files.
        replays: The declarations of the tensors without laws, by name.
        expected: The digests that an earlier run's record promises; None for a first run.
    """

    entries: tuple[Entry, ...]
    settings: dict[str, Any]
    replays: Mapping[str, Declaration] = field(default_factory=dict)
    expected: Mapping[str, str] | None = None

    @property
    def seed(self) -> int:
        """The seed of every value."""
        return int(self.settings["seed"])

    @property
    def nbytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def parameters(self) -> int:
        """The number of parameter elements; buffers do not count."""
        return sum(entry.count for entry in self.entries if entry.kind == "parameter")

    def identity(self) -> dict[str, Any]:
        """All that the bytes of the checkpoint depend on, as a JSON object: equal identities write equal files."""
        identity = {key: self.settings[key] for key in ("seed", "dtype", "max_shard_size", "files")}
        identity["stream"] = STREAM_VERSION
        identity["tensors"] = {entry.name: entry_to_json(entry) for entry in self.entries}
        if self.replays:
            identity["versions"] = versions()
        return identity

    def fills(self, entry: Entry, out: torch.Tensor, within: Box | None = None) -> list[Fill]:
        """The operations that write `entry` into `out`; none where it has to be replayed.

        Args:
            entry: One of `entries`.
            out: Row-major memory of the shape of `entry`, or of `within`.
            within: The box of `entry` that is written, where it has no origins; None for all of it.
        """
        key = derive_key(self.seed, entry.name)
        if within is None:
            return [_fill(entry, box, origin, key, out) for box, origin in entry.boxes()]
        fills = []
        for law in entry.laws or ():
            box = within.meet(Box(law.offsets, law.sizes))
            if box is not None:
                fills.append(Fill(box.within(within).of(out), law.law, key, entry.shape, box.offsets))
        return fills


def _fill(entry: Entry, box: BoxLaw, origin: Origin | None, key: int, out: torch.Tensor) -> Fill:
    if origin is not None:
        view = out.as_strided(origin.sizes, origin.strides, out.storage_offset() + origin.start)
        return Fill(view, box.law, origin.key, origin.shape, origin.offsets)
    return Fill(Box(box.offsets, box.sizes).of(out), box.law, key, entry.shape, box.offsets)


def _origins(declaration: Declaration, entry: Entry, seed: int) -> tuple[Origin | None, ...]:
    """Where the boxes of `entry` come from; () where it is their own place for all of them."""
    origins: list[Origin | None] = []
    for law, source in zip(entry.laws or (), declaration.piece_sources(), strict=True):
        box = Box(law.offsets, law.sizes)
        own = _origin(Source(entry.name, 0, entry.shape, Elements.all_of(entry.shape).cut(box)), box, entry.shape, seed)
        found = own if source is None else _origin(source, box, entry.shape, seed)
        origins.append(None if found == own else found)
    return tuple(origins) if any(origins) else ()


def _origin(source: Source, box: Box, shape: tuple[int, ...], seed: int) -> Origin:
    """The origin of the values in a box of a row-major tensor of `shape`."""
    dims, sizes = source.elements.dims, source.reshape or box.sizes
    strides = _row_major(source.reshape or shape)
    lengths = tuple(1 if d is None else sizes[d] for d in dims)
    # The stride of a dimension of size 1 means nothing: equal boxes are to compare equal.
    steps = tuple(1 if d is None or sizes[d] == 1 else strides[d] for d in dims)
    start = flat_index(box.offsets, shape)
    return Origin(lengths, steps, start, source.key(seed), source.shape, source.elements.offsets)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))


def prepare(
    spec: str,
    *,
    source: Spec | Record | None = None,
    target: str | None = None,
    seed: int | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | None = None,
) -> Job:
    """Decide what `spec` writes, without allocating any of it.

    A record repeats its run: its own settings hold, and one that is given here must agree.

    Args:
        spec: A configuration file, a folder with one, `package.module:callable`, or a record.
        source: What `read_spec` has read for `spec`; read now if None.
        target: Only with a record of a callable: the same `package.module:callable` again. It is imported and called
            only if it is given here, and only where a tensor has to be replayed.
        seed: 0 where None.
        dtype: The dtype of every parameter, and of the buffers that take it in `materialize`; where None the
            configuration's own or float32, or, for a callable, each tensor's own.
        max_shard_size: The most bytes of tensors in one file; 5 GB where None.

    Raises:
        UsageError: `spec` names nothing that can be built, a setting contradicts a record, or a record takes a
            callable to repeat, and `target` is not given.
        CheckpointError: The model cannot be built here.
    """
    source = read_spec(spec) if source is None else source
    if isinstance(source, Record):
        given = {"seed": seed, "dtype": dtype and dtype_name(dtype), "max_shard_size": max_shard_size}
        return _repeat(source, spec, given, target)
    if target is not None:
        raise UsageError(f"--callable is for a record that was made from a callable, got {target!r} with SPEC {spec!r}")
    seed = 0 if seed is None else seed
    built = build(source, seed)
    dtype = source.dtype if dtype is None else dtype
    found = _declarations(built.module, spec)
    entries = tuple(_entry(declaration, dtype) for declaration in found)
    entries = tuple(
        replace(entry, origins=_origins(declaration, entry, seed))
        for entry, declaration in zip(entries, found, strict=True)
    )
    settings = {
        "spec": source.to_json(),
        "seed": seed,
        "dtype": None if dtype is None else dtype_name(dtype),
        "max_shard_size": max_shard_size or DEFAULT_SHARD_SIZE,
        "files": built.files(dtype),
    }
    return Job(entries, settings, _replays(entries, found, dtype))


def declared_entries(source: Spec) -> tuple[Entry, ...]:
    """The tensors that a checkpoint of `source` should hold, in the dtype that it asks for.

    Raises:
        UsageError, CheckpointError: It cannot be built.
    """
    found = _declarations(build(source).module, source.text)
    return tuple(_entry(declaration, source.dtype) for declaration in found)


def _declarations(module: torch.nn.Module, text: str) -> list[Declaration]:
    try:
        found = [declaration for declaration in declarations(module) if declaration.persistent]
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{text}: {error}") from error
    ignored = getattr(module, "_keys_to_ignore_on_save", None) or ()
    found = [declaration for declaration in found if declaration.name not in ignored]
    if not found:
        raise UsageError(f"{text}: the model has no parameters to write")
    for declaration in found:
        try:
            lay_out({declaration.name: (declaration.dtype, declaration.shape)})
        except CheckpointError as error:
            raise CheckpointError(f"{text}: {error}") from None
    return found


def _entry(declaration: Declaration, dtype: torch.dtype | None) -> Entry:
    return Entry(
        declaration.name,
        declaration.aliases,
        declaration.kind,
        declaration.dtype_in(dtype),
        tuple(declaration.shape),
        declaration.laws,
    )


def _replays(entries: tuple[Entry, ...], found: list[Declaration], dtype: torch.dtype | None) -> dict[str, Declaration]:
    by_name = {declaration.name: declaration for declaration in found}
    wanted = [entry for entry in entries if entry.laws is None]
    other = [entry.name for entry in wanted if not _makes(by_name.get(entry.name), entry, dtype)]
    if other:
        raise CheckpointError(f"the model no longer makes these tensors as the record says: {', '.join(other[:5])}")
    return {entry.name: by_name[entry.name] for entry in wanted}


def _makes(declaration: Declaration | None, entry: Entry, dtype: torch.dtype | None) -> bool:
    """Whether replaying `declaration` gives the tensor `entry`."""
    return declaration is not None and replace(_entry(declaration, dtype), aliases=entry.aliases) == entry


def _repeat(record: Record, text: str, given: dict[str, Any], target: str | None) -> Job:
    for key, value in given.items():
        if value is not None and value != record.settings[key]:
            raise UsageError(f"{key} is {record.settings[key]!r} in the record {text}, got {value!r}; leave it out")
    source = Spec.from_json(record.settings["spec"], text)
    if target is not None and target != source.target:
        made = "a config" if source.target is None else repr(source.target)
        raise UsageError(
            f"the record {text} was made from {made}, got --callable {target!r}; leave it out or correct it"
        )
    replayed = [entry.name for entry in record.entries if entry.laws is None]
    found: list[Declaration] = []
    if replayed:
        if source.target is not None and target is None:
            # A record is data, whoever wrote it: only what the user names is run.
            raise UsageError(
                f"the record {text} repeats {len(replayed)} of its tensors, {replayed[0][:100]!r} first, by running "
                f"{source.target[:200]!r}, which a record alone does not start; if you trust that code, add "
                f"--callable {source.target[:200]}"
            )
        found = _declarations(build(source, int(record.settings["seed"])).module, text)
    settings = {key: value for key, value in record.settings.items() if key != "versions"}
    dtype = None if settings["dtype"] is None else parse_dtype(settings["dtype"])
    return Job(record.entries, settings, _replays(record.entries, found, dtype), record.digests)
