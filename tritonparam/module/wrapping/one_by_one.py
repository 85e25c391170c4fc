"""One by one: the modules of a deferred model become real when FSDP1 asks for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from tritonparam._arguments import checked_bool, shown, warn
from tritonparam.dtype import DTypeLike, float_dtype
from tritonparam.module.blueprint import Blueprint, awaits_values
from tritonparam.module.declaration import Declaration, Survey, check_module, check_written, surveyed, unwritten
from tritonparam.module.materialization import Materialization
from tritonparam.module.recording import check_unseen_writes, recording_paused, unguard
from tritonparam.module.state_ledger import note_made
from tritonparam.module.tape import History, Version
from tritonparam.module.traversal import Scripts, unwrapped
from tritonparam.plan import checked_device
from tritonparam.stream import seed_or_default


def param_init_fn(
    model: torch.nn.Module,
    *,
    seed: int | None = None,
    device: torch.device | str | int | None = None,
    dtype: DTypeLike | None = None,
    backend: str | None = None,
    strict: bool = True,
) -> Callable[[torch.nn.Module], None]:
    """A function for `FullyShardedDataParallel(model, param_init_fn=...)`: the values of `materialize(model)`.

    FSDP1 calls it with the modules of `model`, one at a time. Each call makes real what is the module's own: its
    parameters and buffers, persistent or not, and its deferred attributes, without those of its submodules. Tensors of
    other modules that show the same storage, as tied ones do, become real with them. What is real already stays as it
    is. The values depend on the seed and on the full names in `model`, and so not on which modules FSDP1 wraps, on the
    order of the calls, or on the number of processes. Every process makes them by itself: `sync_module_states` is not
    needed.

    Memory: FSDP1 makes each unit that it wraps whole, on every process, before it keeps a shard of it. So at its peak
    a process has the shards of all units before, all of the largest unit, and a flat copy of that. Wrap the layers
    (`auto_wrap_policy`) and not only the model. `fully_shard` (FSDP2) with `materialize` makes no whole tensor.

    Args:
        model: A module built inside `deferred_init`, all of it or in part, with no tensors on the meta device besides.
            Its tensors may not be changed between this call and FSDP1's.
        seed, device, dtype, backend: As for `materialize`. With a `device` that is FSDP1's `device_id`, nothing is
            copied there from the host.
        strict: Whether elements that were never written are an error. If not, they are 0, and a warning names them.

    Returns:
        The function. What it is called with twice, or what has no deferred tensors, stays as it is. It raises
        TypeError for what is no module; ValueError for a module with tensors without values that were not in `model`,
        or were replaced since; RuntimeError for tensors that were written to since, and as `materialize` does. A call
        that raises changes nothing.

    Raises:
        TypeError: An argument has none of these types.
        ValueError: An argument is out of range; tensors were never written, have no shape yet, or are on the meta
            device without being deferred (the error names them).
        ImportError: The backend is not installed.

    Examples:
        >>> from torch.distributed.fsdp import FullyShardedDataParallel
        >>> from tritonparam import deferred_init, materialize
        >>> def deferred():
        ...     with deferred_init():
        ...         return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
        >>> def sharded(model):  # in every process of a group
        ...     return FullyShardedDataParallel(model, param_init_fn=param_init_fn(model, seed=7))
        >>> model = deferred()
        >>> init = param_init_fn(model, seed=7)
        >>> init(model[1])
        >>> model[0].weight.is_meta, torch.equal(model[1].weight, materialize(deferred(), seed=7)[1].weight)
        (True, True)
    """
    seed = seed_or_default(seed)
    check_module(model)
    checked_bool("strict", strict)
    with recording_paused(), torch.inference_mode(False), torch.no_grad():
        if device is not None:
            checked_device(device, backend)
        float_dtype(dtype)
        survey = surveyed(model)
        zeros = unwritten(survey.own)
        if strict:
            check_written(zeros)
        elif names := ", ".join(each.name for each in zeros if each.kind != "attribute"):
            warn(f"elements that were never written are 0: {names}")
        survey.settle()
        return _OneByOne(model, survey, zeros, seed, device, dtype, backend)


class _OneByOne:
    """What makes the modules of a model real, and holds on to none of its tensors that are.

    Args:
        model: It.
        survey: What it declares.
        zeros: What of that is 0 where it was never written.
        seed, device, dtype, backend: As for `materialize`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        survey: Survey,
        zeros: list[Declaration],
        seed: int,
        device: torch.device | str | int | None,
        dtype: DTypeLike | None,
        backend: str | None,
    ) -> None:
        self._model, self._whole = model, survey.whole
        self._own = {id(each) for each in survey.own}
        self._zeros = {id(each) for each in zeros}
        # Only modules of TorchScript are looked for again in each call.
        self._scripts = None if survey.scripts.modules else Scripts()
        self._settings = device, dtype, backend
        self._seed = seed
        self._by_tensor: dict[int, Declaration] = {}
        self._by_storage: dict[int, list[Declaration]] = {}
        self._heads: dict[int, Version | None] = {}
        for each in (*survey.own, *survey.beyond):
            if each.history is not None:
                self._by_storage.setdefault(each.history.key, []).append(each)
                self._heads[each.history.key] = each.history.head
                self._by_tensor |= {id(tensor): each for tensor in (*each.tensors, *each.stand_ins)}
        self._attributes = self._attributes_by_module(survey.own)

    def __call__(self, module: torch.nn.Module) -> None:
        """Make real what is the module's own."""
        check_module(module)
        with recording_paused(), torch.inference_mode(False), torch.no_grad():
            wanted = self._wanted(module)
            if wanted:
                self._make(module, wanted)

    def _attributes_by_module(self, declared: list[Declaration]) -> dict[int, list[Declaration]]:
        """The deferred tensors that are neither parameters nor buffers, by the id of the module that they are in."""
        names = [each for each in declared if each.kind == "attribute" and each.history is not None]
        found: dict[int, list[Declaration]] = {}
        for each in names:
            owner, path = self._model, each.name.split(".")
            while len(path) > 1 and (child := unwrapped(owner)._modules.get(path[0])) is not None:
                owner, path = child, path[1:]
            found.setdefault(id(unwrapped(owner)), []).append(each)
        return found

    def _wanted(self, module: torch.nn.Module) -> list[Declaration]:
        """What is to become real, and everything that shows a storage of it."""
        lost, keys = [], dict[int, None]()
        for name, tensor in _own(module):
            if awaits_values(tensor):
                each = self._by_tensor.get(id(tensor))
                if each is None or each.history is None:
                    lost.append(name)
                else:
                    keys[each.history.key] = None
        if lost:
            raise ValueError(
                f"module must be of the model that param_init_fn was called with, as it was then, got a "
                f"{type(module).__name__} with other tensors without values: {', '.join(map(shown, lost))}; call "
                "param_init_fn with the model that is wrapped, and after whatever changes it"
            )
        for each in self._attributes.get(id(module), ()):
            if each.history is not None and id(each.tensors[0]) in self._by_tensor and each.tensors[0].is_meta:
                keys[each.history.key] = None
        wanted = [each for key in keys for each in self._by_storage[key]]
        _check_unchanged(wanted, self._heads)
        return wanted

    def _make(self, module: torch.nn.Module, wanted: list[Declaration]) -> None:
        within = {id(tensor) for _, tensor in _own(module)}
        is_own = all(id(tensor) in within for each in wanted for tensor in (*each.tensors, *each.stand_ins))
        work = Materialization(module if is_own else self._whole, wanted, *self._settings)
        work.write(self._seed)
        work.take_over(module if is_own else self._whole, self._scripts)
        zeros = [each for each in wanted if id(each) in self._zeros]
        own = [each for each in wanted if id(each) in self._own]
        beyond = [each for each in wanted if id(each) not in self._own]
        for owner, group in ((self._model, own), (self._whole, beyond)):
            note_made(owner, dict.fromkeys(group, "initialized"), zeros, self._seed)
        self._forget(module, wanted)

    def _forget(self, module: torch.nn.Module, made: list[Declaration]) -> None:
        """Let go of what is real: FSDP1 is about to give its memory back."""
        for each in made:
            self._by_storage.pop(each.history.key if each.history is not None else -1, None)
            for tensor in (*each.tensors, *each.stand_ins):
                self._by_tensor.pop(id(tensor), None)
        self._attributes.pop(id(module), None)
        if not self._by_tensor:
            unguard(self._model, is_real=True)
        blueprint = Blueprint.of(module)
        if blueprint is not None:
            blueprint.tensors = {name: each for name, each in blueprint.tensors.items() if History.of(each)}


def _own(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and buffers of a module without those of its submodules."""
    for group in (module._parameters, module._buffers):
        for name, tensor in group.items():
            if tensor is not None:
                yield name, tensor


def _check_unchanged(wanted: list[Declaration], heads: dict[int, Version | None]) -> None:
    """Refuse what is not as it was when its values were decided.

    Raises:
        RuntimeError: There is something; the error names it.
    """
    check_unseen_writes((each.name, each.history) for each in wanted if each.history is not None)
    changed = [
        each.name
        for each in wanted
        if each.history is not None
        and (
            each.history.head is not heads[each.history.key]
            or any(History.of(tensor) is not each.history for tensor in each.tensors)
        )
    ]
    if changed:
        raise RuntimeError(
            f"tensors were changed after param_init_fn was called: {', '.join(changed)}; call it after whatever "
            "writes to, casts or moves the model"
        )
