"""Parameter and ParameterTuple: named tensors that are declared first and brought to life later, alone or together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from tritonparam._initializers import Initializer
from tritonparam._storage import copy_of_data, declare
from tritonparam.dtype import float32, int32
from tritonparam.generator import get_generator
from tritonparam.tensor import Device, Tensor, TorchTensor, realize

_DEFAULT_NAME = "Parameter"
_LONGEST_NAME = 1024


def _checked_name(name: object) -> str:
    # A wrong type is a ValueError here because it is one in MindSpore.
    if name is not None and not isinstance(name, str):
        raise ValueError(f"name must be a string or None, got {name!r} of type {type(name).__name__}")
    stripped = (name or "").strip()
    if len(stripped) > _LONGEST_NAME:
        raise ValueError(
            f"name must be of at most {_LONGEST_NAME} characters, got {len(stripped)}: {stripped[:40]!r}..."
        )
    return stripped or _DEFAULT_NAME


def _checked_bool(argument: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be a bool, got {value!r} of type {type(value).__name__}")
    return value


class _Flag:
    """An attribute that takes bools only."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> bool:
        value: bool = instance.__dict__[self._name]
        return value

    def __set__(self, instance: Any, value: bool) -> None:
        instance.__dict__[self._name] = _checked_bool(self._name, value)


def _copy_of_input(default_input: Any) -> TorchTensor:
    """What a parameter made of data holds: a copy of it, Python ints as Int32 and floats as Float32."""
    if isinstance(default_input, (bool, np.bool_)):
        raise ValueError(f"default_input must not be a bool, got {default_input!r}")
    if isinstance(default_input, Initializer):
        raise TypeError(
            f"default_input must be a Tensor, such as initializer({default_input!r}, shape), got the Initializer itself"
        )
    if isinstance(default_input, Tensor):
        return copy_of_data("default_input", default_input.torch)
    if not isinstance(default_input, (torch.Tensor, int, float, np.ndarray, np.generic, list)):
        raise TypeError(
            "default_input must be a Tensor, a torch tensor, an int, a float, a NumPy array or scalar or a list, "
            f"got {default_input!r} of type {type(default_input).__name__}"
        )
    dtype = int32 if isinstance(default_input, int) else float32 if isinstance(default_input, float) else None
    return copy_of_data("default_input", default_input, dtype)


