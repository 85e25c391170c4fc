"""Deferred initialization: run a constructor now, allocate and draw later.

Inside `deferred_init()` every tensor that a constructor makes is on the meta device, where it takes no memory, and a
tape keeps what was done to it. `tritonparam.materialize` makes the tensors real.
"""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np
import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from tritonparam._arguments import few, shown, warn
from tritonparam.module.blueprint import Blueprint, replaced
from tritonparam.module.full_names import remember
from tritonparam.module.loose import note_loose
from tritonparam.module.recording.dispatched import Dispatched
from tritonparam.module.recording.memory import memory_answers
from tritonparam.module.recording.patches import Patches
from tritonparam.module.recording.recorder import Recorder, recorder
from tritonparam.module.recording.refusals import guard, refuse_in_block
from tritonparam.module.recording.surface import Surface
from tritonparam.module.recording.threads import threads_record
from tritonparam.module.recording.trunc_normal import truncated_normals_noted
from tritonparam.module.recording.watch import watch, watch_attributes, watch_modules
from tritonparam.module.tape import History
from tritonparam.module.traversal import tensors_within
from tritonparam.stream import TruncatedNormal
from tritonparam.tensor import is_dtensor

_P = ParamSpec("_P")
_Built = TypeVar("_Built")
_Function = TypeVar("_Function", bound=Callable[..., Any])


@overload
def deferred_init() -> DeferredBlock: ...


@overload
def deferred_init(build: Callable[_P, _Built], /, *args: _P.args, **kwargs: _P.kwargs) -> _Built: ...


