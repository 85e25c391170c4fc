"""The ledger: how every parameter and buffer of a module comes to its values, before it has them and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from tritonparam._arguments import few, shown, warn
from tritonparam._locks import across_forks
from tritonparam.module.covers import covers
from tritonparam.module.declaration import BoxLaw, Declaration, check_module, surveyed
from tritonparam.module.full_names import drawn_on_the_way
from tritonparam.module.loose import is_made_beside
from tritonparam.module.source import Source
from tritonparam.module.tape import Drawn, Node, slice_of
from tritonparam.module.traversal import child_of, unwrapped

STATES = ("declared", "initialized", "loaded", "cloned", "given")
_TOLD = 5  # names in a warning
_BLANK = "never written: 0"
_COLUMNS = ("name", "kind", "shape", "dtype", "state", "law", "key", "why")
_lock = across_forks()
_notes: Any = WeakIdKeyDictionary()


@dataclass(frozen=True)
class LedgerRow:
    """One tensor of a module.

    Attributes:
        name: Its name in the module, the first if it has several.
        aliases: The others.
        kind: "parameter", "buffer", or "attribute" for a deferred tensor that is neither.
        shape, dtype: What it has, or will have where nobody asks for another dtype.
        state: "declared" (it is deferred), "initialized" (`materialize` made it, or `load` where the checkpoint lacks
            it), "cloned" (likewise, by the values of another tensor, which `key` names), "loaded" (from a checkpoint)
            or "given" (it was real, and is not the library's).
        laws: As of `Declaration`; None where there are none, or they are not known.
        key: The full name that its random numbers are keyed by, with "#" and the occurrence where it is not the first;
            "" where there are none.
        why: Why its values come from replay: the operation that gave them, and the first one that has no law. "" where
            they do not.
        seed: That its values are of, if it is "initialized" or "cloned"; else None.

    Examples:
        >>> row = LedgerRow("w", (), "parameter", (2, 3), torch.float32, "given")
        >>> row.law
        ''
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    state: str
    laws: tuple[BoxLaw, ...] | None = None
    key: str = ""
    why: str = ""
    seed: int | None = None

    @property
    def law(self) -> str:
        """Its laws in a few words."""
        if self.why:
            return "replayed"
        return ", ".join(dict.fromkeys(str(box.law) for box in self.laws or ()))


@dataclass(frozen=True)
class Ledger:
    """All tensors of a module, each once: parameters, then buffers. `str` of it is a table.

    Attributes:
        rows: Them.

    Examples:
        >>> print(Ledger((LedgerRow("w", (), "parameter", (2, 3), torch.float32, "given"),)))
        name  kind       shape   dtype    state  law  key  why
        w     parameter  (2, 3)  float32  given
        1 tensor: 1 given
    """

    rows: tuple[LedgerRow, ...]

    def __iter__(self) -> Iterator[LedgerRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> LedgerRow:
        """The row of the tensor called `name`, by any of its names."""
        for row in self.rows:
            if name in (row.name, *row.aliases):
                return row
        raise KeyError(f"name must be one of a tensor of the module, got {shown(name)}")

    def __str__(self) -> str:
        table = [_COLUMNS, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        counts = {state: sum(row.state == state for row in self.rows) for state in STATES}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        seeds = sorted({row.seed for row in self.rows if row.seed is not None})
        told += f" (seed {few(seeds, _TOLD)})" if seeds else ""
        total = f"{len(self.rows)} tensor{'' if len(self.rows) == 1 else 's'}"
        return "\n".join([*(line.rstrip() for line in lines), f"{total}: {told}" if told else total])


def _cells(row: LedgerRow) -> tuple[str, ...]:
    name = " = ".join((row.name, *row.aliases))
    dtype = str(row.dtype).removeprefix("torch.")
    return name, row.kind, str(row.shape), dtype, row.state, row.law, row.key, row.why


def ledger(module: torch.nn.Module) -> Ledger:
    """How every parameter and buffer of `module` comes to its values, or came to them; nothing is changed.

    It tells what this process did. Copies and pickles of a module do not carry it: their tensors are "given". So are
    those that were put in the place of others afterwards. What is written to a tensor later does not count.

    Args:
        module: Deferred, real or partly so.

    Raises:
        TypeError: `module` is not a torch.nn.Module.
        ValueError: Tensors are on the meta device without being deferred, or have no shape yet; it names them.

    Examples:
        >>> from tritonparam import deferred_init, materialize
        >>> with deferred_init():
        ...     model = torch.nn.LayerNorm(3)
        >>> [(row.name, row.state, row.law) for row in ledger(model)]
        [('weight', 'declared', 'Constant(value=1.0)'), ('bias', 'declared', 'Constant(value=0.0)')]
        >>> ledger(materialize(model))["bias"].state
        'initialized'
    """
    check_module(module)
    return Ledger(tuple(_row(module, each) for each in surveyed(module).own))


@dataclass(frozen=True)
class _Note:
    """What is remembered of a tensor that was made: no more than a few words."""

    row: LedgerRow
    shape: tuple[int, ...]
    tensor_id: int = field(repr=False)
    tensor_type: type


def note_made(
    module: torch.nn.Module,
    made: Mapping[Declaration, str],
    zeros: Iterable[Declaration] = (),
    seed: int | None = None,
    by_full_names: bool = False,
) -> None:
    """Remember how deferred tensors of `module` came to their values.

    Args:
        module: The one that the names of the declarations are in.
        made: What they declared, with "initialized" or "loaded".
        zeros: Those among them that have zeros where nothing was ever written.
        seed: Of those that are not "loaded".
        by_full_names: Whether it is their full names that are in `module`.
    """
    blank = set(zeros)
    for each, state in made.items():
        if state == "loaded":
            row = _plain_row(each, state)
        else:
            sources, is_blank = _drawn_from(each), each in blank
            is_clone = state == "initialized" and not is_blank and _is_clone(each, sources)
            row = _declared_row(each, sources, "cloned" if is_clone else state, _BLANK if is_blank else None, seed)
        _note(module, each.full_names if by_full_names else (each.name, *each.aliases), row)


class KeptWarning(UserWarning):
    """`materialize` left parameters as they were that it may have been called for."""


def warn_of_kept(
    module: torch.nn.Module, kept: Iterable[Declaration], count: int, seed: int, dtype: torch.dtype | None
) -> None:
    """Warn of parameters that are real already, and do not have the values of `seed`, or are not of `dtype`.

    Args:
        module: The one that the names of the declarations are in.
        kept: Its tensors that are real.
        count: How many there are with those that are not.
        seed, dtype: Of `materialize`.
    """
    of_others = [each for each in kept if each.kind == "parameter" and not is_made_beside(each.tensors[0])]
    rows = [_row(module, each) for each in of_others]
    begin = "materialize did nothing: " if rows and len(rows) == count else ""
    given = [row.name for row in rows if row.state == "given"]
    if given:
        warn(
            f"{begin}{_told(given)} real already, and keep{'s' if len(given) == 1 else ''} the values. For those of "
            "the seed, build all of the module inside deferred_init()",
            KeptWarning,
        )
    cast = [row.name for row in rows if row.name not in given and row.dtype.is_floating_point and row.dtype != dtype]
    if cast and dtype is not None:
        warn(
            f"{begin}{_told(cast)} real already, and of another dtype; the module's `to` casts: to({dtype})",
            KeptWarning,
        )
    others = {row.name: row.seed for row in rows if row.seed not in (None, seed)}
    if others:
        seeds = few(sorted({each for each in others.values() if each is not None}), _TOLD)
        warn(
            f"{begin}{_told(list(others))} real already, made with seed {seeds}, and keep"
            f"{'s' if len(others) == 1 else ''} the values. For those of seed {seed}, build the module again",
            KeptWarning,
        )


def _told(names: list[str]) -> str:
    return f"{few(names, _TOLD)} {'is' if len(names) == 1 else 'are'}"


def note_loaded(module: torch.nn.Module, names: Iterable[str]) -> None:
    """Remember that the real tensors of `module` with these names got the values of a checkpoint."""
    for name in names:
        _note(module, (name,), LedgerRow(name, (), "", (), torch.float32, "loaded"))


def _note(module: torch.nn.Module, names: Iterable[str], row: LedgerRow) -> None:
    for name in names:
        owner, local = _owner(module, name)
        group = owner._parameters if local in owner._parameters else owner._buffers
        if local in group and (tensor := group[local]) is not None and not is_lazy(tensor):
            with _lock:
                _notes.setdefault(owner, {})[local] = _Note(row, tuple(tensor.shape), id(tensor), type(tensor))


def _owner(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    """The innermost registered module that has the tensor called `name`, and what it calls it."""
    *path, local = name.split(".")
    while path and (child := child_of(module, path[0])) is not None:
        module, path = child, path[1:]
    return unwrapped(module), ".".join((*path, local))


def _row(module: torch.nn.Module, each: Declaration) -> LedgerRow:
    if each.history is not None:
        return _declared_row(each, _drawn_from(each), "declared")
    plain = _plain_row(each, "given")
    for name in (each.name, *each.aliases):
        owner, local = _owner(module, name)
        with _lock:
            note: _Note | None = _notes.get(owner, {}).get(local)
        if note is not None and _is_of(note, each):
            made = note.row
            return replace(plain, state=made.state, laws=made.laws, key=made.key, why=made.why, seed=made.seed)
    return plain


def _is_of(note: _Note, each: Declaration) -> bool:
    """Whether a note is about the tensor that a module now has in its place.

    Buffers become other objects when a module moves, and parameters others of another type when they are sharded.
    """
    tensor = each.tensors[0]
    if note.shape != each.shape:
        return False
    return each.kind == "buffer" or note.tensor_id == id(tensor) or note.tensor_type is not type(tensor)


def _plain_row(each: Declaration, state: str) -> LedgerRow:
    return LedgerRow(each.name, each.aliases, each.kind, each.shape, each.dtype, state)


def _declared_row(
    each: Declaration, sources: list[Source], state: str, why: str | None = None, seed: int | None = None
) -> LedgerRow:
    key = ", ".join(dict.fromkeys(_key(source) for source in sources))
    why = why_replayed(each) if why is None else why
    return LedgerRow(each.name, each.aliases, each.kind, each.shape, each.dtype, state, each.laws, key, why, seed)


def _drawn_from(each: Declaration) -> list[Source]:
    """Where the random numbers of a deferred tensor come from."""
    if each.laws is not None:
        return [source for source in each.piece_sources() if source is not None]
    head = None if each.history is None else each.history.head
    return [] if head is None else [each.sources[draw] for draw in drawn_on_the_way(head) if draw in each.sources]


def _key(source: Source) -> str:
    return f"{source.name}#{source.occurrence}" if source.occurrence else source.name


def _is_clone(each: Declaration, sources: list[Source]) -> bool:
    named = sources if each.laws is not None else []
    return bool(named) and all(source.seed is None and source.name not in each.full_names for source in named)


def why_replayed(each: Declaration) -> str:
    """Why the values of a deferred tensor come from replay, as for `LedgerRow`; "" where they do not."""
    if each.history is None or each.laws is not None:
        return ""
    head = each.history.head
    for cover in covers(head, each.view):
        if cover.version is None:
            return "never written"
        content = cover.version.content
        if isinstance(content, torch.Tensor):
            return "values that were given"
        if isinstance(content, Node):
            first = next(step for step in slice_of([cover.version])[1] if isinstance(step, Node))
            last, origin = _name(content), _name(first)
            return last if last == origin else f"{last} after {origin}"
        if isinstance(content, Drawn) and content.draw is not None and content.draw.pinned is not None:
            return "values that were asked for"
    return "writes that are no boxes" if math.prod(each.shape) else ""


def _name(node: Node) -> str:
    func: Any = node.func
    return str(func._schema.name)
