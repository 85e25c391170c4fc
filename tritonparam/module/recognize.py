"""Recognition: which operations leave values with a law, and which law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import torch

from tritonparam.module.covers import recognize
from tritonparam.module.operators import plain_torch
from tritonparam.module.tape import Drawn, History, Piece
from tritonparam.plan import RANDOM_DTYPES, Box, View
from tritonparam.stream import Constant, Law, Normal, TruncatedNormal, Uniform

_COPIES = frozenset(("aten::clone", "aten::_to_copy", "aten::copy_", "aten::lift_fresh_copy"))
_CLAMP_SLACK = 1e-5
_WIDE = (torch.float32, torch.float64)
_LENGTH = 67  # elements: some of them computed together, and the last ones alone
_NO_MASS_BEYOND = 6.0

_LAWS: dict[str, Callable[[dict[str, Any]], Law]] = {
    "aten::normal_": lambda a: Normal(mean=a["mean"], std=a["std"]),
    "aten::normal.float_float": lambda a: Normal(mean=a["mean"], std=a["std"]),
    "aten::uniform_": lambda a: Uniform(low=a["from"], high=a["to"]),
    "aten::randn": lambda a: Normal(),
    "aten::randn_like": lambda a: Normal(),
    "aten::rand": lambda a: Uniform(),
    "aten::rand_like": lambda a: Uniform(),
}
_CONSTANTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **dict.fromkeys((f"aten::{name}" for name in ("zero_", "zeros", "zeros_like", "new_zeros")), lambda a: 0),
    **dict.fromkeys((f"aten::{name}" for name in ("ones", "ones_like", "new_ones")), lambda a: 1),
    **dict.fromkeys((f"aten::{name}" for name in ("full", "full_like", "new_full")), lambda a: a["fill_value"]),
    "aten::fill_.Scalar": lambda a: a["value"],
    "aten::scalar_tensor": lambda a: a["s"],
}


def recognized(func: Any, bound: dict[str, Any], out: torch.Tensor) -> list[Piece] | None:
    """The boxes with laws that `out` consists of once `func` has written it; None where a law is not known.

    Args:
        func: An ATen operator with one output, which is all of what it writes.
        bound: Its arguments by name. Deferred tensors still have the history that they had before the call.
        out: The meta tensor that it returned.
    """
    name, overload = func._schema.name, func._schema.overload_name
    if out.numel() and View.of(out).axes() is None:  # two of its elements are one
        return None
    full_name = f"{name}.{overload}" if overload else name
    value = _CONSTANTS.get(full_name) or _CONSTANTS.get(name)
    if value is not None:
        constant = _constant(value(bound), out.dtype, min(out.numel(), 2))
        return None if constant is None else [Piece(Box.whole(out.shape), Drawn(constant))]
    make = _LAWS.get(full_name) or _LAWS.get(name)
    if make is not None:
        try:
            law = make(bound)
        except (TypeError, ValueError):
            return None
        return _fresh(law, out)
    if name in _COPIES:
        return _copied(bound["src"] if name == "aten::copy_" else bound["self"], out)
    if name == "aten::fill_":
        return _copied(bound["value"], out)
    if torch.Tag.pointwise in func.tags and torch.Tag.nondeterministic_seeded not in func.tags:
        return _pointwise(func, bound, out)
    return None


def _fresh(law: Law, out: torch.Tensor) -> list[Piece] | None:
    if out.dtype not in RANDOM_DTYPES:
        return None
    return [Piece(Box.whole(out.shape), Drawn.fresh(law, tuple(out.shape)))]


def _constant(value: float | int | bool, dtype: torch.dtype, numel: int) -> Constant | None:
    """The law of a tensor of `dtype` filled with `value`: as given where the plan's rounding is torch's too.

    Raises:
        RuntimeError: torch does not fill so many elements with it, as it is beyond the dtype.
    """
    try:
        with plain_torch():
            filled = torch.full((max(numel, 1),), value, dtype=dtype, device="cpu")
            rounded = None if dtype.is_complex else filled[0].item()
    except NotImplementedError:
        return None
    if rounded is None:
        return None
    try:
        return Constant(float(value) if dtype in _WIDE and math.isfinite(rounded) else rounded)
    except (TypeError, ValueError):
        return None


def _cast(law: Law, source: torch.dtype, target: torch.dtype) -> Law | None:
    if source == target:
        return law
    if isinstance(law, Constant):
        if source.is_complex or target.is_complex:
            return None
        with plain_torch():
            return Constant(torch.full((), law.value, dtype=source, device="cpu").to(target).item())
    # A value that was rounded to few bits stays so in more.
    return law if target in RANDOM_DTYPES and (source in _WIDE or target.itemsize < source.itemsize) else None


def _pieces_of(tensor: torch.Tensor) -> list[Piece] | None:
    history = History.of(tensor)
    return None if history is None else recognize(history.head, View.of(tensor))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether every element of a deferred tensor has a law, and is finite whichever number is drawn."""
    pieces = _pieces_of(tensor)
    return pieces is not None and all(_reach(piece.drawn.law) < torch.finfo(tensor.dtype).max for piece in pieces)


