"""The initializer classes: MindSpore's names, defaults and formulas, each of which gives one law for a shape.

Those that give more than one, such as Identity, are in `structured.py`.

Fans are those of the whole (global) tensor, with every dimension after the second counted in: a slice of a tensor has
the distribution of the tensor. MindSpore takes them from the slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from tritonparam import stream
from tritonparam._arguments import choice, got, shown
from tritonparam.tensor import Initializer, as_shape

_MODES = ("fan_in", "fan_out")
_GAIN_ONE = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)
_NONLINEARITIES = (*_GAIN_ONE, "tanh", "relu", "leaky_relu")
_SCALING_MODES = (*_MODES, "fan_avg")
_DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")
# Standard deviation of a standard normal that is cut at -2 and 2.
_STD_CUT_AT_TWO = 0.87962566103423978


def _check_number(argument: str, value: object, *, minimum: float = -math.inf, above: float = -math.inf) -> None:
    """Let real numbers pass that are finite, >= minimum and > above."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a real number, {got(value)}")
    try:
        number = float(value)
    except Exception:  # too large, or what a type of the user's raises
        number = math.nan
    if not math.isfinite(number) or number < minimum or number <= above:
        bound = f" >= {minimum:g}" if minimum > -math.inf else f" > {above:g}" if above > -math.inf else ""
        raise ValueError(f"{argument} must be a finite number{bound}, got {shown(value)}")


def _check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value.lower() not in choices:
        raise ValueError(f"{argument} must be one of {list(choices)}, got {shown(value)}")


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """The number of inputs and of outputs (fan_in, fan_out) of a weight laid out [out, in, *receptive field].

    Raises:
        ValueError: shape has fewer than 2 dimensions.

    Examples:
        >>> fans((64, 3, 7, 7))
        (147, 3136)
    """
    sizes = as_shape(shape)
    if len(sizes) < 2:
        raise ValueError(f"fan_in and fan_out need a shape of at least 2 dimensions, got {shown(sizes)}")
    field = math.prod(sizes[2:])
    return sizes[1] * field, sizes[0] * field


@dataclass(frozen=True)
class Zero(Initializer):
    """Zeros; 'zero', 'zeros'.

    Examples:
        >>> Zero().law((2,))
        Constant(value=0)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Constant(0)


@dataclass(frozen=True)
class One(Initializer):
    """Ones; 'one', 'ones'.

    Examples:
        >>> One().law((2,))
        Constant(value=1)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Constant(1)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every element is `value`; what a plain number stands for.

    Raises:
        TypeError: value is not a real number or a bool.
        ValueError: It is a fraction beyond float64.

    Examples:
        >>> Constant(0.5).law((2,))
        Constant(value=0.5)
    """

    value: float

    def __post_init__(self) -> None:
        value: object = self.value
        if not isinstance(value, (Real, np.bool_)):
            raise TypeError(f"value must be a real number, {got(value)}")
        if not isinstance(value, (int, float, np.generic)):
            _check_number("value", value)

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        value: object = self.value.item() if isinstance(self.value, np.generic) else self.value
        return stream.Constant(value if isinstance(value, (int, float)) else float(value))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on [-scale, scale); 'uniform'.

    Raises:
        TypeError, ValueError: scale is not a finite number >= 0.

    Examples:
        >>> Uniform().law((2,))
        Uniform(low=-0.07, high=0.07)
    """

    scale: float = 0.07

    def __post_init__(self) -> None:
        _check_number("scale", self.scale, minimum=0.0)

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Uniform(low=-float(self.scale), high=float(self.scale))


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal of standard deviation sigma; 'normal'.

    Raises:
        TypeError, ValueError: sigma is not a finite number >= 0, or mean not a finite number.

    Examples:
        >>> Normal(0.02).law((2,))
        Normal(mean=0.0, std=0.02)
    """

    sigma: float = 0.01
    mean: float = 0.0

    def __post_init__(self) -> None:
        _check_number("sigma", self.sigma, minimum=0.0)
        _check_number("mean", self.mean)

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Normal(mean=float(self.mean), std=float(self.sigma))


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal(sigma, mean) given that it lies within [mean + a * sigma, mean + b * sigma]; 'truncatednormal'.

    `a` and `b` count in sigmas, as in MindSpore 1.3 (where they are always -2 and 2). MindSpore 2.10 takes them for
    absolute values, which leaves its default, sigma 0.01, untruncated. Sigma is that of the normal before it is cut.

    Raises:
        TypeError, ValueError: sigma is not a finite number > 0, mean, a or b not finite numbers, or not a < b.

    Examples:
        >>> TruncatedNormal(0.5).law((2,))
        TruncatedNormal(mean=0.0, std=0.5, low=-1.0, high=1.0)
    """

    sigma: float = 0.01
    mean: float = 0.0
    a: float = -2.0
    b: float = 2.0

    def __post_init__(self) -> None:
        _check_number("sigma", self.sigma, above=0.0)
        for argument in ("mean", "a", "b"):
            _check_number(argument, getattr(self, argument))
        if not self.a < self.b:
            raise ValueError(f"a must be below b, got a={shown(self.a)}, b={shown(self.b)}")

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        mean, sigma = float(self.mean), float(self.sigma)
        return stream.TruncatedNormal(
            mean=mean, std=sigma, low=mean + float(self.a) * sigma, high=mean + float(self.b) * sigma
        )


