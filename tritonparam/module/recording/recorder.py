"""The recorder: sends every operator of a block to the meta device and notes on the tape what it wrote."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam.module.covers import is_covered
from tritonparam.module.operators import (
    bind,
    check_drawing,
    makes_no_strided_tensor,
    out_names,
    reads_only_shapes,
    tensors_in,
    written_arguments,
)
from tritonparam.module.recognize import recognized
from tritonparam.module.recording.indices import as_index, is_index, without_masks
from tritonparam.module.recording.looks import Looks
from tritonparam.module.recording.notes import (
    as_meta,
    as_written,
    asked_too_early,
    check_reads,
    device_of,
    is_live,
    is_random,
    names_dtype,
    note_check,
    noted,
    on_meta,
    where,
)
from tritonparam.module.recording.wrappers import Wrappers
from tritonparam.module.replay import Replay, ReplayError, is_defined
from tritonparam.module.tape import Drawn, GeneratorState, History
from tritonparam.plan import View
from tritonparam.stream import TruncatedNormal

_META = torch.device("meta")
_HOST = torch.device("cpu")
_DEPENDS_ON_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


# Both of a thread, or an asyncio task: a block may have several.
_current: ContextVar[Recorder | None] = ContextVar("tritonparam_recorder", default=None)
_paused: ContextVar[bool] = ContextVar("tritonparam_paused", default=False)


def recorder() -> Recorder | None:
    """The recorder of the block that this thread, or asyncio task, is in."""
    found = _current.get()
    return None if found is None or found.is_finished else found


class Recorder:
    """What is done to deferred tensors in one block.

    Attributes:
        is_finished: Whether the block has ended.
        wrappers: The tensors made in it that wrap others.
    """

    def __init__(self) -> None:
        self.is_finished = False
        self._written: dict[int, History] = {}
        self._begun: list[weakref.ref[History]] = []
        self._aliases: list[weakref.ref[torch.Tensor]] = []
        self.wrappers = Wrappers()
        self._looks = Looks()
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Record what this thread, or task, does."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def finish(self) -> None:
        """Record nothing more; what was written is not taken for unseen."""
        self.is_finished = True
        for history in self._written.values():
            history.watch_on()
        for reference in self._aliases:
            if (tensor := reference()) is not None and (begun := History.of(tensor)) is not None:
                begun.watch(tensor)
        self._aliases.clear()
        self._written.clear()
        self._storages.clear()

    def begun_beside(self, modules: Iterable[torch.nn.Module]) -> set[History]:
        """What the block began that is still there, and is no parameter or buffer of `modules`."""
        tensors = (tensor for each in modules for own in (each._parameters, each._buffers) for tensor in own.values())
        begun = {history for reference in self._begun if (history := reference()) is not None}
        return begun - {History.of(tensor) for tensor in tensors}

    def begin(self, tensor: torch.Tensor, history: History) -> History:
        """Give the storage of a new meta tensor its history, as one of the block."""
        history.begin(tensor.untyped_storage())
        self._begun.append(weakref.ref(history))
        self._aliases.append(weakref.ref(tensor))
        return history

    def note_alias(self, tensor: torch.Tensor) -> None:
        """Let what is written to a tensor after the block be seen, if it is still there then."""
        self._aliases.append(weakref.ref(tensor))

    def as_data_of(self, tensor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """What goes to `tensor.data`: deferred if the tensor is, of the same memory as `data`."""
        is_deferred, goes_deferred = (History.of(each) is not None for each in (tensor, data))
        if is_deferred and not goes_deferred:
            return self.sharing(data)
        if goes_deferred and not is_deferred and not tensor.is_meta:
            shared = self.shared(data)
            return self.values(data) if shared is None else shared
        return data

    @property
    def is_paused(self) -> bool:
        """Whether what this thread, or task, does now is not recorded."""
        return _paused.get()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let everything through meanwhile."""
        token = _paused.set(True)
        try:
            yield
        finally:
            _paused.reset(token)

    def is_seen(self, history: History) -> bool:
        """Whether no unseen write to a history needs to be looked for.

        No block that had it has ended, or this one wrote to it.
        """
        return not history.watched or history.key in self._written

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do one operator on the meta device and note it."""
        with self.paused():  # other blocks' modes may lie below
            return self._dispatch(func, args, kwargs)

    def values(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a deferred tensor holds, as a real tensor; from here on its random values do not depend on the seed."""
        history = History.of(tensor)
        return tensor if history is None else self._values(history, View.of(tensor))

    def _values(self, history: History, view: View) -> torch.Tensor:
        head = history.head
        with self.paused():
            if history.live is not None:
                return view.on(history.live)
            if head is None:
                if view.numel:
                    raise asked_too_early(view)
                return torch.empty(view.shape, dtype=view.dtype)
            self._looks.pin(head)
            if not is_defined(head, view, {}):
                raise asked_too_early(view)
            try:
                (storage,) = Replay(0, {}).run([head])
            except ReplayError as error:
                raise error.cause from None
            return view.on(storage)

    def draw(self, tensor: torch.Tensor, law: TruncatedNormal) -> None:
        """Note that all of `tensor` was drawn from `law`."""
        with torch._C.DisableTorchFunction():
            history = History.of(tensor)
            if history is not None:
                self._note_written([tensor])
                history.write(tensor, Drawn.fresh(law, tuple(tensor.shape)))

    def shared(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The real tensor whose memory a deferred one has from here on; None where some of its storage has no value."""
        history = History.of(tensor)
        if history is None:
            return None
        if history.live is None:
            view, storage = View.of(tensor), tensor.untyped_storage()
            whole = view if view.fills(storage.nbytes()) else View.all_of(storage, tensor.dtype)
            if not whole.fills(storage.nbytes()) or (whole != view and is_covered(history.head, whole) is not True):
                return None
            real = self._values(history, whole)
            if real.untyped_storage().nbytes() != storage.nbytes():
                return real
            history.share(whole, real)
        return self.values(tensor)

    def known(self, tensor: torch.Tensor) -> torch.Tensor:
        """The deferred tensor whose values are those that a real tensor has now."""
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            return tensor
        with torch._C.DisableTorchFunction(), self.paused():
            plain = tensor.detach().resolve_conj().resolve_neg()
            out = torch.empty_like(plain, device=_META)
            self.begin(out, History(tensor.device, names_dtype=True)).write(out, plain.cpu().clone())
        return out

    def sharing(self, real: torch.Tensor) -> torch.Tensor:
        """The deferred tensor of the memory of a real one, which something else writes to as well."""
        if real.is_meta or real.layout != torch.strided:
            return self.known(real)
        with torch._C.DisableTorchFunction(), self.paused():
            view, nbytes = View.of(real), real.untyped_storage().nbytes()
            out = view.on(torch.empty(nbytes, dtype=torch.uint8, device=_META).untyped_storage())
            self.begin(out, History(real.device)).share(view, real)
        return out

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = tensors_in((args, kwargs))
        deferred = [tensor for tensor in tensors if History.of(tensor) is not None]
        check_reads(func, deferred, self._written)
        bound = bind(func, args, kwargs)
        if func._schema.name == "aten::lift_fresh" and not deferred:
            # Memory that torch did not allocate is an array's, which the constructor may go on writing to.
            return self.known(args[0]) if args[0].untyped_storage().resizable() else self.sharing(args[0])
        if func._schema.name == "aten::set_" and deferred and isinstance(bound.get("source"), torch.UntypedStorage):
            return self._set(func, args, kwargs, bound["source"])
        if not deferred and (tensors or "device" not in bound):
            is_like_meta = reads_only_shapes(func) and all(tensor.is_meta for tensor in tensors)
            if not is_like_meta:
                return func(*args, **kwargs)
        written = written_arguments(func, bound)
        if any(History.of(tensor) is None for tensor in written):
            return self._really(func, args, kwargs)
        if not func._schema.returns and not written:  # it can only check, which the meta device does not
            if not any(map(is_random, deferred)):
                return self._really(func, args, kwargs)
            return note_check(noted(func, args, kwargs, bound, written, None))
        func, args = as_index(func, args)
        if is_index(func, args):
            args, depends_on_values = without_masks(args, self.values, self.known, is_random), False
            bound = bind(func, args, kwargs)
        else:
            depends_on_values = any(tag in func.tags for tag in _DEPENDS_ON_VALUES)
        if depends_on_values or any(map(is_live, written)) or makes_no_strided_tensor(func, bound, tensors):
            return self._elsewhere(func, args, kwargs, written)
        if not func.is_view and any(map(is_live, deferred)):
            args, kwargs = tree_map(self._as_it_is, (args, kwargs))
            bound = bind(func, args, kwargs)
        if len(deferred) < len(tensors):
            args, kwargs = tree_map(self._deferred, (args, kwargs))
            bound = bind(func, args, kwargs)
        check_drawing(func, bound, written)
        state = self._drawn_beforehand(func, args, kwargs, bound)
        try:
            with as_written(func, written):
                out = func(*args, **on_meta(kwargs, bound))
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and "no fake impl registered" not in str(error):
                raise
            if not written and torch.Tag.nondeterministic_seeded in func.tags:
                with torch.random.fork_rng(devices=()):
                    out = tree_map(as_meta, self._really(func, args, kwargs))
            else:
                return self._elsewhere(func, args, kwargs, written)
        if torch.Tag.inplace_view not in func.tags:
            self._record(func, args, kwargs, bound, written, out, state)
        return out

    def _set(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], source: torch.UntypedStorage) -> Any:
        """Make a deferred tensor show a storage; what a real one has, such as a file's, is known from then on."""
        if source.device == _META:
            return func(*args, **kwargs)
        tensor, *where = args
        blank = self._storages.get(source._cdata)
        if blank is None:
            meta = torch.empty(source.nbytes(), dtype=torch.uint8, device=_META).untyped_storage()
            blank = self._storages[source._cdata] = (source, meta)
        real = torch.empty(0, dtype=tensor.dtype, device=source.device)
        func(real, *where, **kwargs)
        out = func(tensor, blank[1], *where[1:], **kwargs)
        begun = History.of(tensor) or self.begin(tensor, History(source.device))
        if source.device == _HOST:  # it may be filled only later, as when a file is read
            begun.share(View.of(tensor), real)
        else:
            begun.write(tensor, real.cpu())
        return out

    def _note_written(self, written: list[torch.Tensor]) -> None:
        for tensor in written:
            history = History.of(tensor)
            if history is not None and history.watched:
                self._written[history.key] = history

    def _really(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What `func` gives on the host with the values that its arguments have."""
        return func(*tree_map(self._real, args), **tree_map(self._real, kwargs))

    def _elsewhere(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[torch.Tensor]) -> Any:
        """Do at once what the meta device cannot: what it gives, and leaves in its arguments, is known from then on."""
        reals: dict[int, torch.Tensor] = {}
        outs = {id(kwargs[name]) for name in out_names(func) if name in kwargs}

        def real(value: object) -> object:
            if not isinstance(value, torch.Tensor):
                return _HOST if value == _META else value
            if id(value) not in reals:
                is_read = id(value) not in outs or is_live(value)
                reals[id(value)] = self.values(value) if is_read else torch.zeros_like(value, device=_HOST)
            return reals[id(value)]

        out = func(*tree_map(real, args), **tree_map(real, kwargs))
        self._note_written(written)
        for tensor in written:
            history, real_one = History.of(tensor), reals[id(tensor)].detach()
            if history is not None and history.live is None:
                if tensor.shape != real_one.shape:
                    tensor.resize_(real_one.shape)
                history.write(tensor, real_one.clone())
        back = {id(made): tensor for tensor in written if (made := reals.get(id(tensor))) is not None}
        return tree_map(lambda value: back.get(id(value), self._deferred(value)), out)

    def _real(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self.values(value)
        return _HOST if value == _META else value

    def _deferred(self, value: object) -> object:
        return self.known(value) if isinstance(value, torch.Tensor) and History.of(value) is None else value

    def _as_it_is(self, value: object) -> object:
        """A deferred tensor of what an array has now."""
        return self.known(self.values(value)) if isinstance(value, torch.Tensor) and is_live(value) else value

    def _drawn_beforehand(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], bound: dict[str, Any]
    ) -> GeneratorState | None:
        """The state of the generator that a caller gave, which goes on as in eager torch; None where there is none."""
        generator = bound.get("generator")
        if generator is None or generator._cdata == torch.default_generator._cdata:  # type: ignore[attr-defined]
            return None
        if generator.device.type != "cpu":
            raise RuntimeError(
                f"generator must be a host's inside deferred_init, got one of {generator.device} for "
                f"{func._schema.name}{where()}: make these values before the block"
            )
        state = GeneratorState(generator.get_state())
        written = {id(tensor) for tensor in written_arguments(func, bound)}

        def blank(value: object) -> object:
            if isinstance(value, torch.Tensor) and value.is_meta:
                if id(value) in written or is_random(value):
                    return torch.ones_like(value, device=_HOST)
                return self.values(value)  # how much is drawn may depend on them
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
        leaves = [out] if isinstance(out, torch.Tensor) else tree_flatten(out)[0]
        fresh = [(n, leaf) for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and not History.of(leaf)]
        targets = [*written, *(tensor for _, tensor in fresh)]
        if not targets:
            return

        def begun(tensor: torch.Tensor) -> History:
            return History.of(tensor) or self.begin(tensor, History(device_of(bound), names_dtype(bound)))

        if len(targets) == 1 and state is None and not (targets[0].is_conj() or targets[0].is_neg()):
            pieces = recognized(func, bound, targets[0])
            if pieces is not None:
                self._note_written(written)
                begun(targets[0]).write_pieces(targets[0], pieces)
                return
        if func._schema.name.startswith(("aten::empty", "aten::new_empty")):
            for _, tensor in fresh:
                begun(tensor)
            return
        self._note_written(written)
        node = noted(func, args, kwargs, bound, written, state)
        for tensor in written:
            history = History.of(tensor)
            if history is not None:
                node.writes[history.key] = history.write(tensor, node)
        for position, tensor in fresh:
            node.results.append((position, begun(tensor).write(tensor, node)))