def _reach(law: Law) -> float:
    """What no absolute value of a law is above."""
    if isinstance(law, Normal):
        return abs(law.mean) + 7 * law.std
    if isinstance(law, Uniform):
        return max(abs(law.low), abs(law.high))
    if isinstance(law, TruncatedNormal):
        return min(max(abs(law.low), abs(law.high)), abs(law.mean) + 40 * law.std)
    return abs(law.value) if math.isfinite(law.value) else math.inf


def _uniform_value(tensor: torch.Tensor) -> Constant | None:
    """The one value that all elements of a tensor have, as a law."""
    pieces = _pieces_of(tensor)
    if not pieces or any(piece.drawn.law != pieces[0].drawn.law for piece in pieces):
        return None
    law = pieces[0].drawn.law
    return law if isinstance(law, Constant) else None


def _copied(source: object, out: torch.Tensor) -> list[Piece] | None:
    if not isinstance(source, torch.Tensor):
        return None
    pieces = _pieces_of(source)
    if pieces is None:
        return None
    if source.shape != out.shape:
        constant = _uniform_value(source)
        if constant is None:
            return None
        pieces = [Piece(Box.whole(out.shape), Drawn(constant))]
    return _mapped(pieces, lambda law: _cast(law, source.dtype, out.dtype))


def _mapped(pieces: list[Piece], change: Callable[[Law], Law | None]) -> list[Piece] | None:
    changed = []
    for piece in pieces:
        law = change(piece.drawn.law)
        if law is None:
            return None
        changed.append(Piece(piece.box, replace(piece.drawn, law=law)))
    return changed


def _pointwise(func: Any, bound: dict[str, Any], out: torch.Tensor) -> list[Piece] | None:
    """Element by element: constants are computed once; of random values, those operations that a law survives."""
    tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor) and name != "out"}
    constants = {name: _uniform_value(value) for name, value in tensors.items()}
    varying = [name for name, law in constants.items() if law is None]
    if "out" in bound or len(varying) > 1 or any(isinstance(value, (list, tuple)) for value in bound.values()):
        return None
    if not varying:
        value = _once(func, bound, constants)
        law = None if value is None or value.is_complex() else Constant(value.item())
        return None if law is None else [Piece(Box.whole(out.shape), Drawn(law))]
    name = varying[0]
    source = tensors[name]
    pieces = _pieces_of(source) if source.shape == out.shape else None
    if pieces is None or source.dtype not in RANDOM_DTYPES or out.dtype not in RANDOM_DTYPES:
        return None

    def change(law: Law) -> Law | None:
        if isinstance(law, Constant):
            value = _once(func, bound, constants | {name: law})
            return None if value is None else Constant(value.item())
        return _transformed(func._schema.name.removesuffix("_"), law, name, bound, constants)

    return _mapped(pieces, change)


