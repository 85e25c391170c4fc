"""Tensor-parallel plans as transformers writes them: which dimension of a parameter the style of its module cuts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from tritonparam._arguments import got, shown
from tritonparam.tensor import Cut

_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_COLUMNS = ("colwise", "colwise_rep", "colwise_gather_output")
_ROWS = ("rowwise", "rowwise_rep", "rowwise_split_input")
_PACKED = 2  # weights in one that `packed_` styles cut each for itself
_WHOLE = (
    "replicate",
    "replicated_with_grad_allreduce",
    "sequence_parallel",
    "all_reduce",
    "local_params",
    "mla_kv_a_proj",
    "moe_identity_expert",
    "moe_tp_experts",
)
TP_STYLES = (
    *_COLUMNS,
    *_ROWS,
    *("embedding_rowwise", "embedding_colwise", "packed_colwise", "packed_rowwise"),
    *_WHOLE,
)


def style_cut(style: str, parameter: str, ndim: int) -> Cut | None:
    """How tensor parallelism of `style` cuts a parameter; None for not at all.

    colwise cuts the outputs of a linear layer, the last dimension but one (of biases, the only one); rowwise its
    inputs, the last dimension, and no bias. packed_ styles cut so each of two weights that lie behind each other.

    Args:
        style: One of `TP_STYLES`, which are those of transformers 5.24.
        parameter: Its own name in its module.
        ndim: How many dimensions it has.

    Raises:
        ValueError: There is no such style, or no such dimension.

    Examples:
        >>> style_cut("rowwise", "weight", 2), style_cut("rowwise", "bias", 1), style_cut("packed_colwise", "weight", 2)
        (Cut(dim=1, split=1), None, Cut(dim=0, split=2))
    """
    if style not in TP_STYLES:
        raise ValueError(f"styles of tp_plan must be among {', '.join(TP_STYLES)}, got {shown(style)}")
    if style in _WHOLE or (style in _ROWS and parameter == "bias") or (style == "packed_rowwise" and ndim == 1):
        return None
    if style.startswith("embedding"):
        dim = 0 if style == "embedding_rowwise" else 1
    elif style in _COLUMNS or style == "packed_colwise":
        dim = max(ndim - 2, 0)
    else:
        dim = ndim - 1
    if dim >= ndim or dim < 0:
        raise ValueError(f"style {style!r} of tp_plan cuts dimension {max(dim, 0)}, and {parameter} has {ndim}")
    return Cut(dim, _PACKED if style.startswith("packed") and ndim > 1 else 1)


def own_tp_plan(module: torch.nn.Module) -> dict[str, str] | None:
    """The plan that a model of transformers comes with; None where there is none."""
    plan: Any = getattr(module, "_tp_plan", None)
    return dict(plan) if isinstance(plan, Mapping) and plan else None


def checked_tp_plan(module: torch.nn.Module, plan: Any) -> dict[str, str]:
    """A plan that a caller gives for `module`.

    Args:
        module: What it is for.
        plan: Names of modules or parameters, with `*` for a number between dots, and their styles.

    Raises:
        TypeError: It is no mapping of strings.
        ValueError: A style does not exist, or a name is none of the module's.
    """
    if not isinstance(plan, Mapping) or not all(isinstance(each, str) for pair in plan.items() for each in pair):
        raise TypeError(f"tp_plan must be a mapping of names to styles, {got(plan)}")
    for style in plan.values():
        style_cut(style, "bias", 2)
    names = {name for name, _ in module.named_modules()} | {
        name for name, _ in module.named_parameters(remove_duplicate=False)
    }
    names |= {_generic(name) for name in names}
    lost = [name for name in plan if name not in names]
    if lost:
        raise ValueError(
            f"tp_plan must name modules or parameters of the model, with * for a number between dots, got "
            f"{', '.join(map(shown, lost[:5]))}"
        )
    return dict(plan)


def tp_cut(plan: Mapping[str, str], names: Iterable[str], shape: Sequence[int]) -> Cut | None:
    """How a plan cuts a parameter; None for not at all. Of several names, the first that it says something of counts.

    Examples:
        >>> tp_cut({"layers.*.up": "colwise"}, ["layers.3.up.weight"], (8, 4))
        Cut(dim=0, split=1)
    """
    for name in names:
        for known in (name, name.rpartition(".")[0]):
            style = plan.get(known, plan.get(_generic(known))) if known else None
            if style is not None:
                return style_cut(style, name.rpartition(".")[2], len(shape))
    return None


def _generic(name: str) -> str:
    """The name with * for each number between dots, as in the plans of transformers.

    Examples:
        >>> _generic("model.layers.3.experts.11.w1.weight")
        'model.layers.*.experts.*.w1.weight'
    """
    return _NUMBER.sub(".*", name)
