"""Loose tensors: deferred ones that no module holds, but a cache, a list or an optimizer, become real with modules."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from tritonparam._arguments import warn
from tritonparam._locks import across_forks
from tritonparam.module.full_names import drawn_on_the_way
from tritonparam.module.replay import Replay, is_defined
from tritonparam.module.source import Source
from tritonparam.module.takeover import Replayed, take_over
from tritonparam.module.tape import Draw, History, Node, Version
from tritonparam.module.traversal import named_tensors
from tritonparam.plan import View

_lock = across_forks()
_blocks: Any = WeakIdKeyDictionary()
_made: Any = WeakIdKeyDictionary()
_found: weakref.WeakKeyDictionary[History, list[weakref.ref[torch.Tensor]]] = weakref.WeakKeyDictionary()


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
    module: torch.nn.Module, sources: Mapping[Draw | Node, Source], seed: int, device: torch.device | str | int | None
) -> None:
    """Make real what the blocks of `module`, now real itself, have made beside it; others' modules stay deferred.

    Left as they are: tensors with random numbers that `module` has none of, so that no name decides about them; those
    that were written to where nothing recorded, with a warning; and those that cannot be changed in place.

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
        held = {History.of(spot.tensor) for each in alive for spot in named_tensors(each)}

    def replayed(versions: list[Version]) -> list[torch.UntypedStorage]:
        return Replay(seed, sources).run(versions)

    found -= held
    known = _found_before(found)
    for history, tensors in (known if all(known.values()) else _tensors_of(found)).items():
        head = history.head
        if head is None:
            continue
        if history.was_written_unseen():
            warn(
                f"a tensor of shape {tuple(tensors[0].shape)} that no module holds was written to outside "
                "deferred_init(), where nothing takes note of it, and stays deferred"
            )
            continue
        with contextlib.suppress(RuntimeError):
            (host,) = replayed([head]) if history.live is None else (history.live,)
            real = View.all_of(host).on(host).to(device or history.device).untyped_storage()
            defined = [mine for mine in tensors if is_defined(head, View.of(mine), sources)]
            _become([(mine, View.of(mine).on(real)) for mine in defined], replayed)


def make_aliases_real(
    shows: Mapping[History, Callable[[View], torch.Tensor]],
    is_shown: Callable[[History], bool],
    replayed: Replayed,
) -> None:
    """Make real what else shows deferred storages whose modules are real now, such as `.data` that somebody kept.

    Args:
        shows: What gives the real tensor that shows a view, for each of the storages.
        is_shown: Whether there still is something that shows one.
        replayed: As for `take_over`.
    """
    for find in (_found_before, _tensors_of):  # to look through all objects of the process takes long
        wanted = {history for history in shows if is_shown(history)}
        for history, tensors in find(wanted).items():
            for mine in tensors:
                with contextlib.suppress(RuntimeError):
                    _become([(mine, shows[history](View.of(mine)))], replayed)


def is_made_beside(tensor: torch.Tensor) -> bool:
    """Whether a real tensor was deferred, and became real with a module that does not hold it."""
    return tensor in _made


def _become(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], replayed: Replayed) -> None:
    take_over(torch.nn.Module(), [("a tensor outside the module", mine, real) for mine, real in pairs], replayed)
    with _lock:
        for mine, _ in pairs:
            _made[mine] = True


def _is_known(history: History, sources: Mapping[Draw | Node, Source]) -> bool:
    """Whether a history ends in values that `sources` decide about."""
    head = history.head
    return head is not None and all(draw in sources for draw in drawn_on_the_way(head))


def _tensors_of(histories: set[History]) -> dict[History, list[torch.Tensor]]:
    """The tensors that people hold of these histories."""
    found: dict[History, list[torch.Tensor]] = {}
    if histories:
        for thing in gc.get_objects():
            # By the type alone: what only says that it is a tensor may do anything when it is asked.
            if issubclass(type(thing), torch.Tensor) and (history := History.of(thing)) is not None:
                found.setdefault(history, []).append(thing)
        with _lock:
            _found.clear()
            _found.update({history: list(map(weakref.ref, tensors)) for history, tensors in found.items()})
    return {history: tensors for history, tensors in found.items() if history in histories}


def _found_before(histories: set[History]) -> dict[History, list[torch.Tensor]]:
    """Those of them that the last look through all objects has found, as far as they are still deferred."""
    with _lock:
        known = {history: list(_found.get(history, ())) for history in histories}
    tensors = {
        history: [each for reference in known[history] if (each := reference()) is not None] for history in known
    }
    return {history: [each for each in held if History.of(each) is history] for history, held in tensors.items()}