class Parameter(Tensor):
    """A named tensor, lazy if it is made from an initializer: then it holds no data until its values are asked for.

    What it will hold is settled when it is made. Its random numbers depend on the seed of the generator in use then, on
    its name then, and on how many lazy parameters of that name that generator has seen before; they do not depend on
    other names, on device, backend or the order in which parameters become real, nor on later renaming or seeding.

    `.torch` of a floating-point parameter is a `torch.nn.Parameter`, on the meta device while this is lazy. It stays
    the same object when this becomes real, so an optimizer may be made before or after.

    MindSpore makes the parameter real at once unless a parallel mode is set, and the tensor that it is made from with
    it. Here both stay as they are.

    Args:
        default_input: What `initializer(...)` returns; or data, which is copied: a Tensor, a torch tensor, a NumPy
            array or scalar, an int (Int32), a float (Float32), or a list of numbers (Int64, Float32 or Bool). Another
            Parameter gives its values, data or drawn later, and nothing else.
        name: At most 1024 characters, blanks at the ends not counted. None or blank means "Parameter".
        requires_grad: Whether gradients are wanted. Integers have none, whatever this says.
        layerwise_parallel: Each process has its own: gradients are not to be averaged over processes.
        parallel_optimizer: An optimizer may shard its state.

    Raises:
        TypeError: default_input is of another type, or a flag is no bool.
        ValueError: default_input is a bool or an int beyond Int32, or name is too long or no string.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> w = Parameter(initializer("normal", [2, 3]), name="w")
        >>> print(w, w.has_init)
        Parameter (name=w, shape=(2, 3), dtype=Float32, requires_grad=True) True
        >>> optimizer = torch.optim.SGD([w.torch], lr=0.1)
        >>> w.init_data() is w, optimizer.param_groups[0]["params"][0] is w.torch
        (True, True)
    """

    layerwise_parallel = _Flag()
    parallel_optimizer = _Flag()

    def __init__(
        self,
        default_input: Any,
        name: str | None = None,
        requires_grad: bool = True,
        layerwise_parallel: bool = False,
        parallel_optimizer: bool = True,
    ) -> None:
        self._name = _checked_name(name)
        self._requires_grad = _checked_bool("requires_grad", requires_grad)
        self.layerwise_parallel = layerwise_parallel
        self.parallel_optimizer = parallel_optimizer
        self.sliced = False
        self.is_init = False
        law = default_input._law if isinstance(default_input, Tensor) else None
        if law is None:
            self._hold(_copy_of_input(default_input), None, 0)
            return
        storage = declare(default_input.shape, default_input.dtype)
        copied = isinstance(default_input, Parameter)
        self._hold(storage, law, default_input._key if copied else get_generator().key(self._name))

    def _dressed(self, storage: TorchTensor) -> TorchTensor:
        if not storage.is_floating_point():
            return storage
        with torch.inference_mode(False):
            return torch.nn.Parameter(storage, requires_grad=self.requires_grad)

    @property
    def name(self) -> str:
        """The name; setting it follows the rules of the constructor and changes no value."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = _checked_name(name)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted; the same as that of `.torch` where that is a `torch.nn.Parameter`."""
        return self._torch.requires_grad if isinstance(self._torch, torch.nn.Parameter) else self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self._requires_grad = _checked_bool("requires_grad", requires_grad)
        if isinstance(self._torch, torch.nn.Parameter):
            self._torch.requires_grad_(requires_grad)

    @property
    def data(self) -> Parameter:
        """The parameter itself, as in MindSpore 1.3."""
        return self

    @property
    def inited_param(self) -> Parameter | None:
        """None: a parameter becomes real in place, and no other object takes its part."""
        return None

    def init_data(self, *, device: Device = None, backend: str | None = None) -> Parameter:
        """Make this parameter real, in place; one that is real already stays as and where it is.

        The values are those that the class describes: they do not depend on device or backend.

        Args:
            device: A CPU or CUDA device; None for torch's default device.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Returns:
            This parameter.

        Raises:
            ValueError: There is no such device or backend.

        Examples:
            >>> from tritonparam.initializer import initializer
            >>> Parameter(initializer("ones", [2]), name="scale").init_data().asnumpy()
            array([1., 1.], dtype=float32)
        """
        realize([self], device, backend)
        return self

    def __repr__(self) -> str:
        return (
            f"Parameter (name={self.name}, shape={self.shape}, dtype={self.dtype}, requires_grad={self.requires_grad})"
        )

    __str__ = __repr__


class ParameterTuple(tuple[Parameter, ...]):
    """Parameters that become real together, in one plan. Slices and sums are plain tuples.

    Args:
        parameters: Any iterable of Parameters.

    Raises:
        TypeError: It is not iterable, or holds anything else, or is itself a Tensor.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> layers = ParameterTuple(Parameter(initializer("he_normal", [4, 4]), name=f"w{i}") for i in range(3))
        >>> any(p.has_init for p in layers.init_data())
        False
    """

    __slots__ = ()

    def __new__(cls, parameters: Iterable[Parameter]) -> ParameterTuple:
        if isinstance(parameters, Tensor):
            raise TypeError(f"parameters must be an iterable of Parameters, got the single {parameters!r}")
        members = tuple(parameters)
        for index, member in enumerate(members):
            if not isinstance(member, Parameter):
                raise TypeError(
                    f"parameters must hold Parameters only, got {member!r} of type {type(member).__name__} at {index}"
                )
        return super().__new__(cls, members)

    def init_data(self, device: Device = None, backend: str | None = None) -> ParameterTuple:
        """Make all lazy members real in one plan, so that CUDA launches do not grow in number with the members.

        Each gets the values that its own `init_data` would have given it.

        Args:
            device: A CPU or CUDA device; None for torch's default device. Members that are real already stay where they
                are.
            backend: What writes the values, as for `Plan`; None for the device's own.

        Returns:
            This tuple.

        Raises:
            ValueError: There is no such device or backend.
        """
        realize(self, device, backend)
        return self