def deferred_init(build: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Run any torch constructor without allocating or drawing what it makes.

    A block, `with deferred_init(): model = build(...)`; a call, `model = deferred_init(build, ...)`; or, called itself,
    a decorator, `@deferred_init()`.

    Tensors made inside are on the meta device and remember what was done to them; `materialize` makes them real. To the
    code inside they seem to be on the device they were made for. If the constructor reads a value (`item`, `tolist`,
    `if`), it is computed on the spot; random values are then fixed ones that ignore the seed. Operations on tensors
    that were made outside are done at once. A `torch.Generator` that is given to a random function is obeyed.

    The block holds for the current thread or asyncio task, and for threads that are started in it meanwhile. Blocks may
    be nested, and a second block goes on recording the model of the first. Copies of a model are recorded as well;
    pickles are not, and `materialize` names them. The block leaves torch's random states (host and CUDA) as they were.
    Those of NumPy and Python go on, with a warning if they were drawn from. docs/limits.md lists what
    cannot be deferred.

    Until it has values, a model that is run, or given a state dict to copy, raises an error; a state dict that is taken
    of it gives a `DeferredWarning`.

    Args:
        build: What makes the model: a class or a function. None for a block.
        args, kwargs: What it is called with.

    Returns:
        What `build` returns; without it, the block's context manager.

    Raises:
        TypeError: `build` cannot be called, or is a module that was built already.

    Examples:
        >>> import torch
        >>> from tritonparam import materialize
        >>> with deferred_init():
        ...     model = torch.nn.Linear(4, 2)
        >>> model.weight.is_meta
        True
        >>> materialize(model, seed=7).weight.is_meta
        False
        >>> deferred_init(torch.nn.Linear, 4, 2, bias=False)
        Linear(in_features=4, out_features=2, bias=False)
    """
    if build is None and not args and not kwargs:
        return DeferredBlock()
    if not callable(build) or isinstance(build, torch.nn.Module):
        what = "a module that was built already, " if isinstance(build, torch.nn.Module) else ""
        if build is None:
            raise TypeError(f"deferred_init must get what builds a model first, got only {few([*args, *kwargs], 3)}")
        raise TypeError(f"build must be a class or a function that makes a model, got {what}{shown(build)}")
    _check_runs_at_once(build)
    with _block():
        return build(*args, **kwargs)


def _check_runs_at_once(build: Any) -> None:
    """Refuse what only makes a coroutine or a generator when it is called, whose body would run after the block."""
    kinds = inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction
    if any(is_kind(build) for is_kind in kinds):
        raise TypeError(
            f"build must make a model when it is called, got {shown(build)}, whose body runs later: use "
            "`with deferred_init():` in it"
        )


class DeferredBlock(contextlib.ContextDecorator):
    """What `deferred_init()` is: a block, or a decorator of what builds a model."""

    def __init__(self) -> None:
        self._blocks: list[contextlib.AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        block = _block()
        block.__enter__()
        self._blocks.append(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._blocks.pop().__exit__(kind, error, traceback)

    def __call__(self, func: _Function) -> _Function:
        _check_runs_at_once(func)
        return super().__call__(func)

    def _recreate_cm(self) -> DeferredBlock:  # for every call of what it decorates, which may run in several threads
        return DeferredBlock()


@contextlib.contextmanager
def _block() -> Iterator[None]:
    if recorder() is not None:
        yield
        return
    block = Recorder()
    states = contextlib.ExitStack()
    modules: list[torch.nn.Module] = []
    watch(_block)
    try:
        with _built(block, modules), states:
            states.enter_context(_random_states(modules))
            states.enter_context(block.at_work())
            states.enter_context(_wrappers_noted.applied())
            with truncated_normals_noted(_noting_for), threads_record(), memory_answers(), Dispatched(), Surface():  # type: ignore[no-untyped-call]
                yield
    finally:
        _end(block, modules)


def _end(block: Recorder, modules: list[torch.nn.Module]) -> None:
    """End a block, also one that was cut short: remember what it built, and see what is written to it from here on."""
    block.finish()
    outermost, whole = remember(modules), _with_parts(modules)
    beside = block.begun_beside(whole) - _of_shards(whole)
    watch_modules(whole)
    block.wrappers.watch()
    guard(outermost)
    if beside:
        for each in outermost:
            watch_attributes(each)
        note_loose(beside, outermost)


def _of_shards(modules: list[torch.nn.Module]) -> set[History | None]:
    """What the shards of `modules`, and the tensors that they replaced, have: neither is made real beside them."""
    blueprints = [found for each in modules if (found := Blueprint.of(each)) is not None]
    before = [tensor for each in blueprints for tensor in each.tensors.values()]
    shards = [tensor for _, _, tensor in replaced(modules) if is_dtensor(tensor)]
    with torch._C.DisableTorchFunction():
        return {History.of(each) for each in (*before, *(part for each in shards for part in tensors_within(each)))}


def _with_parts(modules: list[torch.nn.Module]) -> list[torch.nn.Module]:
    """The modules and all that they hold, copies too, which are made without anything being registered."""
    found = {id(each): each for each in modules}
    pending = list(modules)
    while pending:
        for part in pending.pop()._modules.values():
            if part is not None and id(part) not in found:
                found[id(part)] = part
                pending.append(part)
    return list(found.values())


def recording_paused() -> contextlib.AbstractContextManager[None]:
    """A context in which torch works as usual, also inside `deferred_init`."""
    block = recorder()
    return contextlib.nullcontext() if block is None else block.paused()


@contextlib.contextmanager
def _built(block: Recorder, modules: list[torch.nn.Module]) -> Iterator[None]:
    """Add to `modules` those that get their first parameter, buffer or submodule in `block`, in that order."""
    found: set[int] = set()

    def note(module: torch.nn.Module, name: str, value: object) -> None:
        if recorder() is block and id(module) not in found:
            refuse_in_block(module)
            found.add(id(module))
            modules.append(module)

    hooks = [
        register_module_parameter_registration_hook(note),
        register_module_buffer_registration_hook(note),
        register_module_module_registration_hook(note),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _noting(make: Any) -> Any:
    """`torch.Tensor._make_wrapper_subclass`, whose results the block at work is told of."""

    def made(*args: Any, **kwargs: Any) -> torch.Tensor:
        wrapper: torch.Tensor = make(*args, **kwargs)
        block = recorder()
        if block is not None:
            block.wrappers.note(wrapper)
        return wrapper

    return staticmethod(made)


_wrappers_noted = Patches((torch.Tensor, "_make_wrapper_subclass", _noting))


def _noting_for(tensor: torch.Tensor) -> Callable[[torch.Tensor, TruncatedNormal], None] | None:
    """What takes the law of a deferred tensor in a thread that records; None for all others."""
    block = recorder()
    with torch._C.DisableTorchFunction():
        is_deferred = History.of(tensor) is not None
    return None if block is None or block.is_paused or not is_deferred else block.draw


@contextlib.contextmanager
def _random_states(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Keep torch's random states as they are, but for what real tensors draw; say where others, or a seed, came in.

    NumPy's and Python's generators cannot wait for the seed: what is drawn from them is drawn at once, and they go on.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    host, seed = torch.default_generator.get_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        seeded = torch.initial_seed() != seed or _is_just_seeded(host)
        if seeded:  # if not, only what was drawn for real tensors has moved them
            torch.default_generator.set_state(host)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
    where = f" of {type(modules[-1]).__name__}" if modules else ""
    drawn = [
        name
        for name, before, after in (
            ("Python's random", python, random.getstate()),
            ("NumPy's random", numpy, np.random.get_state()),  # noqa: NPY002
        )
        if not _same_state(before, after)
    ]
    if drawn:
        warn(
            f"the constructor{where} draws from {' and '.join(drawn)}: these values follow that generator, which goes "
            "on, and not the seed of materialize"
        )
    if seeded:
        warn(f"torch.manual_seed in the constructor{where} changes no value: they follow the seed of materialize")


def _is_just_seeded(before: torch.Tensor) -> bool:
    """Whether torch's generator is as its seed left it, and was not before."""
    after = torch.default_generator.get_state()
    fresh = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    return torch.equal(after, fresh) and not torch.equal(after, before)


def _same_state(one: Any, other: Any) -> bool:
    """Whether two states of Python's, or NumPy's, generator are equal; NumPy's has an array in it."""
    return len(one) == len(other) and all(
        np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right
        for left, right in zip(one, other, strict=True)
    )
