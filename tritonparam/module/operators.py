"""What the recorder has to know of ATen's operators beyond their schemas."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

# These write all of what they write to, whatever was there.
OVERWRITES = frozenset(
    f"aten::{op}_"
    for op in (
        *("fill", "zero", "copy", "normal", "uniform", "bernoulli", "exponential", "geometric", "cauchy"),
        *("log_normal", "random"),
    )
)
# These write where another tensor says; the elements they leave alone are not read either.
SCATTERS = frozenset(
    f"aten::{op}_"
    for op in (
        *("index_put", "_index_put_impl", "masked_fill", "masked_scatter", "index_fill", "index_copy"),
        *("scatter", "put"),
    )
)
# What torch.autocast runs in another dtype, on one kind of device or another (torch's documentation, "Autocast Op
# Reference").
_AUTOCAST = (
    *(
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "mm",
        "bmm",
        "mv",
        "addmm",
        "addmv",
        "addr",
        "addbmm",
        "baddbmm",
        "chain_matmul",
    ),
    *("linear", "bilinear", "einsum", "prelu", "scaled_dot_product_attention", "multi_dot"),
    *(f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)),
    *("acos", "asin", "cosh", "cosine_similarity", "cdist", "cumprod", "cumsum", "dist", "erfinv", "exp", "expm1"),
    *("log", "log10", "log2", "log1p", "norm", "pdist", "polar", "pow", "__pow__", "__rpow__", "prod", "reciprocal"),
    *("renorm", "rsqrt", "sinh", "softmax", "log_softmax", "softmin", "softplus", "sum", "tan", "quantile"),
    *("layer_norm", "group_norm", "normalize", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "nll_loss"),
    *("addcdiv", "addcmul", "atan2", "cross", "dot", "vdot", "grid_sample", "cat", "stack", "tensordot", "index_put"),
)
_STATISTICS = ("running_mean", "running_var")
_UPDATES_STATISTICS = (
    "aten::batch_norm_update_stats",
    "aten::batch_norm_gather_stats",
    "aten::batch_norm_gather_stats_with_counts",
)
_NOT_STRIDED = (
    "aten::quantize_per_",
    "aten::_nested_",
    "aten::_empty_affine_quantized",
    "aten::_to_sparse",
    "aten::to_sparse",
)


@lru_cache(maxsize=1)
def autocast_functions() -> frozenset[Any]:
    """Torch's Python functions whose results have another dtype under torch.autocast."""
    places = (torch, torch.Tensor, torch.nn.functional, torch.linalg)
    return frozenset(getattr(place, name) for place in places for name in _AUTOCAST if hasattr(place, name))


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument of an operator call by name, defaults included."""
    defaults = _defaults(func)
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}


@lru_cache(maxsize=4096)
def _defaults(func: Any) -> dict[str, Any]:
    return {argument.name: argument.default_value for argument in func._schema.arguments}


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among values, and in the lists, tuples and dicts among them: all that an operator takes or gives."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found


@lru_cache(maxsize=4096)
def written_names(func: Any, training: bool) -> tuple[str, ...]:
    """The arguments that the operator writes to, those included that its schema does not tell of.

    Kernels of batch norm update the running statistics, which most of their schemas do not say.

    Args:
        func: An overload.
        training: What the call has for the argument of this name; whatever, if there is none.
    """
    arguments = func._schema.arguments
    told = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    has_training = any(each.name == "training" for each in arguments)
    if (training and has_training) or func._schema.name in _UPDATES_STATISTICS:
        told += [each.name for each in arguments if each.name in _STATISTICS and each.name not in told]
    return tuple(told)


def with_each(values: Any, change: Callable[[Any], Any]) -> Any:
    """What an operator takes, or lists, tuples and dicts of it, with everything in them changed."""
    if isinstance(values, (list, tuple)):
        changed = [with_each(each, change) for each in values]
        return changed if isinstance(values, list) else tuple(changed)
    if isinstance(values, dict):
        return {name: with_each(each, change) for name, each in values.items()}
    return change(values)


def written_arguments(func: Any, bound: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments that the operator writes to."""
    names = written_names(func, bool(bound.get("training")))
    return tensors_in(bound[name] for name in names)


@lru_cache(maxsize=4096)
def out_names(func: Any) -> tuple[str, ...]:
    """The arguments that are out=, whose values the operator does not read and whose shape it may change."""
    return tuple(argument.name for argument in func._schema.arguments if argument.is_out)


def reads_only_shapes(func: Any) -> bool:
    """Whether the operator looks at its tensors' shapes, dtypes and devices and at no value."""
    name = func._schema.name
    return bool(name.endswith("_like") or name.startswith("aten::new_"))


def makes_no_strided_tensor(func: Any, bound: dict[str, Any], tensors: list[torch.Tensor]) -> bool:
    """Whether a sparse, nested or quantized tensor goes in or comes out, of which the tape can say nothing."""
    if any(each.layout != torch.strided or each.is_quantized or each.is_nested for each in tensors):
        return True
    return bound.get("layout") not in (None, torch.strided) or func._schema.name.startswith(_NOT_STRIDED)


@lru_cache(maxsize=1024)
def with_generator(func: Any) -> Any:
    """The overload of a random operator that takes a generator; None where there is none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    own = [(argument.name, str(argument.type)) for argument in func._schema.arguments]
    for name in func._overloadpacket.overloads():
        other = getattr(func._overloadpacket, name)
        rest = [(each.name, str(each.type)) for each in other._schema.arguments if each.name != "generator"]
        if rest == own and len(rest) < len(other._schema.arguments):
            return other
    return None


def check_drawing(func: Any, bound: dict[str, Any], written: list[torch.Tensor]) -> None:
    """Have torch look at the arguments of a random operator that reads no tensor, as its meta kernel does not.

    Raises:
        RuntimeError, NotImplementedError: One is out of range, or nothing is drawn in that dtype.
    """
    tensors = [name for name, value in bound.items() if isinstance(value, torch.Tensor)]
    if torch.Tag.nondeterministic_seeded not in func.tags or len(tensors) > len(written) or len(written) > 1:
        return
    plain = {name: value for name, value in bound.items() if name not in (*tensors, "generator", "device", "size")}
    if all(isinstance(value, (int, float, torch.dtype, type(None))) for value in plain.values()):
        _draw_once(func, tuple(tensors), written[0].dtype if written else None, tuple(plain.items()))


def plain_torch() -> contextlib.AbstractContextManager[Any]:
    """A context in which tensors are what they seem, also where a mode such as FakeTensorMode stands around a block."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else contextlib.nullcontext()


@lru_cache(maxsize=4096, typed=True)
def _draw_once(
    func: Any, written: tuple[str, ...], dtype: torch.dtype | None, plain: tuple[tuple[str, Any], ...]
) -> None:
    # One element, as kernels may not look where there is none; of a generator of its own, as torch's is the user's.
    bound = {**dict(plain), **{name: torch.empty(1, dtype=dtype, device="cpu") for name in written}}
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        bound["generator"] = torch.Generator()
    bound |= {name: [1] if name == "size" else torch.device("cpu") for name in ("size", "device") if name in names}
    with plain_torch(), torch.random.fork_rng(devices=()):
        func(**bound)


def draws(func: Any, bound: dict[str, Any]) -> bool:
    """Whether a call of the operator takes random numbers; those without a generator do by their dropout alone."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    if with_generator(func) is not None:
        return True
    share = next((bound[name] for name in ("dropout_p", "dropout", "p") if name in bound), 1.0)
    return bool(share) and bool(bound.get("train", True))
