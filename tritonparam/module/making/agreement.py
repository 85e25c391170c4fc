"""Agreement: processes that make or load one model compare what each is about to do, before any of them writes."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from tritonparam._arguments import few, shown
from tritonparam._processes import Processes
from tritonparam.module.declaration import Declaration
from tritonparam.module.tape import Drawn, GeneratorState, Node, Read, Version, slice_of

Result = TypeVar("Result")
Facts = dict[str, tuple[str, str, str] | None]
_TOLD = 8  # processes in an error
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.layout, torch.memory_format)


def agreed(
    processes: Processes, verb: str, prepare: Callable[[], Result], facts: Callable[[Result], tuple[int, Facts]]
) -> Result:
    """What `prepare` gives, once all processes have prepared the same, as far as several hold it.

    Args:
        processes: All of them call this, or none.
        verb: What they are about to do: "materialize".
        prepare: What each does; it communicates nothing. An error of one is an error in all.
        facts: The seed, and what is compared of each tensor, as of `facts_of`.

    Raises:
        ValueError: They differ, in all of them; the error names those that do, and the first thing in which they do.
        BaseException: What `prepare` raised here.
        ProcessesError: It raised elsewhere, or a process did not come before the deadline.
    """
    results: list[Result] = []

    def offer() -> bytes:
        results.append(prepare())
        return zlib.compress(json.dumps(facts(results[0])).encode())

    messages = processes.exchange(offer, verb)
    told = {each: json.loads(zlib.decompress(each)) for each in dict.fromkeys(messages)}
    if len(told) > 1:
        check_agreed(verb, [told[each][0] for each in messages], [told[each][1] for each in messages])
    return results[0]


def facts_of(dtypes: Mapping[Declaration, torch.dtype], left_out: Iterable[Declaration]) -> Facts:
    """What is compared of each tensor, by all its full names.

    Args:
        dtypes: What is about to be made, and in which dtype.
        left_out: What stays deferred.
    """
    made = {name: _declared_fact(each, dtype) for each, dtype in dtypes.items() for name in each.full_names}
    return made | {name: None for each in left_out for name in each.full_names}


def check_agreed(verb: str, seeds: Sequence[int], facts: Sequence[Mapping[str, Sequence[str] | None]]) -> None:
    """Let pass what agrees.

    Args:
        verb: As for `agreed`.
        seeds: Of each process.
        facts: Of each process, by the name of a tensor: its dtype, its shape and a hash of its values, as text; None
            for one that stays as it is.

    Raises:
        ValueError: As for `agreed`.
    """
    check = functools.partial(_check_one, verb)
    check("the seed", dict(enumerate(map(str, seeds))))
    held: dict[str, dict[int, Sequence[str] | None]] = {}
    for rank, each in enumerate(facts):
        for name, fact in each.items():
            held.setdefault(name, {})[rank] = fact
    for name, by_rank in held.items():
        made = {rank: fact for rank, fact in by_rank.items() if fact is not None}
        if 0 < len(made) < len(by_rank):
            check(shown(name), {rank: "written" if rank in made else "left out" for rank in by_rank})
        check(f"the dtype of {shown(name)}", {rank: fact[0] for rank, fact in made.items()})
        check(f"the shape of {shown(name)}", {rank: fact[1] for rank, fact in made.items()})
        check(f"what {shown(name)} is to hold", {rank: fact[2] for rank, fact in made.items()}, tells=False)


def _check_one(verb: str, about: str, by_rank: Mapping[int, str], *, tells: bool = True) -> None:
    first = next(iter(by_rank), 0)
    others = [rank for rank, fact in by_rank.items() if fact != by_rank[first]]
    if not others:
        return
    many = "s" if len(others) > 1 else ""
    how = f": {by_rank[others[0]]}, and {by_rank[first]}" if tells else ", other"
    raise ValueError(
        f"processes that {verb} one model must agree, and process{'es' if many else ''} {few(others, _TOLD)} "
        f"differ{'' if many else 's'} in {about}{how} {'in' if tells else 'than in'} process {first}; nothing was "
        "changed"
    )


def fact(dtype: torch.dtype, shape: Sequence[int], origin: bytes) -> tuple[str, str, str]:
    """What is compared of one tensor: its dtype, its shape and a hash of where its values come from."""
    digest = hashlib.blake2b(origin, digest_size=8).hexdigest()
    return str(dtype).removeprefix("torch."), str(tuple(shape)), digest


def _declared_fact(each: Declaration, dtype: torch.dtype) -> tuple[str, str, str]:
    content = [each.laws, each.piece_sources()] if each.laws is not None else _Steps(each).told()
    return fact(dtype, each.shape, repr(content).encode(errors="surrogatepass"))


class _Steps:
    """What has to be done again for a tensor that has no law, in words that are the same in every process."""

    def __init__(self, declaration: Declaration) -> None:
        self._view, self._sources = declaration.view, declaration.sources
        history = declaration.history
        self._head = None if history is None else history.head
        self._steps = [] if self._head is None else slice_of([self._head])[1]
        self._places = {id(step): place for place, step in enumerate(self._steps)}

    def told(self) -> list[Any]:
        """The view that the tensor is, then each step."""
        return [self._view, *map(self._step, self._steps)]

    def _step(self, step: Version | Node) -> list[Any]:
        if isinstance(step, Node):
            name = getattr(step.func, "__qualname__", None) or str(getattr(step.func, "name", type(step.func).__name__))
            called = str(step.func) if isinstance(step.func, torch._ops.OpOverload) else name
            source = step.pinned or self._sources.get(step) if step.random else None
            return [called, self._value(step.args), self._value(step.kwargs), step.default_dtype, source]
        if isinstance(step.content, Drawn):
            return [step.view, step.content.law, step.content.source(self._sources)]
        if isinstance(step.content, Node):
            return [step.view, self._places.get(id(step.content))]
        return [step.view, self._value(step.content)]

    def _value(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, (list, tuple)):
            return [self._value(each) for each in value]
        if isinstance(value, dict):
            return [(str(key), self._value(each)) for key, each in value.items()]
        if isinstance(value, Read):
            return [value.view, self._places.get(id(value.version))]
        if isinstance(value, GeneratorState):
            return self._value(value.state)
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
            plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
            return [value.dtype, tuple(value.shape), hashlib.blake2b(plain.view(torch.uint8).numpy().data).hexdigest()]
        return type(value).__name__  # a device, which changes no value
