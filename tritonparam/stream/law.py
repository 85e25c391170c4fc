"""The laws: what distribution the elements of one tensor are drawn from.

A law is what an initializer comes down to once its shape is known: a constant, a uniform, a normal or a truncated
normal, with its parameters as Python numbers. `docs/stream.md` says which value each of them gives to element i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tritonparam._arguments import got, shown
from tritonparam._underflow import gradual_underflow

if TYPE_CHECKING:
    from typing_extensions import Self

FLOAT32_MAX = 3.4028234663852886e38
_REACH = 6.77  # no normal value lies further out, in standard deviations


def _number(owner: object, argument: str, *, finite: bool = True) -> float:
    """The field `argument` of `owner`, made a float, and zero without a sign: so equal laws are the same law.

    Raises:
        TypeError: It is not a real number.
        ValueError: It is NaN, or infinite where only finite values are allowed, or beyond float32.
    """
    value = getattr(owner, argument)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a real number, {got(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond float64
        number = math.inf if value > 0 else -math.inf
    if math.isnan(number) or (finite and not abs(number) <= FLOAT32_MAX):
        raise ValueError(f"{argument} must be a finite float32 number, got {shown(value)}")
    number += 0.0
    object.__setattr__(owner, argument, number)
    return number


class _ByKeyword:
    """A law whose parameters are said by name: MindSpore's initializers of the same names have others first."""

    __slots__ = ()

    def __new__(cls, *values: object, **parameters: object) -> Self:
        fields_of: dict[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
        if values or not parameters.keys() <= fields_of.keys():
            names = [name for name in fields_of if name != "kind"]
            others = [*map(got, values), *(f"got {name}" for name in parameters if name not in names)]
            wanted = ", ".join(f"{name}=..." for name in names)
            raise TypeError(
                f"{cls.__name__} must get its parameters by name, {cls.__name__}({wanted}), {others[0]}; "
                f"tritonparam.initializer.{cls.__name__} is MindSpore's"
            )
        return super().__new__(cls)


@dataclass(frozen=True, slots=True)
class Constant:
    """Every element is `value`, rounded to nearest even: to float32, and from there to a narrower float.

    Examples:
        >>> Constant(1.0)
        Constant(value=1.0)
    """

    value: float | int | bool = 0.0
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        if not isinstance(self.value, (bool, int, float)):
            raise TypeError(f"value must be a number or a bool, {got(self.value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform(_ByKeyword):
    """Elements uniform on [low, high); in float32, `high` is never reached.

    Raises:
        ValueError: A bound is not finite, low > high, or high - low > 2**127.

    Examples:
        >>> Uniform(low=-0.07, high=0.07)
        Uniform(low=-0.07, high=0.07)
    """

    low: float = 0.0
    high: float = 1.0
    kind: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        low, high = _number(self, "low"), _number(self, "high")
        if not low <= high:
            raise ValueError(f"low must not be above high, got low={shown(self.low)}, high={shown(self.high)}")
        if high - low > 2.0**127:
            raise ValueError(f"high - low must be at most 2**127, got low={shown(self.low)}, high={shown(self.high)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal(_ByKeyword):
    """Elements normal with the given mean and standard deviation.

    Raises:
        ValueError: A parameter is not finite, std < 0, or a value could leave float32.

    Examples:
        >>> Normal(std=0.02)
        Normal(mean=0.0, std=0.02)
    """

    mean: float = 0.0
    std: float = 1.0
    kind: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        mean, std = _number(self, "mean"), _number(self, "std")
        if std < 0:
            raise ValueError(f"std must be >= 0, got {shown(self.std)}")
        if abs(mean) + _REACH * std > FLOAT32_MAX:
            raise ValueError(f"mean and std must keep every value in float32, got {shown(self)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedNormal(_ByKeyword):
    """Elements normal(mean, std), given that they lie in [low, high]; bounds are absolute, not in standard deviations.

    Raises:
        ValueError: A parameter is NaN, mean or std is not finite, std <= 0, low >= high, or the interval lies beyond 10
            standard deviations of the mean or is shorter than 1e-30 of them.

    Examples:
        >>> TruncatedNormal(std=0.02, low=-0.04, high=0.04)
        TruncatedNormal(mean=0.0, std=0.02, low=-0.04, high=0.04)
    """

    mean: float = 0.0
    std: float = 1.0
    low: float = -2.0
    high: float = 2.0
    kind: ClassVar[str] = "truncated_normal"

    def __post_init__(self) -> None:
        mean, std = _number(self, "mean"), _number(self, "std")
        low, high = _number(self, "low", finite=False), _number(self, "high", finite=False)
        if std <= 0:
            raise ValueError(f"std must be > 0, got {shown(self.std)}")
        if not low < high:
            raise ValueError(f"low must be below high, got low={shown(self.low)}, high={shown(self.high)}")
        if (low - mean) / std > 10 or (high - mean) / std < -10:
            raise ValueError(f"[low, high] must come within 10 std of the mean, got {shown(self)}")
        if (high - low) / std < 1e-30:
            raise ValueError(f"low and high must be at least 1e-30 std apart, got {shown(self)}")


@lru_cache(maxsize=1024)
@gradual_underflow()
def float32_bounds(law: TruncatedNormal) -> tuple[np.float32, np.float32]:
    """The smallest and the largest float32 number in [low, high], a zero without a sign.

    Raises:
        ValueError: There is none.

    Examples:
        >>> float32_bounds(TruncatedNormal(low=-0.0, high=float("inf")))
        (np.float32(0.0), np.float32(3.4028235e+38))
    """
    largest = np.float32(FLOAT32_MAX)
    low, high = max(_round_up(law.low), -largest), min(np.float32(0) - _round_up(-law.high), largest)
    if not low <= high:
        raise ValueError(f"[low, high] must contain a float32 number, got {shown(law)}")
    return low, high


def _round_up(value: float) -> np.float32:
    """The smallest float32 that is not below `value`; a zero has no sign."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
    up = nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf))
    return up + np.float32(0)


Law = Constant | Uniform | Normal | TruncatedNormal
LAWS: dict[str, type[Law]] = {law.kind: law for law in (Constant, Uniform, Normal, TruncatedNormal)}


def law_to_json(law: Law) -> dict[str, Any]:
    """The law as a JSON object: its kind and its parameters; `law_from_json` is the inverse.

    Examples:
        >>> law_to_json(Uniform(low=0.0, high=1.0))
        {'kind': 'uniform', 'low': 0.0, 'high': 1.0}
    """
    return {"kind": law.kind} | {field.name: getattr(law, field.name) for field in fields(law)}


def law_from_json(record: dict[str, Any]) -> Law:
    """The law that `law_to_json` wrote.

    Raises:
        ValueError: The kind is unknown or the parameters are not those of the kind.

    Examples:
        >>> law_from_json({"kind": "normal", "mean": 0.0, "std": 0.02})
        Normal(mean=0.0, std=0.02)
    """
    parameters = dict(record)
    kind = parameters.pop("kind", None)
    if kind not in LAWS:
        raise ValueError(f"kind must be one of {sorted(LAWS)}, got {shown(kind)}")
    try:
        return LAWS[kind](**parameters)
    except TypeError as error:
        raise ValueError(f"bad parameters for {kind}: {error}") from None