@dataclass(frozen=True)
class _Xavier(Initializer):
    gain: float = 1

    def __post_init__(self) -> None:
        _check_number("gain", self.gain, minimum=0.0)


class XavierUniform(_Xavier):
    """Uniform on [-b, b), b = gain * sqrt(6 / (fan_in + fan_out)); 'xavier_uniform', 'xavieruniform'.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Raises:
        TypeError, ValueError: gain is not a finite number >= 0.

    Examples:
        >>> XavierUniform().law((2, 4))
        Uniform(low=-1.0, high=1.0)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        bound = float(self.gain) * math.sqrt(6.0 / sum(fans(shape)))
        return stream.Uniform(low=-bound, high=bound)


class XavierNormal(_Xavier):
    """Normal of standard deviation gain * sqrt(2 / (fan_in + fan_out)); 'xavier_normal', 'xaviernormal'.

    Source: Glorot and Bengio, as for XavierUniform.

    Raises:
        TypeError, ValueError: gain is not a finite number >= 0.

    Examples:
        >>> XavierNormal(0.5).law((4, 4))
        Normal(mean=0.0, std=0.25)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Normal(mean=0.0, std=float(self.gain) * math.sqrt(2.0 / sum(fans(shape))))


@dataclass(frozen=True)
class _He(Initializer):
    negative_slope: float | None = 0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        # A bool is a ValueError here because it is one in MindSpore.
        if isinstance(self.negative_slope, bool):
            raise ValueError(f"negative_slope must be a number or None, got {shown(self.negative_slope)}")
        if self.negative_slope is not None:
            _check_number("negative_slope", self.negative_slope)
        _check_choice("mode", self.mode, _MODES)
        choice("nonlinearity", self.nonlinearity, list(_NONLINEARITIES))

    def _gain(self) -> float:
        """The factor that keeps the variance of activations through the nonlinearity."""
        if self.nonlinearity == "leaky_relu":
            slope = 0.01 if self.negative_slope is None else float(self.negative_slope)
            return math.sqrt(2.0 / (1.0 + slope * slope))
        return {"tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}.get(self.nonlinearity, 1.0)

    def _fan(self, shape: tuple[int, ...]) -> int:
        return fans(shape)[_MODES.index(self.mode.lower())]


class HeUniform(_He):
    """Uniform on [-b, b), b = gain * sqrt(3 / fan); 'he_uniform', 'heuniform'.

    The gain is 1 (linear, convolutions, sigmoid), 5/3 (tanh), sqrt(2) (relu) or sqrt(2 / (1 + negative_slope**2))
    (leaky_relu). Source: He et al., Delving deep into rectifiers, 2015.

    Args:
        negative_slope: Of leaky_relu; None for 0.01. The other nonlinearities do not look at it.
        mode: "fan_in" or "fan_out", in any case.
        nonlinearity: Named above; the convolutions are conv1d to conv3d and conv_transpose1d to conv_transpose3d.

    Raises:
        TypeError, ValueError: An argument is none of these.

    Examples:
        >>> HeUniform(nonlinearity="linear").law((8, 3))
        Uniform(low=-1.0, high=1.0)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        bound = self._gain() * math.sqrt(3.0 / self._fan(shape))
        return stream.Uniform(low=-bound, high=bound)


class HeNormal(_He):
    """Normal of standard deviation gain / sqrt(fan), arguments as for HeUniform; 'he_normal', 'henormal'.

    Source: He et al., as for HeUniform.

    Examples:
        >>> HeNormal(nonlinearity="linear").law((8, 4))
        Normal(mean=0.0, std=0.5)
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return stream.Normal(mean=0.0, std=self._gain() / math.sqrt(self._fan(shape)))


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Variance scale / fan in one of three distributions; 'variance_scaling', 'variancescaling'.

    "untruncated_normal" is a normal, "uniform" a uniform of that variance, "truncated_normal" a normal cut at two of
    its own standard deviations and widened so that the variance is right after the cut. (MindSpore 2.10 draws uniform
    numbers for "truncated_normal".) Source: the initializer of this name in Keras and JAX.

    Args:
        scale: > 0.
        mode: "fan_in", "fan_out", or "fan_avg" for the mean of the two.
        distribution: One of the three.

    Raises:
        TypeError, ValueError: An argument is none of these.

    Examples:
        >>> VarianceScaling(distribution="untruncated_normal").law((8, 4))
        Normal(mean=0.0, std=0.5)
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self) -> None:
        _check_number("scale", self.scale, above=0.0)
        _check_choice("mode", self.mode, _SCALING_MODES)
        _check_choice("distribution", self.distribution, _DISTRIBUTIONS)

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        fan_in, fan_out = fans(shape)
        fan = (fan_in, fan_out, (fan_in + fan_out) / 2)[_SCALING_MODES.index(self.mode.lower())]
        std = math.sqrt(float(self.scale) / fan)
        distribution = self.distribution.lower()
        if distribution == "uniform":
            bound = math.sqrt(3.0) * std
            return stream.Uniform(low=-bound, high=bound)
        if distribution == "untruncated_normal":
            return stream.Normal(mean=0.0, std=std)
        widened = std / _STD_CUT_AT_TWO
        return stream.TruncatedNormal(mean=0.0, std=widened, low=-2.0 * widened, high=2.0 * widened)


@dataclass(frozen=True)
class LecunNormal(Initializer):
    """VarianceScaling(1, "fan_in", "truncated_normal"); 'lecun_normal', 'lecunnormal'. MindSpore has it not.

    Source: LeCun et al., Efficient BackProp, 1998 (the variance); cut as in Keras and JAX.

    Examples:
        >>> LecunNormal().law((8, 4)) == VarianceScaling().law((8, 4))
        True
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return VarianceScaling().law(shape)


@dataclass(frozen=True)
class LecunUniform(Initializer):
    """VarianceScaling(1, "fan_in", "uniform"); 'lecun_uniform', 'lecununiform'. MindSpore has it not.

    Source: LeCun et al., as for LecunNormal.

    Examples:
        >>> LecunUniform().law((8, 4)) == VarianceScaling(distribution="uniform").law((8, 4))
        True
    """

    def law(self, shape: tuple[int, ...]) -> stream.Law:
        return VarianceScaling(distribution="uniform").law(shape)
