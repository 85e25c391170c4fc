"""The traversal of a module: every tensor that it has, by all its names, wherever Python holds it."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch

from tritonparam.module.blueprint import ATTRIBUTE, Blueprint, joined
from tritonparam.module.tape import History

_MOST_PATHS = 1024
_MOST_DEPTH = 16
_REGISTERED = ("_parameters", "_buffers", "_modules", ATTRIBUTE)
# What torch puts around a module: its own names of parameters leave the first two out, and values depend on none.
_WRAPPED = ("_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_COMPILED = "_orig_mod"
_FULLY_SHARD = "torch.distributed.fsdp._fully_shard."  # whose objects keep pieces of what they shard
_SHARDING = "__composable_api"  # what fully_shard keeps of a module: its tensors again, cut and padded
_LEAVES = (
    *(str, bytes, bytearray, int, float, complex, type(None), type, range, slice, torch.Size, torch.dtype),
    *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.GeneratorType),
    torch.fx.Graph,  # whose nodes say of tensors what they were like when it was traced
)
_PLAIN = frozenset((*_LEAVES, bool))  # the same without their subclasses
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set, frozenset, deque))


@dataclass(frozen=True, slots=True)
class Scripted:
    """A value that a module of TorchScript has of its own, in C++, with tensors in it."""

    owner: Any
    name: str
    value: Any

    def set(self) -> None:
        """Make the owner have the value, with what its tensors are now."""
        self.owner.setattr(self.name, self.value)


@dataclass(frozen=True, slots=True)
class Scripts:
    """What a walk through a module finds of TorchScript.

    Attributes:
        held: What its modules hold in C++, where tensors of Python are copied to.
        modules: Their names, and what they are in C++.
    """

    held: list[Scripted] = field(default_factory=list)
    modules: list[tuple[str, Any]] = field(default_factory=list)

    def check_constants(self) -> None:
        """Refuse modules that were traced with a deferred tensor as a constant.

        Raises:
            RuntimeError: There is one.
        """
        for name, inner in self.modules:
            for method in inner._method_names():
                for node in inner._get_method(method).graph.findAllNodes("prim::Constant"):
                    is_tensor = node.hasAttribute("value") and node.kindOf("value") == "t"
                    if is_tensor and History.of(node.t("value")) is not None:
                        raise RuntimeError(
                            f"{name} cannot be made real in place: its trace has a deferred tensor of shape "
                            f"{tuple(node.t('value').shape)} as a constant; make that a buffer, or trace after "
                            "materialize"
                        )


def tensors_within(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a tensor of a class with a dispatcher of its own, such as DTensor, has in its attributes, however deep."""
    attributes, holders = _Attributes(torch.nn.Module(), []), [tensor]
    while holders:
        holder = holders.pop()
        if type(holder).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            for _, each in attributes.within(holder):
                yield each
                holders.append(each)


def scripts_of(module: torch.nn.Module) -> Scripts:
    """What `module` is or has of TorchScript."""
    attributes = _Attributes(module, _paths(module))
    for _ in attributes.tensors():
        pass
    return attributes.scripts


class Spot(NamedTuple):
    """Where a tensor of a module is.

    Attributes:
        name: Its name in the module.
        tensor: It.
        kind: "parameter", "buffer" or "attribute".
        persistent: Whether it is part of the state dict.
        full_name: What it was called in the outermost module that a block has built with it.
        owner: The registered module that has it.
        local: What that calls it.
    """

    name: str
    tensor: torch.Tensor
    kind: str
    persistent: bool
    full_name: str
    owner: torch.nn.Module
    local: str


class _Path(NamedTuple):
    """A registered module, with what the names, and the full names, of its tensors begin with."""

    prefix: str
    owner: torch.nn.Module
    full: str


def named_tensors(module: torch.nn.Module, scripts: Scripts | None = None, before: str = "") -> Iterator[Spot]:
    """Every tensor, under every name. `scripts` and `before` are as for `walk`."""
    paths = _paths(module, before)
    attributes = _Attributes(module, paths, scripts)
    for prefix, owner, full in paths:
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                attributes.leave_out(prefix + name, parameter)
                yield Spot(prefix + name, parameter, "parameter", True, full + name, owner, name)
    for prefix, owner, full in paths:
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                attributes.leave_out(prefix + name, buffer)
                is_saved = name not in owner._non_persistent_buffers_set
                yield Spot(prefix + name, buffer, "buffer", is_saved, full + name, owner, name)
    for name, tensor in attributes.tensors():
        yield Spot(name, tensor, "attribute", False, joined(before, name), module, name)


