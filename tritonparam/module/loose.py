"""Loose tensors: deferred ones that no module holds, as a cache or a global does, become real with the modules of their
block."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from tritonparam._locks import across_forks
from tritonparam.module.full_names import drawn_on_the_way
from tritonparam.module.replay import Replay, is_defined
from tritonparam.module.source import Source
from tritonparam.module.takeover import take_over
from tritonparam.module.tape import Draw, History, Node, Version
from tritonparam.module.walk import named_tensors
from tritonparam.plan import View

_lock = across_forks()
_blocks: Any = WeakIdKeyDictionary()


@dataclass(frozen=True)
class _Block:
    """What one block has left: the histories of tensors that were none of a module's own, and its modules."""

    histories: weakref.WeakSet[History]
    modules: tuple[weakref.ref[torch.nn.Module], ...]


def note_loose(histories: Iterable[History], modules: Iterable[torch.nn.Module]) -> None:
    """Remember what a block made that is neither parameter nor buffer of the modules that it built."""
    modules = list(modules)
    block = _Block(weakref.WeakSet(histories), tuple(map(weakref.ref, modules)))
    if block.histories:
        with _lock:
            for module in modules:
                _blocks.setdefault(module, []).append(block)


def make_loose_real(
    module: torch.nn.Module, sources: Mapping[Draw | Node, Source], seed: int, device: torch.device | str | None
) -> None:
    """Make real what the blocks of `module`, now real itself, have made beside it; others' modules stay deferred.

    Left as they are: tensors with random numbers that `module` has none of, so that no name decides about them, and
    those that cannot be changed in place.

    Args:
        module: An outermost module.
        sources: Where what is drawn in it comes from.
        seed: 0 <= seed < 2**64.
        device: Where they are to be; None for the one that each was made for.
    """
    with _lock:
        blocks: list[_Block] = _blocks.get(module, [])
    found = {history for block in blocks for history in block.histories if _is_known(history, sources)}
    if not found:
        return
    alive = {each for block in blocks for reference in block.modules if (each := reference()) is not None}
    with torch._C.DisableTorchFunction():  # lazy modules' parameters refuse to tell
        held = {History.of(tensor) for each in alive for _, tensor, _, _ in named_tensors(each)}

    def replayed(versions: list[Version]) -> list[torch.UntypedStorage]:
        return Replay(seed, sources).run(versions)

    for history, tensors in _tensors_of(found - held).items():
        head = history.head
        if head is None:
            continue
        with contextlib.suppress(RuntimeError):
            (host,) = replayed([head])
            real = View.all_of(host).on(host).to(device or history.device).untyped_storage()
            pairs = [
                ("a tensor outside the module", mine, View.of(mine).on(real))
                for mine in tensors
                if is_defined(head, View.of(mine), sources)
            ]
            take_over(torch.nn.Module(), pairs, replayed)


def _is_known(history: History, sources: Mapping[Draw | Node, Source]) -> bool:
    """Whether a history ends in values that `sources` decide about."""
    head = history.head
    return head is not None and all(draw in sources for draw in drawn_on_the_way(head))


def _tensors_of(histories: set[History]) -> dict[History, list[torch.Tensor]]:
    """The tensors that people hold of these histories."""
    found: dict[History, list[torch.Tensor]] = {}
    for thing in gc.get_objects() if histories else ():
        # By the type alone: what only says that it is a tensor may do anything when it is asked.
        if issubclass(type(thing), torch.Tensor) and (history := History.of(thing)) in histories:
            found.setdefault(history, []).append(thing)
    return found
