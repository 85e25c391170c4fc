"""Taking over: the tensors of a module become the real ones, in place, all of them or none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.hooks import RemovableHandle

from tritonparam.module.tape import History, Node, Read, Version, slice_of
from tritonparam.module.traversal import Scripts, scripts_of
from tritonparam.plan import View
from tritonparam.tensor import exchange

Replayed = Callable[[list[Version]], list[torch.UntypedStorage]]

# Which elements go where is told by the views of the tape; what else the nodes of views say is no matter here.
_VIEW_NODES = frozenset(
    f"{name}Backward{n}"
    for name in (
        *("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "AsStrided", "Alias", "Expand"),
        *("Slice", "Select", "Unsqueeze", "Squeeze", "Diagonal", "Unbind", "Split", "SplitWithSizes"),
    )
    for n in range(4)
)


def take_over(
    module: torch.nn.Module,
    pairs: Sequence[tuple[str, torch.Tensor, torch.Tensor]],
    replayed: Replayed,
    loaded: Collection[int] = (),
    scripts: Scripts | None = None,
    others: Sequence[tuple[str, torch.Tensor, torch.Tensor]] = (),
) -> None:
    """Turn deferred tensors of `module` into real ones: all of them, or none where one cannot be.

    A tensor that gradients flow through, as a view of a parameter or a norm of it, is connected to the real parameter
    as it was to the deferred one. Where that cannot be done, it has its values, and asking it for gradients is an
    error.

    Args:
        module: Whose tensors they are.
        pairs: The name of each, the deferred tensor, and a real one with its values, shape and dtype.
        replayed: What gives the storages of versions of deferred tensors, real and on the host.
        loaded: The ids of tensors whose values are others than those that gradients were to flow through.
        scripts: What a walk through `module` has found of TorchScript; None to look for it.
        others: Tensors that stand in the place of deferred ones, with their names, and what they become.

    Raises:
        RuntimeError: Something outside holds on to one of them, or a trace of TorchScript has one as a constant.
    """
    with contextlib.ExitStack() as undo, torch._C.DisableTorchFunction():
        changing = {id(mine) for _, mine, _ in pairs}
        scripts = scripts_of(module) if scripts is None else scripts
        scripts.check_constants()
        held = [each for each in scripts.held if _holds(each.value, changing)]
        for each in held:
            undo.callback(each.set)
        paths = [_Path(name, mine, real) for name, mine, real in pairs if not mine.is_leaf]
        leaves = [(name, mine, real) for name, mine, real in pairs if mine.is_leaf]
        gradients = [(mine, mine.grad) for _, mine, _ in leaves if mine.grad is not None]
        dtypes = {id(mine.grad): real.dtype for _, mine, real in leaves if mine.grad is not None}
        for mine, gradient in gradients:
            mine.grad = None
            undo.callback(setattr, mine, "grad", gradient)
        deferred = _Leaves(leaves, replayed, loaded) if paths else None
        exchanged = _Exchanges()
        undo.callback(exchanged.undo)
        for name, mine, made in leaves:
            real = made.to(dtypes[id(mine)]) if id(mine) in dtypes else made
            exchanged.make(name, mine, torch.Tensor._make_subclass(type(mine), real, mine.requires_grad))
        for name, mine, made in others:
            exchanged.make(name, mine, made)
        if deferred is not None:
            # What others are views of comes first.
            for path in sorted(paths, key=lambda path: path.base is not None):
                other = path.connected(deferred, [each.mine for each in paths])
                exchanged.make(path.name, path.mine, other)
        for mine, gradient in gradients:
            undo.callback(setattr, mine, "grad", None)
            mine.grad = gradient
        for each in held:
            each.set()
        _pack_recurrent_weights(module, changing)
        undo.pop_all()


class _Exchanges:
    """What was exchanged with what, so that there is a way back."""

    def __init__(self) -> None:
        self._done: list[tuple[torch.Tensor, torch.Tensor, RemovableHandle | None]] = []

    def make(self, name: str, mine: torch.Tensor, other: torch.Tensor) -> None:
        """Exchange what two tensors are.

        Raises:
            RuntimeError: It cannot be done; `name` is what the first is called.
        """
        try:
            self._done.append((mine, other, exchange(mine, other)))
        except RuntimeError as error:
            raise RuntimeError(f"{name} cannot be made real in place: {error}") from error

    def undo(self) -> None:
        """Go back, the last first."""
        while self._done:
            mine, other, poison = self._done.pop()
            exchange(mine, other)
            if poison is not None:
                poison.remove()


def _holds(value: object, changing: set[int]) -> bool:
    return any(id(leaf) in changing for leaf in tree_flatten(value)[0])


class _Leaves:
    """The tensors of a module that autograd's graphs begin with, and what the tape knows them by.

    Args:
        leaves: The name of each, the deferred tensor, and the real one that it is about to become.
        replayed, loaded: As for `take_over`.
    """

    def __init__(
        self,
        leaves: Sequence[tuple[str, torch.Tensor, torch.Tensor]],
        replayed: Replayed,
        loaded: Collection[int],
    ) -> None:
        self.tensors = {id(mine): mine for _, mine, _ in leaves}
        # What requires no gradient begins no graph, and what is lazy has no elements.
        begin = [mine for _, mine, _ in leaves if mine.requires_grad and not is_lazy(mine)]
        self._views = {id(mine): (History.of(mine), View.of(mine)) for mine in begin}
        self._replayed = replayed
        self._loaded = frozenset(loaded)

    def again(self, head: Version, view: View, graph: _Graph) -> torch.Tensor | None:
        """What the tape says of `head`, done with the real tensors that `graph` begins with, so that gradients flow.

        Returns:
            The tensor that shows `view` of it; None where the tape cannot be followed so.
        """
        if self._loaded & graph.leaves:
            return None
        made: dict[Version, tuple[torch.Tensor, View]] = {}
        for key, (history, own) in self._views.items():
            if key in graph.leaves and history is not None and history.head is not None:
                made[history.head] = self.tensors[key], own
        live: set[Version | None] = set(made)
        steps: list[Node] = []
        for step in slice_of([head])[1]:
            if isinstance(step, Node) and not step.needs().isdisjoint(live):
                if step.random or step.writes or step.default_dtype != torch.get_default_dtype():
                    return None
                live.update(after for _, after in step.results)
                steps.append(step)
        fixed = {read.version for step in steps for read in step.reads} - live
        if head not in live or None in fixed:
            return None
        versions = [version for version in fixed if version is not None]
        storages = dict[Version | None, torch.UntypedStorage](zip(versions, self._replayed(versions), strict=True))
        cut = _cut(graph.root, head)

        def real(value: object) -> object:
            if not isinstance(value, Read):
                return value
            version = value.version
            if version is None or version not in made:
                return value.view.on(storages[version])
            shown = _shown(*made[version], value.view)
            return shown.detach() if id(value) in cut else shown

        for step in steps:
            got = tree_flatten(step.func(*tree_map(real, step.args), **tree_map(real, step.kwargs)))[0]
            for position, after in step.results:
                made[after] = got[position], after.view
        return _shown(*made[head], view)


def _cut(root: Any, head: Version) -> set[int]:
    """The ids of what the operations behind `head`, whose node in autograd is `root`, read of detached tensors."""
    cut: set[int] = set()
    pending, seen = [(root, head)], set[Version]()
    while pending:
        node, version = pending.pop()
        while _is_view(node):
            node = node.next_functions[0][0]
        step = version.content
        if version in seen or not isinstance(step, Node) or len(step.reads) != len(node.next_functions):
            continue
        seen.add(version)
        for read, (before, _) in zip(step.reads, node.next_functions, strict=True):
            if before is None:
                cut.add(id(read))
            elif read.version is not None:
                pending.append((before, read.version))
    return cut


class _Path:
    """A tensor that autograd computed from others, and the graph that leads back to them.

    Args:
        name, mine, real: As one of the pairs of `take_over`.
    """

    def __init__(self, name: str, mine: torch.Tensor, real: torch.Tensor) -> None:
        self.name, self.mine, self._real = name, mine, real
        self.base = mine._base
        self._base_view = None if self.base is None else View.of(self.base)
        self._view = View.of(mine)
        self._history = History.of(mine)
        self._graph = _Graph(mine.grad_fn)

    def connected(self, leaves: _Leaves, others: list[torch.Tensor]) -> torch.Tensor:
        """The real tensor, connected to the leaves that are real by now."""
        with torch.enable_grad():
            try:
                made = self._again(leaves, others)
            except (RuntimeError, NotImplementedError):
                made = None
            if made is not None and self._graph.equals(made.grad_fn):
                return made
            start = torch.zeros((), requires_grad=True)
            severed: torch.Tensor = _Severed.apply(start, self._real, self.name)  # type: ignore[no-untyped-call]
            return severed

    def _again(self, leaves: _Leaves, others: list[torch.Tensor]) -> torch.Tensor | None:
        base, real = self.base, self._real
        if base is not None and (id(base) in leaves.tensors or any(base is each for each in others)):
            made: torch.Tensor = self.mine._view_func_unsafe(base)
            return made if made.data_ptr() == real.data_ptr() and made.shape == real.shape else None
        if self._history is None or self._history.head is None:
            return None
        got = leaves.again(self._history.head, self._base_view or self._view, self._graph)
        if got is None:
            return None
        got = got.to(real.device, real.dtype)
        got.data = real if self._base_view is None else _typed(self._base_view, real).on(real.untyped_storage())
        return got if base is None else self.mine._view_func_unsafe(got)


class _Graph:
    """A graph of autograd, as far as who adds to whose gradient, and by which operations; views are left out.

    Attributes:
        root: Its last node.
        leaves: The ids of the tensors that it begins with.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self.leaves: set[int] = set()
        self._kinds: dict[tuple[object, ...], int] = {}
        self._kind = self._kind_of(root)

    def equals(self, root: Any) -> bool:
        """Whether the graph that ends in `root` is this one."""
        return self._kind_of(root) == self._kind

    def _kind_of(self, root: Any) -> tuple[int, int]:
        """A number that all equal graphs have, and which output of the last operation is meant."""
        kinds: dict[Any, tuple[int, int]] = {None: (0, 0)}
        pending = [root]
        while pending:
            node = pending[-1]
            before = [] if node in kinds else [each for each, _ in node.next_functions if each not in kinds]
            if before:
                pending += before
                continue
            pending.pop()
            if node not in kinds:
                kinds[node] = self._kind_of_node(node, kinds)
        return kinds[root]

    def _kind_of_node(self, node: Any, kinds: dict[Any, tuple[int, int]]) -> tuple[int, int]:
        inputs = [kinds[each] if _is_view(each) else (kinds[each][0], n) for each, n in node.next_functions]
        if _is_view(node):
            return inputs[0]
        if hasattr(node, "variable"):
            self.leaves.add(id(node.variable))
            inputs = [(id(node.variable), 0)]
        return self._kinds.setdefault((node.name(), *inputs), len(self._kinds) + 1), 0


