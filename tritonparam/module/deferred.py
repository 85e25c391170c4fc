"""Deferred initialization: run a constructor now, allocate and draw later.

Inside `deferred_init()` every tensor that a constructor makes is on the meta device, where it takes no memory, and a
tape keeps what was done to it. `tritonparam.materialize` makes the tensors real.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam.module.recognize import bind, recognized
from tritonparam.module.replay import Replay
from tritonparam.module.source import Elements, Source
from tritonparam.module.tape import Drawn, History, Node, Read, Version, is_written, slice_of
from tritonparam.module.trunc_normal import truncated_normals_noted
from tritonparam.plan import View
from tritonparam.stream import TruncatedNormal

_META = torch.device("meta")
_PEEK_NAME = "tritonparam.deferred_init"
_OVERWRITES = frozenset(
    f"aten::{op}_"
    for op in (
        *("fill", "zero", "copy", "normal", "uniform", "bernoulli", "exponential", "geometric", "cauchy"),
        *("log_normal", "random"),
    )
)
# These write where another tensor says; the elements they leave alone are not read either.
_SCATTERS = frozenset(
    f"aten::{op}_"
    for op in (
        *("index_put", "_index_put_impl", "masked_fill", "masked_scatter", "index_fill", "index_copy"),
        *("scatter", "put"),
    )
)
_LOOKS = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__"),
        *("__contains__", "__repr__", "__format__", "is_nonzero", "equal", "allclose"),
    )
) | {torch.is_nonzero, torch.equal, torch.allclose}


@contextlib.contextmanager
def deferred_init() -> Iterator[None]:
    """Run any torch constructor without allocating or drawing what it makes.

    Tensors made inside are on the meta device and remember what was done to them; `materialize` makes them real. To the
    code inside they seem to be on the device they were made for. Where it asks for values (`item`, `tolist`, `if`),
    these are computed, from random numbers that are the same for every seed if need be. Operations on tensors that were
    made outside are done at once. A `torch.Generator` that is given to a random function is not drawn from.

    Holds for the current thread. May be nested and entered again: a model goes on being recorded, also when it is
    copied (copies made outside, and pickles, lose what they remember, and `materialize` names them). The random states
    of torch (host and CUDA), NumPy and Python are as before on the way out, whatever happened inside.

    Examples:
        >>> import torch
        >>> from tritonparam import materialize
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 2)
        >>> model.weight.is_meta
        True
        >>> materialize(model, seed=7).weight.is_meta
        False
    """
    if _recorder() is not None:
        yield
        return
    recorder = _Recorder()
    with _random_states_kept(), truncated_normals_noted(_noting_for), recorder, _Surface(recorder):
        _local.recorder = recorder
        try:
            yield
        finally:
            _local.recorder = None


_local = threading.local()


def _recorder() -> _Recorder | None:
    recorder: _Recorder | None = getattr(_local, "recorder", None)
    return recorder


def recording_paused() -> contextlib.AbstractContextManager[None]:
    """A context in which torch works as usual, also inside `deferred_init`."""
    recorder = _recorder()
    return contextlib.nullcontext() if recorder is None else recorder.paused()


def _noting_for(tensor: torch.Tensor) -> Callable[[torch.Tensor, TruncatedNormal], None] | None:
    """What takes the law of a deferred tensor in a thread that records; None for all others."""
    recorder = _recorder()
    with torch._C.DisableTorchFunction():
        is_deferred = History.of(tensor) is not None
    return None if recorder is None or recorder.is_paused or not is_deferred else recorder.draw


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends every operator to the meta device and notes what it wrote."""

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

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        deferred = [tensor for tensor in tensors if History.of(tensor) is not None]
        bound = bind(func, args, kwargs)
        if func._schema.name == "aten::lift_fresh" and not deferred:
            return self._known(args[0])
        if not deferred and (tensors or "device" not in bound):
            return func(*args, **kwargs)
        written = _written_arguments(func, bound)
        if any(History.of(tensor) is None for tensor in written):
            return func(*tree_map(self._real, args), **tree_map(self._real, kwargs))
        args, kwargs = tree_map(self._deferred, (args, kwargs))
        bound = bind(func, args, kwargs)
        try:
            out = func(*args, **_on_meta(kwargs, bound))
        except NotImplementedError:
            if written:
                raise
            out = func(*tree_map(self._real, args), **tree_map(self._real, kwargs))
            return tree_map(self._deferred, out)
        if torch.Tag.inplace_view not in func.tags:
            self._record(func, args, kwargs, bound, written, out)
        return out

    def _real(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return self.values(value)
        return torch.device("cpu") if value == _META else value

    def _deferred(self, value: object) -> object:
        return self._known(value) if isinstance(value, torch.Tensor) and History.of(value) is None else value

    def _known(self, tensor: torch.Tensor) -> torch.Tensor:
        """The deferred tensor whose values are those that a real tensor has now."""
        if tensor.is_meta or tensor.layout != torch.strided:
            return tensor
        out = torch.empty_like(tensor, device=_META)
        History.begin(out, tensor.device).write(out, tensor.detach().cpu().clone())
        return out

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        bound: dict[str, Any],
        written: list[torch.Tensor],
        out: Any,
    ) -> None:
        leaves = tree_flatten(out)[0]
        fresh = [(n, leaf) for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and not History.of(leaf)]
        device = _device_of(bound)
        targets = [*written, *(tensor for _, tensor in fresh)]
        if not targets:
            return
        if len(targets) == 1:
            pieces = recognized(func, bound, targets[0])
            if pieces is not None:
                begun = History.of(targets[0]) or History.begin(targets[0], device)
                begun.write_pieces(targets[0], pieces)
                return
        if func._schema.name.startswith(("aten::empty", "aten::new_empty")):
            for _, tensor in fresh:
                History.begin(tensor, device)
            return
        node = _node(func, args, kwargs, written)
        for tensor in written:
            history = History.of(tensor)
            if history is not None:
                node.writes[history.key] = history.write(tensor, node)
        for position, tensor in fresh:
            begun = History.of(tensor) or History.begin(tensor, device)
            node.results.append((position, begun.write(tensor, node)))


