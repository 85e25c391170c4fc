"""What people do with a model between the block that built it and `materialize`: it is kept, or an error says how.

Outside a block nothing records, so what torch does to a deferred tensor there would be lost. Once there was a block,
these go through here: `module.to`, `half`, `cuda`, `to_empty` and all else that goes by `Module._apply`, and copies
(`copy.deepcopy`), are recorded as inside a block; a write in place moves torch's version counter, which
`check_unseen_writes` compares with what it was when the block ended; and `tensor.data`, whose writes move no counter
that the tensor shows, gives an alias whose counter is watched too, for as long as there are deferred tensors.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from tritonparam._locks import across_forks
from tritonparam.module.blueprint import (
    awaits_values,
    mark_blank,
    note_attribute,
    note_registrations,
    note_tensors,
    replaced,
)
from tritonparam.module.recording.notes import UNSEEN, check_unseen_write
from tritonparam.module.recording.recorder import recorder
from tritonparam.module.recording.refusals import guard, refuse_fsdp1, refuse_wrapping, refuse_wrapping_in_blocks
from tritonparam.module.tape import History, histories_alive
from tritonparam.module.traversal import named_tensors
from tritonparam.plan import View
from tritonparam.tensor import is_dtensor

Enter = Callable[[], contextlib.AbstractContextManager[None]]

_apply = torch.nn.Module._apply
_to_empty = torch.nn.Module.to_empty
_copies = {torch.Tensor: torch.Tensor.__deepcopy__, torch.nn.Parameter: torch.nn.Parameter.__deepcopy__}
_data: Any = torch._C.TensorBase.data
_lock = across_forks()
_is_watching = False
_enter: Enter = contextlib.nullcontext


def watch(enter: Enter) -> None:
    """Have an eye on deferred tensors from here on; `enter` makes a context that goes on recording."""
    global _is_watching, _enter
    with _lock:
        _enter = enter
        refuse_wrapping_in_blocks()
        if not _is_watching:
            _is_watching = True
            note_registrations()
            refuse_wrapping()
            torch.nn.Module._apply = _apply_kept  # type: ignore[method-assign]
            torch.nn.Module.to_empty = _to_empty_kept  # type: ignore[method-assign]
            torch.Tensor.__deepcopy__ = _copied(torch.Tensor)  # type: ignore[method-assign]
            torch.nn.Parameter.__deepcopy__ = _copied(torch.nn.Parameter)  # type: ignore[method-assign]
        setattr(torch.Tensor, "data", property(_get_data, _set_data))  # noqa: B010


def check_unseen_writes(named: Iterable[tuple[str, History]]) -> None:
    """Refuse tensors that were written to where nothing recorded.

    Raises:
        RuntimeError: There are some; it names them.
    """
    written = [name for name, history in named if history.was_written_unseen()]
    if written:
        raise RuntimeError(f"deferred tensors {UNSEEN.format(', '.join(written))}")


@functools.wraps(_apply)
def _apply_kept(self: torch.nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
    if recorder() is not None:
        return _apply(self, fn, recurse)  # type: ignore[no-untyped-call]
    named = (*self.named_parameters(recurse=recurse), *self.named_buffers(recurse=recurse))
    deferred = [(name, history) for name, each in named if (history := History.of(each)) is not None]
    if not deferred:
        return _apply(self, fn, recurse)  # type: ignore[no-untyped-call]
    check_unseen_writes(deferred)

    def recorded(tensor: torch.Tensor) -> torch.Tensor:
        block = recorder()
        with block.paused() if block is not None and is_dtensor(tensor) else contextlib.nullcontext():
            return fn(tensor)

    modules = list(self.modules()) if recurse else [self]
    with _left_blank(modules), _enter():  # a cast of memory without values is no value
        with torch._C.DisableTorchFunction():  # which would show deferred tensors as what they stand for
            before = [(own, name, each.detach()) for own, name, each in _own_tensors(modules) if History.of(each)]
        result = _apply(self, recorded, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for own, name, old in before:
                history = History.of(own[name])
                # to_empty gives memory without values; here they are still to be had.
                if history is not None and history.head is None and own[name].shape == old.shape:
                    own[name].data.copy_(old)
    for module in modules:
        note_tensors(module)
    watch_modules(modules)
    return result


@functools.wraps(_to_empty)
def _to_empty_kept(self: torch.nn.Module, *, device: Any, recurse: bool = True) -> Any:
    modules = list(self.modules()) if recurse else [self]
    with _left_blank(modules) as blank:
        refuse_fsdp1(self, blank)
        result = _to_empty(self, device=device, recurse=recurse)
    if blank:
        _watch_casts_of_shards()
        guard([self], first=True)
    return result


@contextlib.contextmanager
def _left_blank(modules: Iterable[torch.nn.Module]) -> Iterator[list[str]]:
    """What stands without values in the place of deferred tensors has none after the block either; gives its names."""
    with torch._C.DisableTorchFunction():
        before = [(own, name) for own, name, tensor in replaced(modules) if awaits_values(tensor)]
    yield [name for _, name in before]
    for own, name in before:
        mark_blank(own[name])


def _watch_casts_of_shards() -> None:
    """Let casts that fully_shard finishes after `_apply`, in memory of its own, leave memory without values so."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    kind: Any = getattr(fsdp, "FSDPModule", None)
    finish: Any = vars(kind).get("_apply") if kind is not None else None
    if finish is None or hasattr(finish, "__wrapped__"):
        return

    @functools.wraps(finish)
    def finished(self: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        with _left_blank(self.modules()):
            return finish(self, *arguments, **options)

    kind._apply = finished


def watch_modules(modules: Iterable[torch.nn.Module]) -> None:
    """Take for an error, when they are made real, what is written to tensors of `modules` unrecorded from now on."""
    for _, _, tensor in _own_tensors(modules):
        _watch(tensor)


def watch_attributes(module: torch.nn.Module) -> None:
    """Do as `watch_modules` with the deferred tensors that are neither parameters nor buffers of `module`."""
    for each in named_tensors(module):
        if each.kind == "attribute":
            _watch(each.tensor)
            note_attribute(module, each.name, each.tensor)


def _watch(tensor: torch.Tensor) -> None:
    if (history := History.of(tensor)) is not None:
        history.watch(tensor)


def _own_tensors(modules: Iterable[torch.nn.Module]) -> Iterable[tuple[dict[str, Any], str, torch.Tensor]]:
    for module in modules:
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    yield own, name, tensor


def _copied(kind: type[torch.Tensor]) -> Any:
    original: Any = _copies[kind]

    @functools.wraps(original)
    def deepcopy(self: torch.Tensor, memo: dict[Any, Any]) -> Any:
        if id(self) in memo or History.of(self) is None:
            return original(self, memo)
        check_unseen_write(self)
        if recorder() is not None:
            return _with_storage(self, original(self, memo), memo)
        with _enter():
            made = _with_storage(self, original(self, memo), memo)
        _watch(made)
        return made

    return deepcopy


def _with_storage(tensor: torch.Tensor, copy: torch.Tensor, memo: dict[Any, Any]) -> torch.Tensor:
    """`copy`, laid out in a copy of the storage of a plain tensor as that one is: copies of its views share it too."""
    history = History.of(tensor)
    if type(tensor) is not torch.Tensor or history is None or history.live is not None:
        return copy
    copies: dict[int, torch.UntypedStorage] = memo.setdefault("tritonparam", {})
    if history.key not in copies:
        copies[history.key] = history.copied(tensor.untyped_storage())
    with torch._C.DisableTorchFunction(), torch.no_grad():
        copy.data = View.of(tensor).on(copies[history.key])
    return copy


def _get_data(self: torch.Tensor) -> torch.Tensor:
    alias: torch.Tensor = _data.__get__(self)
    block = recorder()
    if block is not None:
        block.note_alias(alias)
    else:
        history = History.of(alias)
        if history is not None:
            history.watch(alias)
        elif not histories_alive():
            with _lock:
                if "data" in vars(torch.Tensor):
                    del torch.Tensor.data
    return alias


def _set_data(self: torch.Tensor, value: torch.Tensor) -> None:
    block = recorder()
    if block is not None and not block.is_paused and isinstance(value, torch.Tensor):
        with torch._C.DisableTorchFunction():
            value = block.as_data_of(self, value)
    _data.__set__(self, value)