def _once(func: Any, bound: dict[str, Any], constants: dict[str, Constant | None]) -> torch.Tensor | None:
    """What `func` makes of each element of its constant arguments; None where that depends on their number.

    A kernel may compute many elements at a time by other means than the last ones, which differ in the last bit then.
    """
    alone = _of_length(1, func, bound, constants)
    among = _of_length(_LENGTH, func, bound, constants)
    if alone is None or among is None or alone.numel() != 1 or alone.dtype != among.dtype:
        return None
    return alone if torch.equal(_bits(among), _bits(alone).expand_as(_bits(among))) else None


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements as bytes, so that NaN is equal to itself and 0.0 is not -0.0. [numel, itemsize]"""
    return tensor.contiguous().view(-1, 1).view(torch.uint8)


def _of_length(
    length: int, func: Any, bound: dict[str, Any], constants: dict[str, Constant | None]
) -> torch.Tensor | None:
    """What `func` gives where its constant arguments have so many elements, those without dimensions one."""

    def some(name: str, value: Any) -> Any:
        law = constants.get(name)
        if law is None:
            return value
        shape = (*(1,) * (value.dim() - 1), length) if value.dim() else ()
        return torch.full(shape, law.value, dtype=value.dtype)

    positional, keyword = [], {}
    for argument in func._schema.arguments:
        value = some(argument.name, bound[argument.name])
        if argument.kwarg_only:
            keyword[argument.name] = value
        else:
            positional.append(value)
    got = func(*positional, **keyword)
    return got if isinstance(got, torch.Tensor) else None


def _transformed(
    op: str, law: Law, name: str, bound: dict[str, Any], constants: dict[str, Constant | None]
) -> Law | None:
    """The law of random values after `op`; None where there is none, or where it would not keep the values' order."""

    def number(argument: str) -> float | None:
        constant = constants.get(argument)
        value = constant.value if constant is not None else bound.get(argument)
        return float(value) if isinstance(value, (bool, int, float)) else None

    try:
        if op == "aten::erfinv" and isinstance(law, Uniform) and -1 <= law.low < law.high <= 1:
            return TruncatedNormal(mean=0.0, std=math.sqrt(0.5), low=_erfinv(law.low), high=_erfinv(law.high))
        if op == "aten::clamp" and isinstance(law, TruncatedNormal):
            return _clamped(law, number("min"), number("max"))
        other = number("other" if name == "self" else "self")
        if other is None or (op == "aten::div" and (name != "self" or bound.get("rounding_mode") is not None)):
            return None
        alpha = number("alpha") if "alpha" in bound else 1.0
        scale, shift = {
            "aten::mul": (other, 0.0),
            "aten::div": (1 / other if other else 0.0, 0.0),
            "aten::add": (1.0, other * alpha if name == "self" and alpha is not None else 0.0),
            "aten::sub": (1.0, -other * alpha if name == "self" and alpha is not None else 0.0),
        }.get(op, (0.0, 0.0))
        if op in ("aten::add", "aten::sub") and name != "self":
            return None
        return _affine(law, scale, shift) if scale > 0 else None
    except ValueError:
        return None


def _affine(law: Law, scale: float, shift: float) -> Law:
    if isinstance(law, Normal):
        return Normal(mean=law.mean * scale + shift, std=law.std * scale)
    if isinstance(law, Uniform):
        return Uniform(low=law.low * scale + shift, high=law.high * scale + shift)
    if isinstance(law, TruncatedNormal):
        low, high = law.low * scale + shift, law.high * scale + shift
        return TruncatedNormal(mean=law.mean * scale + shift, std=law.std * scale, low=low, high=high)
    return law


def _clamped(law: TruncatedNormal, low: float | None, high: float | None) -> Law | None:
    """The law with the bounds that a clamp names; None where it does more than to undo rounding."""
    bounds = []
    for bound, given in ((law.low, low), (law.high, high)):
        if given is None:
            bounds.append(bound)
            continue
        depth = min(abs(bound - law.mean), abs(given - law.mean)) / law.std
        same_side = (bound < law.mean) == (given < law.mean)
        if not abs(given - bound) <= _CLAMP_SLACK * law.std and not (same_side and depth > _NO_MASS_BEYOND):
            return None
        bounds.append(given)
    return TruncatedNormal(mean=law.mean, std=law.std, low=bounds[0], high=bounds[1])


def _erfinv(x: float) -> float:
    p = (x + 1) / 2
    return NormalDist().inv_cdf(p) * math.sqrt(0.5) if 0 < p < 1 else math.copysign(math.inf, x)
