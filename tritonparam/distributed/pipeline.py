"""Stages of a pipeline: the layers of a model in equal parts, and with the first and the last what is around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tritonparam._arguments import shown

_KINDS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)


class Stages:
    """Which stages of a pipeline have each tensor of a model.

    Layers are the entries of the model's outermost ModuleList (or, where it has none, ModuleDict, or Sequential). They
    are shared out in order, and the first stages have one more where they do not come out even. Parameters that stand
    before the layers belong to the first stage, those after them to the last; buffers outside of layers, as rotary
    frequencies are, to all. A tied parameter is in the stages of all its names. transformers cuts its models so.

    Args:
        module: The model.
        count: How many stages.

    Raises:
        ValueError: It has no layers, several lists of them, or fewer layers than stages.

    Examples:
        >>> model = torch.nn.ModuleDict({"emb": torch.nn.Embedding(4, 2), "layers": torch.nn.ModuleList(
        ...     torch.nn.Linear(2, 2, device="meta") for _ in range(3))})
        >>> stages = Stages(model, 2)
        >>> stages.of("parameter", ["emb.weight"]), stages.of("parameter", ["layers.2.bias"])
        ((0,), (1,))
    """

    def __init__(self, module: torch.nn.Module, count: int) -> None:
        self._count = count
        self._path, layers = _layers_of(module) if count > 1 else ("", [])
        if len(layers) < count and count > 1:
            raise ValueError(f"pp must be at most the {len(layers)} layers of {self._path or 'the model'}, got {count}")
        each, more = divmod(len(layers), count)
        owners = [stage for stage in range(count) for _ in range(each + (stage < more))]
        self._stage = dict(zip(layers, owners, strict=True))
        names = [name for name, _ in module.named_parameters(remove_duplicate=False)] if count > 1 else []
        inside = [at for at, name in enumerate(names) if self._layer(name) is not None]
        self._before = set(names[: inside[0]]) if inside else set()

    def of(self, kind: str, names: Iterable[str]) -> tuple[int, ...]:
        """The stages that have a tensor, in order.

        Args:
            kind: As of a `Declaration`.
            names: All of them.
        """
        found: set[int] = set()
        for name in names:
            layer = self._layer(name)
            if layer is not None:
                found.add(self._stage[layer])
            elif kind == "parameter":
                found.add(0 if name in self._before else self._count - 1)
            else:
                found.update(range(self._count))
        return tuple(sorted(found))

    def _layer(self, name: str) -> str | None:
        prefix = f"{self._path}." if self._path else ""
        key = name[len(prefix) :].partition(".")[0] if name.startswith(prefix) else ""
        return key if key in self._stage else None


def _layers_of(module: torch.nn.Module) -> tuple[str, Sequence[str]]:
    """Where the layers of a model are, and what they are called there."""
    for kind in _KINDS:
        found: dict[str, torch.nn.Module] = {}
        for name, each in module.named_modules():
            is_inner = "" in found or any(name.startswith(f"{outer}.") for outer in found)
            if isinstance(each, kind) and each._modules and not is_inner:
                found[name] = each
        if len(found) > 1:
            raise ValueError(
                f"pp must be 1 for a model with several lists of layers, got {shown(', '.join(found))}: stages are "
                "parts of one list"
            )
        for path, layers in found.items():
            return path, list(layers._modules)
    raise ValueError("pp must be 1 for a model without a list of layers (ModuleList, ModuleDict or Sequential)")