def _is_view(node: Any) -> bool:
    """Whether a node of autograd, or None, is that of a view."""
    return node is not None and node.name() in _VIEW_NODES


class _Severed(torch.autograd.Function):
    """A tensor that something was computed into, along a way that cannot be gone back."""

    @staticmethod
    def forward(ctx: Any, start: torch.Tensor, real: torch.Tensor, name: str) -> torch.Tensor:
        del start
        ctx.name = name
        return real

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"gradients were asked for through {ctx.name}, which was computed while its module was deferred, in a way "
            "that cannot be gone back: compute it again after materialize, or detach it where it is made"
        )


def _shown(tensor: torch.Tensor, own: View, view: View) -> torch.Tensor:
    """What `view` shows of the storage of a tensor that shows `own`, so that gradients flow to the tensor."""
    if view == own:
        return tensor
    if View.of(tensor) != _typed(own, tensor) or view.dtype != own.dtype or tensor.is_conj() or tensor.is_neg():
        raise NotImplementedError("a view that autograd cannot take of another")
    return torch.as_strided(tensor, view.shape, view.stride, view.offset)


def _typed(view: View, tensor: torch.Tensor) -> View:
    return View(view.shape, view.stride, view.offset, tensor.dtype, view.conjugate, view.negative)


def _pack_recurrent_weights(module: torch.nn.Module, changed: set[int]) -> None:
    """Let torch's recurrent layers take up their weights: on CUDA they are packed, as cuDNN wants them."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.RNNBase) and any(id(weight) in changed for weight in layer._flat_weights):
            layer._init_flat_weights()
