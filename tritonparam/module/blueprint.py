"""Blueprints: what a module declared under its own names, and where it stood, whatever has become of its tensors since.

Sharding puts other tensors in the place of those that a constructor made: DTensors, flat parameters. A module keeps
its blueprint in its `__dict__`, so that copies of it have one too, until its tensors are real.
"""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from tritonparam._locks import across_forks
from tritonparam.module.tape import History
from tritonparam.plan import View
from tritonparam.tensor import is_dtensor

ATTRIBUTE = "_tritonparam_blueprint"
_BLANK = "_tritonparam_blank"
_PATTERN = torch.tensor(list(hashlib.sha512(b"nothing was written here").digest()), dtype=torch.uint8, device="cpu")
_lock = across_forks()
_is_noting = False


class Whole:
    """An outermost module as a block has built it.

    Attributes:
        module: It, if it is still there.
        tensors: Its parameters, then its buffers, by full name, as the block left them; none once it was decided where
            their values come from.
        beside: Likewise what else it had of deferred tensors in its attributes: the names, histories and views.
    """

    def __init__(self, module: torch.nn.Module | None) -> None:
        self.module = (lambda: None) if module is None else weakref.ref(module)
        self.tensors: list[tuple[str, torch.Tensor]] = []
        self.beside: list[tuple[str, History, View]] = []

    def __deepcopy__(self, memo: dict[Any, Any]) -> Whole:
        module = self.module()
        made = memo[id(self)] = Whole(memo.get(id(module)) if module is not None else None)
        made.tensors = [(name, copy.deepcopy(tensor, memo)) for name, tensor in self.tensors]
        made.beside = list(self.beside)  # of which the copies have the same draws
        return made


class Blueprint:
    """What one module declared.

    Attributes:
        whole: The outermost module that held it when a block ended; None before that.
        path: Where it was in it.
        origin: The whole that a deferred tensor of it is of, where no block has built the module itself.
        foreign: The names under which somebody put another DTensor in the place of one that stood for a deferred one.
        tensors: The deferred tensors that it had last, by their own names.
    """

    __slots__ = ("foreign", "origin", "path", "tensors", "whole")

    def __init__(self) -> None:
        self.whole: Whole | None = None
        self.origin: Whole | None = None
        self.path = ""
        self.tensors: dict[str, torch.Tensor] = {}
        self.foreign: frozenset[str] = frozenset()

    @staticmethod
    def of(module: torch.nn.Module) -> Blueprint | None:
        """The blueprint of `module`; None where there is none."""
        found = module.__dict__.get(ATTRIBUTE)
        return found if type(found) is Blueprint else None

    @staticmethod
    def on(module: torch.nn.Module) -> Blueprint:
        """The blueprint of `module`, a new one where there was none."""
        found = Blueprint.of(module)
        if found is None:
            found = module.__dict__[ATTRIBUTE] = Blueprint()
        return found

    def __deepcopy__(self, memo: dict[Any, Any]) -> Blueprint:
        made = memo[id(self)] = Blueprint()
        made.whole, made.path = copy.deepcopy(self.whole, memo), self.path
        made.origin, made.foreign = copy.deepcopy(self.origin, memo), self.foreign
        made.tensors = copy.deepcopy(self.tensors, memo)
        if made.whole is not None:
            for each in made.tensors.values():
                _note_whole(each, made.whole)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()  # pickles lose what deferred tensors remember

    def path_below(self, root: Blueprint | None) -> str | None:
        """Where the module was in the one with the blueprint `root`; None where it was not in it."""
        if root is None or self.whole is None or self.whole is not root.whole:
            return None
        if not root.path:
            return self.path
        if self.path == root.path:
            return ""
        return self.path.removeprefix(f"{root.path}.") if self.path.startswith(f"{root.path}.") else None