def _node(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[torch.Tensor]) -> Node:
    """The operation, with what it read as it was before."""
    name = func._schema.name
    overwrites = name in _OVERWRITES or any(argument.is_out for argument in func._schema.arguments)
    histories = (History.of(leaf) for leaf in tree_flatten((args, kwargs))[0])
    times = Counter(history.key for history in histories if history is not None)
    unread = set()
    if overwrites or name in _SCATTERS:
        # A storage that comes in twice, as in torch.add(a, 1, out=a), is read too.
        unread = {id(tensor) for tensor in written if (own := History.of(tensor)) and times[own.key] == 1}
    reads: list[Read] = []
    reads_unwritten = False

    def note(value: object) -> object:
        nonlocal reads_unwritten
        history = History.of(value)
        if history is None or not isinstance(value, torch.Tensor):
            return None if isinstance(value, torch.Generator) else _host_device(value)
        view, nbytes = View.of(value), value.untyped_storage().nbytes()
        version = history.head
        if id(value) not in unread:
            reads_unwritten = reads_unwritten or not is_written(version, view)
        elif overwrites and view.fills(nbytes):
            version = None
        read = Read(history.key, version, nbytes, view)
        reads.append(read)
        return read

    noted_args, noted_kwargs = tree_map(note, (args, kwargs))
    if "pin_memory" in noted_kwargs:
        noted_kwargs["pin_memory"] = None
    return Node(
        func=func,
        args=noted_args,
        kwargs=noted_kwargs,
        reads=tuple(reads),
        default_dtype=torch.get_default_dtype(),
        random=torch.Tag.nondeterministic_seeded in func.tags,
        reads_unwritten=reads_unwritten,
    )


def _host_device(value: object) -> object:
    return torch.device("cpu") if isinstance(value, torch.device) else value


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
    return torch.device("cpu")


def _written_arguments(func: Any, bound: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments that the operator writes to."""
    arguments = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    leaves = tree_flatten([bound[argument.name] for argument in arguments])[0]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


class _Surface(TorchFunctionMode):
    """Makes deferred tensors look, to the code that builds a model, like those they stand for."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._recorder.is_paused:
            return func(*args, **kwargs)
        if func in _LOOKS:
            args, kwargs = tree_map(self._real, (args, kwargs))
            return func(*args, **kwargs)
        history = History.of(args[0]) if args else None
        if history is None:
            return func(*args, **kwargs)
        seen = _SEEN.get(func)
        if seen is not None:
            return seen(history.device)
        if func in (torch.Tensor.to, torch.Tensor.cpu) and _stays(func, args, kwargs, history.device):
            return _retyped(args, kwargs) if func is torch.Tensor.to else args[0]
        return func(*args, **kwargs)

    def _real(self, value: object) -> object:
        return self._recorder.values(value) if isinstance(value, torch.Tensor) else value


_SEEN: dict[Any, Callable[[torch.device], object]] = {
    torch.Tensor.device.__get__: lambda device: device,
    torch.Tensor.is_meta.__get__: lambda device: False,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda device: -1 if device.type == "cpu" else device.index or 0,
}


def _stays(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> bool:
    """Whether a call of `to` or `cpu` leaves the tensor on the device it was made for."""
    if func is torch.Tensor.cpu:
        return device.type == "cpu"
    if "copy" in kwargs or len(args) > 3:
        return False
    target = torch._C._nn._parse_to(*args[1:], **kwargs)[0]
    return target is None or target in (_META, device)


def _retyped(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    _, dtype, _, memory_format = torch._C._nn._parse_to(*args[1:], **kwargs)
    tensor: torch.Tensor = args[0]
    return tensor.to(dtype or tensor.dtype, memory_format=memory_format or torch.preserve_format)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy, host = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.default_generator.set_state(host)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