def child_of(module: torch.nn.Module, name: str) -> torch.nn.Module | None:
    """The submodule that the names of tensors know as `name`, through what torch has put around it."""
    # What TorchScript has in the place of this dict has no get.
    if name not in module._modules:
        module = unwrapped(module)
    return module._modules[name] if name in module._modules else None  # noqa: SIM401


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """`module` without what torch has put around it; it is in none of the names of its tensors."""
    for name in _WRAPPED:
        if name in module._modules:
            return unwrapped(cast("torch.nn.Module", module._modules[name]))
    return module


def _is_wrapped(owner: torch.nn.Module, name: str) -> bool:
    """Whether a submodule is all that its owner is, so that its name is part of none of a value."""
    if name == "module":
        kinds = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
        return isinstance(owner, kinds)
    return name in _WRAPPED or name == _COMPILED


def _paths(module: torch.nn.Module, before: str = "") -> list[_Path]:
    """The registered modules in their order."""
    found: list[_Path] = []
    times: dict[int, int] = {}
    above: set[int] = set()
    root = Blueprint.of(module)

    def visit(prefix: str, owner: torch.nn.Module, full: str) -> None:
        key = id(owner)
        if key in above or times.get(key, 0) == _MOST_PATHS:
            return
        times[key] = times.get(key, 0) + 1
        if root is not None and times[key] == 1 and (blueprint := Blueprint.of(owner)) is not None:
            path = blueprint.path_below(root)
            if path is not None:
                whole = joined(before, path)
                full = f"{whole}." if whole else ""
        found.append(_Path(prefix, owner, full))
        above.add(key)
        for name, child in owner._modules.items():
            if child is not None:
                shown = prefix if name in _WRAPPED else f"{prefix}{name}."
                visit(shown, child, full if _is_wrapped(owner, name) else f"{full}{name}.")
        above.remove(key)

    visit("", module, f"{before}." if before else "")
    return found