def joined(prefix: str, name: str) -> str:
    """`name` behind `prefix`, with a dot between them where both say something."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def draw_up(whole: torch.nn.Module, modules: Iterable[tuple[str, torch.nn.Module]]) -> None:
    """Take note of where `modules` are in `whole`, by their paths, and of what they have."""
    built = Whole(whole)
    parameters: list[tuple[str, torch.Tensor]] = []
    buffers: list[tuple[str, torch.Tensor]] = []
    for path, module in modules:
        blueprint = Blueprint.on(module)
        blueprint.whole, blueprint.path = built, path
        note_tensors(module)
        for group, into in ((module._parameters, parameters), (module._buffers, buffers)):
            own = (name for name, _ in group.items() if name in blueprint.tensors)
            into += [(joined(path, name), blueprint.tensors[name]) for name in own]
    built.tensors = [*parameters, *buffers]
    for _, tensor in built.tensors:
        _note_whole(tensor, built)


def _note_whole(tensor: torch.Tensor, whole: Whole) -> None:
    history = _history_of(tensor)
    if history is not None:
        history.whole = weakref.ref(whole)


def note_attribute(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Take note of a deferred tensor that is neither a parameter nor a buffer of an outermost module."""
    blueprint, history = Blueprint.of(module), _history_of(tensor)
    if blueprint is not None and blueprint.whole is not None and history is not None:
        blueprint.whole.beside.append((name, history, View.of(tensor)))
        _note_whole(tensor, blueprint.whole)


def origin_of(module: torch.nn.Module) -> Whole | None:
    """The whole whose tensors were put in `module`, or in modules in it, after they were built; None if not in one.

    So it is with the stages that torch.distributed.pipelining cuts from a model: no block has built their modules.
    """
    root = Blueprint.of(module)
    if root is not None and root.whole is not None:
        return None
    found: dict[int, Whole] = {}
    for each in module.modules():
        blueprint = Blueprint.of(each)
        if blueprint is not None and blueprint.whole is None and blueprint.origin is not None:
            found[id(blueprint.origin)] = blueprint.origin
    return next(iter(found.values())) if len(found) == 1 else None


def note_tensors(module: torch.nn.Module) -> None:
    """Take note of the deferred tensors that a module with a blueprint has now."""
    blueprint = Blueprint.of(module)
    if blueprint is not None:
        for name, tensor in _own(module).items():
            if blueprint.tensors.get(name) is not tensor and _is_deferred(tensor):
                blueprint.tensors[name] = tensor
            if blueprint.whole is not None:  # a cast leaves the tensor and changes its history
                _note_whole(tensor, blueprint.whole)


