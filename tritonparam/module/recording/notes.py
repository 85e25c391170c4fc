"""What is noted of a call: the operation with what it read, and what its arguments say beyond their values."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Container, Iterator
from types import FrameType
from typing import Any

import torch

from tritonparam.module.covers import is_covered, is_written
from tritonparam.module.operators import (
    OVERWRITES,
    SCATTERS,
    draws,
    out_names,
    reads_only_shapes,
    tensors_in,
    with_each,
    written_names,
)
from tritonparam.module.tape import GeneratorState, History, Node, Read, drawn_before
from tritonparam.plan import View

UNSEEN = (
    "were written to outside deferred_init(), where nothing takes note of it: {}; write to them inside `with "
    "deferred_init():`, which goes on recording, or after materialize"
)
_META = torch.device("meta")
_HOST = torch.device("cpu")


def noted(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    bound: dict[str, Any],
    written: list[torch.Tensor],
    state: GeneratorState | None,
) -> Node:
    """The operation, with what it read as it was before."""
    name = func._schema.name
    overwrites = name in OVERWRITES or bool(out_names(func))
    histories = map(History.of, tensors_in((args, kwargs)) if overwrites else ())
    times = Counter(history.key for history in histories if history is not None)
    # What is written whole, or where another tensor says, is not read as the argument that it is written as.
    unread = written_names(func, bool(bound.get("training"))) if name in OVERWRITES or name in SCATTERS else ()
    unread = unread or out_names(func)
    shapes_only = reads_only_shapes(func)
    reads: list[Read] = []
    reads_unwritten = False

    def note(value: object, is_read: bool) -> object:
        nonlocal reads_unwritten
        if isinstance(value, torch.Generator):
            return state
        if not isinstance(value, torch.Tensor):
            return _HOST if isinstance(value, torch.device) else value
        history = History.of(value)
        if history is None:
            raise RuntimeError(
                f"{name} reads a tensor of shape {tuple(value.shape)} on the meta device that does not know its values"
                f"{where()}: it was not made by an operation inside deferred_init"
            )
        view, nbytes = View.of(value), value.untyped_storage().nbytes()
        version = history.head
        if is_read:
            reads_unwritten = reads_unwritten or is_covered(version, view) is not True
        elif shapes_only or (overwrites and times[history.key] == 1 and view.fills(nbytes)):
            version = None
        read = Read(history.key, version, nbytes, view)
        reads.append(read)
        return read

    def noted_argument(argument: str, value: object) -> object:
        is_read = not shapes_only and argument not in unread
        return with_each(value, lambda each: note(each, is_read))

    names = [argument.name for argument in func._schema.arguments]
    noted_args = tuple(noted_argument(argument, value) for argument, value in zip(names, args, strict=False))
    noted_kwargs = {argument: noted_argument(argument, value) for argument, value in kwargs.items()}
    if "pin_memory" in noted_kwargs:
        noted_kwargs["pin_memory"] = None
    return Node(
        func=func,
        args=noted_args,
        kwargs=noted_kwargs,
        reads=tuple(reads),
        default_dtype=torch.get_default_dtype(),
        random=state is None and draws(func, bound),
        reads_unwritten=reads_unwritten,
        may_leave_unwritten=name in SCATTERS and any(may_be_unwritten(tensor) for tensor in written),
    )


def note_check(check: Node) -> None:
    """Have an operation that gives nothing done after those whose results it looks at."""
    for read in check.reads:
        if read.version is not None and isinstance(read.version.content, Node):
            read.version.content.checks.append(check)


def check_unseen_write(tensor: torch.Tensor) -> None:
    """Refuse a tensor that was written to where nothing recorded, as what is known of it is of before.

    Raises:
        RuntimeError: It was.
    """
    history = History.of(tensor)
    if history is not None and history.was_written_unseen():
        raise RuntimeError(f"deferred tensors {UNSEEN.format(f'one of shape {tuple(tensor.shape)}')}{where()}")


def check_reads(func: Any, deferred: list[torch.Tensor], seen: Container[int]) -> None:
    """Refuse what an operation reads if it was written to since it was recorded last, but where it is written anew.

    Args:
        func: The operation.
        deferred: The deferred tensors among its arguments, the one that it writes to first.
        seen: The keys of the histories that are recorded by now.
    """
    for number, tensor in enumerate(deferred):
        history = History.of(tensor)
        if history is not None and history.watched and history.key not in seen:
            is_anew = not number and func._schema.name in OVERWRITES
            if not is_anew or not View.of(tensor).fills(tensor.untyped_storage().nbytes()):
                check_unseen_write(tensor)


def may_be_unwritten(tensor: torch.Tensor) -> bool:
    history = History.of(tensor)
    return history is None or is_covered(history.head, View.of(tensor)) is not True


def is_live(tensor: torch.Tensor) -> bool:
    """Whether a deferred tensor has memory, which it shares with an array."""
    history = History.of(tensor)
    return history is not None and history.live is not None


def is_random(tensor: torch.Tensor) -> bool:
    """Whether a deferred tensor holds anything that depends on the seed, or on memory that was never written."""
    history = History.of(tensor)
    if history is None or history.live is not None:
        return False
    head = history.head
    return head is None or any(drawn_before(head)) or not is_written(head, View.of(tensor))


def asked_too_early(view: View) -> RuntimeError:
    return RuntimeError(f"the values of a tensor of shape {view.shape} were asked for before any were written{where()}")


def where() -> str:
    """The class of the module whose constructor is at work, for messages."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            return f", in {type(owner).__name__}"
        frame = frame.f_back
    return ""


def as_meta(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)


def on_meta(kwargs: dict[str, Any], bound: dict[str, Any]) -> dict[str, Any]:
    changed = dict(kwargs)
    if "device" in bound:
        changed["device"] = _META
    if changed.get("pin_memory"):
        changed["pin_memory"] = False
    if changed.get("generator") is not None:
        changed["generator"] = None
    return changed


def names_dtype(bound: dict[str, Any]) -> bool:
    """Whether the dtype of what a call makes is named, there or where the arguments that it comes from were made.

    Tensors without dimensions count where there are no others: then they decide which dtype comes out.
    """
    if bound.get("dtype") is not None:
        return True
    tensors = [leaf for leaf in tensors_in(bound.values()) if leaf.is_floating_point()]
    histories = [History.of(leaf) for leaf in [each for each in tensors if each.dim()] or tensors]
    return any(history is None or history.names_dtype for history in histories)


def device_of(bound: dict[str, Any]) -> torch.device:
    """The device that the results would be on without deferral; meta tensors asked for by name count as the host's."""
    named = bound.get("device")
    if named is not None and torch.device(named) != _META:
        return torch.device(named)
    for leaf in tensors_in(bound.values()):
        history = History.of(leaf)
        if history is not None and named is None:
            return history.device
    return _HOST


@contextlib.contextmanager
def as_written(func: Any, written: list[torch.Tensor]) -> Iterator[None]:
    """Hold an operator to what it may do to what it writes to, which its kernel for the meta device may not.

    Raises:
        RuntimeError: An in-place operator changes a shape, as torch has it.
    """
    before = [(tensor, View.of(tensor), tensor.untyped_storage().nbytes()) for tensor in written]
    yield
    if torch.Tag.inplace_view in func.tags:
        return
    for tensor, view, nbytes in before:
        if tensor.shape != view.shape and not out_names(func):
            got = list(tensor.shape)
            tensor.untyped_storage().resize_(nbytes)
            tensor.as_strided_(view.shape, view.stride, view.offset)
            raise RuntimeError(f"output with shape {list(view.shape)} doesn't match the broadcast shape {got}")
