"""The walk through a module: every tensor of it, deferred or real, with all the names that it goes by."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from tritonparam.module.covers import recognize
from tritonparam.module.tape import History, Piece, Version
from tritonparam.plan import View

_MOST_PATHS = 1024
_MOST_DEPTH = 16
_REGISTERED = ("_parameters", "_buffers", "_modules")
_LEAVES = (
    *(str, bytes, bytearray, int, float, complex, type(None), type, range, slice, torch.Size, torch.dtype),
    *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.GeneratorType),
)
_PLAIN = frozenset((*_LEAVES, bool))  # the same without their subclasses
_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set, frozenset, deque))


@dataclass(slots=True)
class Found:
    """What a walk through a module finds out about one tensor.

    Attributes:
        pieces: The boxes with laws that it consists of; None where it has to be replayed, or is real.
    """

    history: History | None
    view: View
    kind: str
    names: list[str] = field(default_factory=list)
    saved_names: list[str] = field(default_factory=list)
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)
    pieces: tuple[Piece, ...] | None = None


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


def walk(module: torch.nn.Module, *, uninitialized: bool = False, scripts: Scripts | None = None) -> list[Found]:
    """Every tensor of `module`: parameters, then buffers, then deferred ones that are neither, as "attribute".

    Those are found in the attributes of the modules, in lists, tuples, sets, dicts, partial functions, bound methods
    and the attributes of other objects, at most 16 steps deep, and in modules found so that are not registered and are
    no parent of `module`; also gradients. What a closure, a class or a weak reference holds is out of reach. Their
    names are the paths: "freqs", "tables.m", "extra.0", "weight.grad".

    A module that is registered several times is found under each of its names, up to the first 1,024; one that is
    registered inside itself is not entered again.

    Args:
        module: What to walk through.
        uninitialized: List parameters and buffers of lazy modules that have no shape yet, as empty tensors.
        scripts: Where to note what there is of TorchScript.

    Raises:
        ValueError: Parameters or buffers are on the meta device and not deferred, or have no shape yet and
            `uninitialized` is False; a tensor of a class such as DTensor wraps deferred ones. The error names them.
    """
    found: list[Found] = []
    by_memory: dict[int, Found] = {}  # by the key of the history, or, below 0, by the id of the tensor
    further: dict[tuple[int, View], Found] = {}  # other views of the same histories
    lost, unwritten, wrapping = [], [], []
    with torch._C.DisableTorchFunction():
        for name, tensor, kind, persistent in named_tensors(module, scripts):
            lazy = is_lazy(tensor)
            plain = tensor.detach() if lazy else tensor
            if lazy and not uninitialized:
                unwritten.append(name)
                continue
            history = History.of(plain)
            if history is None:
                is_meta = plain.is_meta
                if is_meta and kind != "attribute":
                    lost.append(name)
                elif any(map(History.of if kind == "attribute" else attrgetter("is_meta"), tensors_within(plain))):
                    wrapping.append(f"{name} ({type(plain).__name__})")
                if is_meta or lazy or kind == "attribute":
                    continue
            view = _view_of(plain, None if history is None else history.head)
            memory = -1 - id(tensor) if history is None else history.key
            each = by_memory.get(memory)
            if each is not None and history is not None and each.view != view:
                each = further.get((memory, view))
            if each is None:
                pieces = None if history is None else recognize(history.head, view)
                each = Found(history, view, kind, pieces=None if pieces is None else tuple(pieces))
                if by_memory.setdefault(memory, each) is not each:
                    further[memory, view] = each
                found.append(each)
            if kind != "attribute" or each.kind == "attribute":
                each.names.append(name)
            if persistent:
                each.saved_names.append(name)
            each.tensors[id(tensor)] = tensor
    if lost:
        raise ValueError(
            f"tensors on the meta device that do not know their values: {', '.join(lost)}; they were made or copied "
            "outside deferred_init()"
        )
    if wrapping:
        raise ValueError(
            f"tensors that wrap deferred ones, and cannot be made real with them: {', '.join(wrapping)}; take them out "
            "of the module, and wrap these tensors after materialize"
        )
    raise_unwritten(unwritten)
    return found


def _view_of(tensor: torch.Tensor, head: Version | None) -> View:
    """What a tensor shows: the view that was written last, where that is the one, as nearly always."""
    if tensor.is_nested or tensor.layout != torch.strided:
        return View((tensor.numel(),) if tensor.is_nested else tuple(tensor.shape), (), 0, tensor.dtype)
    if head is not None:
        last = head.view
        if (
            tensor.shape == last.shape
            and tensor.stride() == last.stride
            and tensor.storage_offset() == last.offset
            and tensor.dtype == last.dtype
            and tensor.is_conj() == last.conjugate
            and tensor.is_neg() == last.negative
        ):
            return last
    return View.of(tensor)


def raise_unwritten(names: list[str]) -> None:
    if names:
        raise ValueError(f"uninitialized tensors, some of whose elements were never written: {', '.join(names)}")


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


def named_tensors(
    module: torch.nn.Module, scripts: Scripts | None = None
) -> Iterator[tuple[str, torch.Tensor, str, bool]]:
    """Every tensor, under every name: name, tensor, kind, persistent. `scripts` is as for `walk`."""
    paths = _paths(module)
    attributes = _Attributes(module, paths, scripts)
    for prefix, owner in paths:
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                attributes.leave_out(prefix + name, parameter)
                yield prefix + name, parameter, "parameter", True
    for prefix, owner in paths:
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                attributes.leave_out(prefix + name, buffer)
                yield prefix + name, buffer, "buffer", name not in owner._non_persistent_buffers_set
    for name, tensor in attributes.tensors():
        yield name, tensor, "attribute", False


def _paths(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The registered modules in their order, with what the names of their tensors begin with."""
    found: list[tuple[str, torch.nn.Module]] = []
    times: dict[int, int] = {}
    above: set[int] = set()

    def visit(prefix: str, owner: torch.nn.Module) -> None:
        key = id(owner)
        if key in above or times.get(key, 0) == _MOST_PATHS:
            return
        times[key] = times.get(key, 0) + 1
        found.append((prefix, owner))
        above.add(key)
        for name, child in owner._modules.items():
            if child is not None:
                visit(f"{prefix}{name}.", child)
        above.remove(key)

    visit("", module)
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

    def __init__(
        self, module: torch.nn.Module, paths: list[tuple[str, torch.nn.Module]], scripts: Scripts | None = None
    ) -> None:
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
        registered = [(prefix, owner) for prefix, owner in self._paths if self._is_new(owner)]
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
                for prefix, owner in _paths(value):
                    if owner is value or self._is_new(owner):
                        start = f"{name}.{prefix}"
                        for group in (owner._parameters, owner._buffers):
                            yield from self._in_all(start, list(group.items()), depth)
                        yield from self._in_all(start, _parts_of_module(owner), depth)
                        yield from self._in_script(start, owner)
        else:
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
        gradient = tensor.grad if tensor.is_leaf else None
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
        elif name not in _REGISTERED:
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