def _own(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a module; what TorchScript has in the place of dicts is none."""
    groups = (module._parameters, module._buffers)
    return {name: tensor for group in groups for name, tensor in group.items() if tensor is not None}


def note_registrations() -> None:
    """Take note, from here on, of the deferred tensors that are given to any module."""
    global _is_noting
    with _lock:
        if not _is_noting:
            _is_noting = True
            register_module_parameter_registration_hook(_note)
            register_module_buffer_registration_hook(_note)


def _note(module: torch.nn.Module, name: str, value: object) -> None:
    if isinstance(value, torch.Tensor) and _is_deferred(value):
        blueprint, history = Blueprint.on(module), _history_of(value)
        blueprint.tensors[name] = value
        whole = None if history is None or history.whole is None else history.whole()
        blueprint.origin = blueprint.origin or whole
        blueprint.foreign -= {name}
    elif isinstance(value, torch.Tensor) and is_dtensor(value):
        before, known = module._parameters.get(name), Blueprint.of(module)
        if known is not None and name in known.tensors and before is not None and _is_other(value, before):
            known.foreign |= {name}


def _is_other(tensor: Any, before: Any) -> bool:
    """Whether a DTensor is neither one that stood in its place, nor a further shard of it."""
    if not is_dtensor(before) or tensor.device_mesh.ndim > before.device_mesh.ndim:
        return False
    one, other = (each._local_tensor.untyped_storage()._cdata for each in (tensor, before))
    return bool(one != other)


def _is_deferred(tensor: torch.Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return tensor.is_meta and History.of(tensor) is not None


def _history_of(tensor: torch.Tensor) -> History | None:
    with torch._C.DisableTorchFunction():  # a block would answer, and show what the tensor stands for
        return History.of(tensor)


def declared_of(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    """The deferred tensor that `module` had under its own `name` last; None where there was none, or it is real."""
    blueprint = Blueprint.of(module)
    declared = None if blueprint is None else blueprint.tensors.get(name)
    return declared if declared is not None and _is_deferred(declared) else None


def is_foreign(module: torch.nn.Module, name: str) -> bool:
    """Whether what stands under a name of `module` is somebody's own, and no shard of what was declared there."""
    blueprint = Blueprint.of(module)
    return blueprint is not None and name in blueprint.foreign


def forget(whole: torch.nn.Module) -> bool:
    """Let go of what is real by now in `whole`, and of all blueprints in it where nothing is without values.

    Returns:
        Whether something in it is deferred, or stands without values in the place of what was.
    """
    modules = list(whole.modules())
    waiting = False
    with torch._C.DisableTorchFunction():
        for module in modules:
            blueprint, held = Blueprint.of(module), _own(module)
            deferred = {id(each): each.is_meta and _is_deferred(each) for each in held.values()}
            waiting = waiting or any(deferred.values())
            if blueprint is not None:
                if blueprint.whole is not None and blueprint.whole.module() is whole:
                    blueprint.whole.tensors, blueprint.whole.beside = [], []
                declared = blueprint.tensors
                waiting = waiting or any(awaits_values(held.get(name)) for name in declared)
                left = {name: each for name, each in declared.items() if deferred.get(id(each), True)}
                blueprint.tensors = {name: each for name, each in left.items() if _is_deferred(each)}
    if not waiting:
        for module in modules:
            module.__dict__.pop(ATTRIBUTE, None)
    return waiting


def replaced(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    """The tensors that stand in the place of deferred ones: what of the module has them, their name, and themselves."""
    for module in modules:
        blueprint = Blueprint.of(module)
        if blueprint is not None and blueprint.tensors:
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None and name in blueprint.tensors and blueprint.tensors[name] is not tensor:
                        yield own, name, tensor


def mark_blank(tensor: torch.Tensor) -> None:
    """Take note that nothing was written to a tensor so far, whatever its memory holds.

    Some bytes of the memory get a pattern: torch does not count what is written through `data` or a state dict.
    """
    samples = None if tensor.is_meta else _samples(tensor)
    if samples is not None:
        samples.copy_(_PATTERN[: len(samples)])
    setattr(tensor, _BLANK, (writes_to(tensor), samples is not None))


def mark_ours(tensor: torch.Tensor) -> None:
    """Take note that what changes in the memory of a tensor without values from now on is not somebody's own."""
    blank = vars(tensor).get(_BLANK)
    if blank is not None:
        setattr(tensor, _BLANK, (blank[0], False))


def mark_written(tensor: torch.Tensor) -> None:
    """Take back `mark_blank`: there are values in the memory now."""
    vars(tensor).pop(_BLANK, None)


def awaits_values(tensor: torch.Tensor | None) -> bool:
    """Whether a tensor has no values: it is on the meta device, or `to_empty` made it and nothing was written since."""
    if tensor is None:
        return False
    with torch._C.DisableTorchFunction():
        if tensor.is_meta:
            return True
        blank: tuple[int, bool] | None = vars(tensor).get(_BLANK)
        if blank is None or blank[0] != writes_to(tensor):
            return False
        samples = _samples(tensor) if blank[1] else None
        return samples is None or torch.equal(samples.cpu(), _PATTERN[: len(samples)])


def _samples(tensor: torch.Tensor) -> torch.Tensor | None:
    """Some bytes of a tensor's memory, of this process's part of a DTensor, from end to end; None where it has none."""
    local: torch.Tensor = tensor._local_tensor if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    if local.is_meta or local.numel() == 0 or local.layout != torch.strided:
        return None
    if sum((n - 1) * step for n, step in zip(local.shape, local.stride(), strict=True)) + 1 != local.numel():
        return None  # others may have memory in between
    with torch.inference_mode(False), torch.no_grad():
        memory = torch.empty(0, dtype=torch.uint8, device=local.device).set_(local.untyped_storage())
        first = local.storage_offset() * local.itemsize
        memory = memory[first : first + local.numel() * local.itemsize]
        return memory[:: -(-len(memory) // len(_PATTERN))]


def writes_to(tensor: torch.Tensor) -> int:
    """How often a tensor was written to; of inference tensors, of which torch does not count it, -1.

    Of a DTensor what is written to its local tensor counts, as by `to_local()`, `data` or a checkpoint, and to itself.
    """
    local = tensor._local_tensor if is_dtensor(tensor) else None  # type: ignore[attr-defined]
    return sum(-1 if each.is_inference() else each._version for each in (tensor, local) if each is not None)