class _Attributes:
    """The tensors that a module has in other places than its parameters and buffers.

    Nothing is called to find them: neither properties nor methods of what is looked into.

    Args:
        module: It.
        paths: The modules registered in it, with their paths.
        scripts: Where to note what there is of TorchScript.

    Attributes:
        scripts: What there is of TorchScript, of what was looked into.
    """

    def __init__(self, module: torch.nn.Module, paths: list[_Path], scripts: Scripts | None = None) -> None:
        self.scripts = Scripts() if scripts is None else scripts
        self._module = module
        self._paths = paths
        self._slots: dict[type, list[tuple[str, Any]]] = {}
        self._seen: dict[int, object] = {}  # the objects, so that no two of them have one id
        self._with_gradients: list[tuple[str, torch.Tensor]] = []

    def leave_out(self, name: str, tensor: torch.Tensor) -> None:
        """Look for no tensor but the gradient of this one, which has a name already."""
        if self._is_new(tensor):
            self._with_gradients.append((name, tensor))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every one of them once, with the first path that leads to it."""
        registered = [(prefix, owner) for prefix, owner, _ in self._paths if self._is_new(owner)]
        for name, tensor in self._with_gradients:
            yield from self._gradient(name, tensor)
        for prefix, owner in registered:
            yield from self._in_all(prefix, _parts_of_module(owner), 0)
            yield from self._in_script(prefix, owner)

    def within(self, value: object) -> Iterator[tuple[str, torch.Tensor]]:
        """Those in the attributes of an object, such as a tensor that wraps others."""
        yield from self._in_all("", self._attributes(value), 0)

    def _is_new(self, value: object) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = value
        return True

    def _in_all(
        self, prefix: str, parts: Iterable[tuple[str, object]], depth: int
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in parts:
            kind = type(value)
            if kind in _PLAIN or (issubclass(kind, _LEAVES) and not hasattr(kind, "_fields")):
                continue
            if depth < _MOST_DEPTH and self._is_new(value):
                yield from self._in(prefix + name, value, depth + 1)

    def _in(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
        if issubclass(type(value), torch.Tensor):
            yield name, value
            yield from self._gradient(name, value)
        elif issubclass(type(value), torch.nn.Module):
            if not any(each is self._module for each in value.modules()):
                for prefix, owner, _ in _paths(value):
                    if owner is value or self._is_new(owner):
                        start = f"{name}.{prefix}"
                        for group in (owner._parameters, owner._buffers):
                            yield from self._in_all(start, list(group.items()), depth)
                        yield from self._in_all(start, _parts_of_module(owner), depth)
                        yield from self._in_script(start, owner)
        elif not type(value).__module__.startswith(_FULLY_SHARD):
            yield from self._in_all(f"{name}.", _parts(value) + self._attributes(value), depth)

    def _attributes(self, value: object) -> list[tuple[str, object]]:
        try:
            parts = list(object.__getattribute__(value, "__dict__").items())
        except (AttributeError, TypeError):
            parts = []
        kind = type(value)
        if kind not in self._slots:
            self._slots[kind] = _slots_of(kind)
        for name, member in self._slots[kind]:
            try:
                parts.append((name, member.__get__(value)))
            except AttributeError:
                continue
        return [(name, part) for name, part in parts if isinstance(name, str)]

    def _in_script(self, prefix: str, owner: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        if not isinstance(owner, torch.jit.ScriptModule):
            return
        inner, concrete = vars(owner).get("_c"), vars(owner).get("_concrete_type")
        if inner is not None and concrete is not None:
            held = [Scripted(inner, name, inner.getattr(name)) for name in concrete.get_attributes()]
            self.scripts.held.extend(held)
            self.scripts.modules.append((prefix.rstrip(".") or "the module", inner))
            yield from self._in_all(prefix, [(each.name, each.value) for each in held], 0)

    def _gradient(self, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        try:
            gradient = tensor.grad if tensor.is_leaf else None
        except RuntimeError:  # one of several views whose base was written to, as flat parameters of FSDP1 have them
            return
        if gradient is not None and self._is_new(gradient):
            yield f"{name}.grad", gradient


def _parts_of_module(module: torch.nn.Module) -> list[tuple[str, object]]:
    """The attributes of a module that are not registered; hooks by their place, since their numbers are arbitrary."""
    parts: list[tuple[str, object]] = []
    for name, value in list(vars(module).items()):
        kind = type(value)
        if kind in _PLAIN or (kind in _CONTAINERS and not value and not (kind is OrderedDict and vars(value))):
            continue  # nearly all of them: numbers, and dicts of hooks, of which there are none
        if name.endswith("_hooks") and issubclass(type(value), dict):
            parts += ((f"{name}.{n}", hook) for n, hook in enumerate(dict.values(value)))
        elif name not in _REGISTERED and not name.startswith(_SHARDING):
            parts.append((name, value))
    return parts


def _parts(value: Any) -> list[tuple[str, object]]:
    """What an object consists of, as far as Python tells without calling anything of it."""
    kind = type(value)
    parts: list[tuple[str, object]] = []
    if issubclass(kind, dict):
        for n, (key, item) in enumerate(dict.items(value)):
            parts.append((str(key) if type(key) in (str, int) else str(n), item))
            parts.append((f"keys.{n}", key))
    elif issubclass(kind, tuple):
        names = getattr(kind, "_fields", None) or map(str, range(tuple.__len__(value)))
        parts += zip(names, tuple.__iter__(value), strict=False)
    elif issubclass(kind, list):
        parts += ((str(n), item) for n, item in enumerate(list.__iter__(value)))
    elif issubclass(kind, deque):
        parts += ((str(n), item) for n, item in enumerate(deque.__iter__(value)))
    elif issubclass(kind, (set, frozenset)):
        # Sets have no order; tensors have the one in which they were made.
        made = [(history.key, item) for item in (*value,) if (history := History.of(item)) is not None]
        parts += ((str(n), item) for n, (_, item) in enumerate(sorted(made, key=lambda pair: pair[0])))
    elif issubclass(kind, functools.partial):
        parts += [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    elif issubclass(kind, types.MethodType):
        parts.append(("self", value.__self__))
    return parts


def _slots_of(kind: type) -> list[tuple[str, Any]]:
    """The slots that a class and its bases declare, as names and descriptors."""
    return [
        (name, member)
        for each in kind.__mro__
        if each.__module__ != "builtins"
        for name, member in vars(each).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
