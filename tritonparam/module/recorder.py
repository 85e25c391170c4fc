"""The recorder: sends every operator of a block to the meta device and notes on the tape what it wrote."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam.module.operators import (
    OVERWRITES,
    SCATTERS,
    bind,
    draws,
    makes_no_strided_tensor,
    reads_only_shapes,
    written_arguments,
    written_names,
)
from tritonparam.module.recognize import recognized
from tritonparam.module.replay import Replay
from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import Drawn, GeneratorState, History, Node, Read, Version, is_written, slice_of
from tritonparam.plan import View
from tritonparam.stream import TruncatedNormal

_META = torch.device("meta")
_HOST = torch.device("cpu")
_PEEK_NAME = "tritonparam.deferred_init"
_DEPENDS_ON_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is done to deferred tensors while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_paused = False
        self._peeks = itertools.count()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let everything through meanwhile."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.is_paused:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            return self._dispatch(func, args, kwargs)

    def values(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a deferred tensor holds, as a real tensor; from here on its random values do not depend on the seed."""
        history = History.of(tensor)
        if history is None:
            return tensor
        view = View.of(tensor)
        if not is_written(history.head, view):
            raise RuntimeError(f"the values of a tensor of shape {view.shape} were asked for before any were written")
        if history.head is None:
            return torch.empty(view.shape, dtype=view.dtype)
        for step in slice_of([history.head])[1]:
            if isinstance(step, Node) and step.random and step.pinned is None:
                step.pinned = self._pin(())
            elif isinstance(step, Version) and isinstance(step.content, Drawn):
                draw = step.content.draw
                if draw is not None and draw.pinned is None:
                    draw.pinned = self._pin(draw.shape)
        with self.paused():
            (storage,) = Replay(0, {}).run([history.head])
            return view.on(storage)

    def _pin(self, shape: tuple[int, ...]) -> Source:
        return Source(_PEEK_NAME, next(self._peeks), shape, Elements.all_of(shape), seed=0)

    def draw(self, tensor: torch.Tensor, law: TruncatedNormal) -> None:
        """Note that all of `tensor` was drawn from `law`."""
        with torch._C.DisableTorchFunction():
            history = History.of(tensor)
            if history is not None:
                history.write(tensor, Drawn.fresh(law, tuple(tensor.shape)))

    def known(self, tensor: torch.Tensor) -> torch.Tensor:
        """The deferred tensor whose values are those that a real tensor has now."""
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            return tensor
        with torch._C.DisableTorchFunction(), self.paused():
            plain = tensor.detach().resolve_conj().resolve_neg()
            out = torch.empty_like(plain, device=_META)
            History.begin(out, tensor.device).write(out, plain.cpu().clone())
        return out

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        deferred = [tensor for tensor in tensors if History.of(tensor) is not None]
        bound = bind(func, args, kwargs)
        if func._schema.name == "aten::lift_fresh" and not deferred:
            return self.known(args[0])
        is_like_meta = reads_only_shapes(func) and all(tensor.is_meta for tensor in tensors)
        if not deferred and (tensors or "device" not in bound) and not is_like_meta:
            return func(*args, **kwargs)
        if any(tag in func.tags for tag in _DEPENDS_ON_VALUES):
            return tree_map(self._deferred, self._really(func, args, kwargs))
        written = written_arguments(func, bound)
        if any(History.of(tensor) is None for tensor in written):
            return self._really(func, args, kwargs)
        if makes_no_strided_tensor(func, bound, tensors):
            return self._elsewhere(func, args, kwargs, written)
        args, kwargs = tree_map(self._deferred, (args, kwargs))
        bound = bind(func, args, kwargs)
        state = self._drawn_beforehand(func, args, kwargs, bound)
        try:
            out = func(*args, **_on_meta(kwargs, bound))
        except NotImplementedError:
            if not written and torch.Tag.nondeterministic_seeded in func.tags:
                out = tree_map(_as_meta, self._really(func, args, kwargs))
            else:
                return self._elsewhere(func, args, kwargs, written)
        if torch.Tag.inplace_view not in func.tags:
            self._record(func, args, kwargs, bound, written, out, state)
        return out

    def _really(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `func` gives on the host with the values that its arguments have."""
        return func(*tree_map(self._real, args), **tree_map(self._real, kwargs))

    def _elsewhere(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[torch.Tensor]) -> Any:
        """Do at once what the meta device cannot: what it gives, and leaves in its arguments, is known from then on."""
        reals: dict[int, torch.Tensor] = {}

        def real(value: object) -> object:
            if not isinstance(value, torch.Tensor):
                return _HOST if value == _META else value
            if id(value) not in reals:
                reals[id(value)] = self.values(value)
            return reals[id(value)]

        out = func(*tree_map(real, args), **tree_map(real, kwargs))
        for tensor in written:
            history = History.of(tensor)
            if history is not None:
                history.write(tensor, reals[id(tensor)].detach().clone())
        back = {id(made): tensor for tensor in written if (made := reals.get(id(tensor))) is not None}
        return tree_map(lambda value: back.get(id(value), self._deferred(value)), out)

    def _real(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self.values(value)
        return _HOST if value == _META else value

    def _deferred(self, value: object) -> object:
        return self.known(value) if isinstance(value, torch.Tensor) and History.of(value) is None else value

    def _drawn_beforehand(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], bound: dict[str, Any]
    ) -> GeneratorState | None:
        """The state of the generator that a caller gave, which goes on as in eager torch; None where there is none."""
        generator = bound.get("generator")
        if generator is None:
            return None
        if generator.device.type != "cpu":
            raise RuntimeError(
                f"generator must be a host's inside deferred_init, got one of {generator.device} for "
                f"{func._schema.name}{_where()}: make these values before the block"
            )
        state = GeneratorState(generator.get_state())

        def blank(value: object) -> object:
            if isinstance(value, torch.Tensor) and value.is_meta:
                return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).zero_()
            return _HOST if isinstance(value, torch.device) else value

        with self.paused():
            func(*tree_map(blank, args), **tree_map(blank, kwargs))
        return state

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        bound: dict[str, Any],
        written: list[torch.Tensor],
        out: Any,
        state: GeneratorState | None,
    ) -> None:
        leaves = tree_flatten(out)[0]
        fresh = [(n, leaf) for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and not History.of(leaf)]
        device = _device_of(bound)
        targets = [*written, *(tensor for _, tensor in fresh)]
        if not targets:
            return
        if len(targets) == 1 and state is None and not (targets[0].is_conj() or targets[0].is_neg()):
            pieces = recognized(func, bound, targets[0])
            if pieces is not None:
                begun = History.of(targets[0]) or History.begin(targets[0], device)
                begun.write_pieces(targets[0], pieces)
                return
        if func._schema.name.startswith(("aten::empty", "aten::new_empty")):
            for _, tensor in fresh:
                History.begin(tensor, device)
            return
        node = _node(func, args, kwargs, bound, written, state)
        for tensor in written:
            history = History.of(tensor)
            if history is not None:
                node.writes[history.key] = history.write(tensor, node)
        for position, tensor in fresh:
            begun = History.of(tensor) or History.begin(tensor, device)
            node.results.append((position, begun.write(tensor, node)))


def _node(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    bound: dict[str, Any],
    written: list[torch.Tensor],
    state: GeneratorState | None,
) -> Node:
    """The operation, with what it read as it was before."""
    name = func._schema.name
    overwrites = name in OVERWRITES or any(argument.is_out for argument in func._schema.arguments)
    histories = (History.of(leaf) for leaf in tree_flatten((args, kwargs))[0])
    times = Counter(history.key for history in histories if history is not None)
    # What is written whole, or where another tensor says, is not read as the argument that it is written as.
    unread = written_names(func, bool(bound.get("training"))) if overwrites or name in SCATTERS else ()
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
                f"{_where()}: it was not made by an operation inside deferred_init"
            )
        view, nbytes = View.of(value), value.untyped_storage().nbytes()
        version = history.head
        if is_read:
            reads_unwritten = reads_unwritten or not is_written(version, view)
        elif shapes_only or (overwrites and times[history.key] == 1 and view.fills(nbytes)):
            version = None
        read = Read(history.key, version, nbytes, view)
        reads.append(read)
        return read

    def noted(argument: str, value: object) -> object:
        is_read = not shapes_only and argument not in unread
        return tree_map(lambda each: note(each, is_read), value)

    names = [argument.name for argument in func._schema.arguments]
    noted_args = tuple(noted(argument, value) for argument, value in zip(names, args, strict=False))
    noted_kwargs = {argument: noted(argument, value) for argument, value in kwargs.items()}
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
    )


def _where() -> str:
    """The class of the module whose constructor is at work, for messages."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            return f", in {type(owner).__name__}"
        frame = frame.f_back
    return ""


def _as_meta(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)


def _on_meta(kwargs: dict[str, Any], bound: dict[str, Any]) -> dict[str, Any]:
    changed = dict(kwargs)
    if "device" in bound:
        changed["device"] = _META
    if changed.get("pin_memory"):
        changed["pin_memory"] = False
    if changed.get("generator") is not None:
        changed["generator"] = None
    return changed


def _device_of(bound: dict[str, Any]) -> torch.device:
    """The device that the results would be on without deferral; meta tensors asked for by name count as the host's."""
    named = bound.get("device")
    if named is not None and torch.device(named) != _META:
        return torch.device(named)
    for leaf in tree_flatten(bound)[0]:
        history = History.of(leaf)
        if history is not None and named is None:
            return history.device
    return _HOST
