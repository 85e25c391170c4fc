"""Agreement: processes of torch.distributed compare what they are about to make, before anything is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from tritonparam._arguments import shown
from tritonparam._processes import Processes
from tritonparam.module.declaration import Declaration
from tritonparam.module.full_names import drawn_on_the_way
from tritonparam.module.source import Source
from tritonparam.module.tape import Drawn, Node, Version, slice_of

Result = TypeVar("Result")
_SHOWN = 160  # characters of what is said of a tensor
_WHAT = "materialize"
_PLAIN = (bool, int, float, complex, str, torch.dtype)


def agreed(processes: Processes, prepare: Callable[[], Result], facts: Callable[[Result], dict[str, Any]]) -> Result:
    """What `prepare` gives, once all processes have prepared the same; an error of one is an error in all.

    Args:
        processes: All that take part.
        prepare: What each does; it communicates nothing.
        facts: What of its result is compared: "settings" and "tensors", each a mapping from names. Processes may have
            different tensors, as stages of a pipeline do. Of one that several have, they must say the same.

    Raises:
        ValueError: They say different things; the error names ranks and the first difference, on every process.
        BaseException: What `prepare` raised here.
        tritonparam.ProcessesError: It raised elsewhere, or a process did not come before the deadline.
    """
    results: list[Result] = []

    def offer() -> bytes:
        results.append(prepare())
        return json.dumps(facts(results[0])).encode()

    _compare([json.loads(message) for message in processes.exchange(offer, _WHAT)])
    return results[0]


def facts_of(declared: Iterable[Declaration], seed: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """What `materialize` is about to make, in a form that processes can compare: see `agreed`."""
    settings = {"seed": seed, "dtype": str(dtype)}
    facts = ((each.full_names, _fact(each, dtype)) for each in declared)
    return {"settings": settings, "tensors": {name: fact for names, fact in facts for name in names}}


def _fact(each: Declaration, dtype: torch.dtype | None) -> list[str]:
    """What is said of a tensor where it differs, and a hash of all there is to say."""
    said = f"{each.shape} {each.dtype_in(dtype)} {'replayed' if each.laws is None else [own.law for own in each.laws]}"
    head = None if each.history is None else each.history.head
    if each.laws is not None:
        drawn: list[Source | None] = each.piece_sources()
        steps: list[str] = []
    else:
        drawn = [] if head is None else [each.sources.get(own) for own in drawn_on_the_way(head)]
        steps = [] if head is None else [_said_of(step) for step in slice_of([head])[1]]
    sources = [own and (own.name, own.occurrence, own.shape, own.seed) for own in drawn]
    rest = repr((said, each.laws, sources, steps))
    return [said[:_SHOWN], hashlib.blake2b(rest.encode(errors="surrogatepass"), digest_size=8).hexdigest()]


def _said_of(step: Node | Version) -> str:
    """What a step of a replay does, without what it does it to."""
    if isinstance(step, Version):
        return repr(step.content.law) if isinstance(step.content, Drawn) else ""
    plain = [own for own in tree_leaves((step.args, step.kwargs)) if isinstance(own, _PLAIN)]
    return f"{step.func} {plain!r}"


def _compare(told: Sequence[dict[str, Any]]) -> None:
    first = told[0]["settings"]
    for name in first:
        ranks = [rank for rank, each in enumerate(told) if each["settings"][name] != first[name]]
        if ranks:
            others = told[ranks[0]]["settings"][name]
            raise ValueError(
                f"{name} must be the same in all processes, got {first[name]} in 0 and {others} in {ranks[0]}"
            )
    known: dict[str, tuple[int, list[str]]] = {}
    for rank, each in enumerate(told):
        for name, fact in each["tensors"].items():
            who, said = known.setdefault(name, (rank, fact))
            if said[1] != fact[1]:
                got = f"{shown(name)} is {said[0]} in {who} and {fact[0]} in {rank}"
                why = "" if said[0] != fact[0] else ", from other draws or operations"
                raise ValueError(f"module must be the same in all processes, and {got}{why}")
