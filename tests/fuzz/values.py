"""Bad values of every kind, each made anew when it is asked for."""

from __future__ import annotations

import decimal
import fractions
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tritonparam import Box, Constant, Generator, Normal, Parameter, ParameterTuple, Tensor, dtype
from tritonparam.initializer import Identity, Initializer, One, initializer
from tritonparam.initializer import Normal as NormalInitializer


class Hostile:
    """Every method that a check may call raises."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("hostile")

    __repr__ = __str__ = __index__ = __len__ = __iter__ = __bool__ = __int__ = __float__ = __array__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __getitem__ = __contains__ = __fspath__ = _refuse


class Anything:
    """Has every attribute, and each is itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class NoAttributes:
    """Raises when it is asked for an attribute that it has not."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class NoIndex:
    """An int that does not say which."""

    def __index__(self) -> int:
        raise ZeroDivisionError("no index")


class LongName(str):
    """A string whose repr is as long as a book."""

    def __repr__(self) -> str:
        return "r" * 10**5


class Overridden(torch.Tensor):
    """A tensor of a class of the user's."""


class LawOfNothing(Initializer):
    """An initializer whose law is none."""

    def law(self, shape: tuple[int, ...]) -> Any:
        return "no law"


class SilentInitializer(Initializer):
    """An initializer that says nothing."""


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def cyclic() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def quiet(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return made


def fake_tensor() -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        return mode.from_tensor(torch.zeros(2, 3))


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(2, 3)


def lazy(*shape: int) -> Tensor:
    return initializer("normal", list(shape), name="v")


NUMBERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1": lambda: 1,
    "7": lambda: 7,
    "2**31": lambda: 2**31,
    "2**63": lambda: 2**63,
    "2**64": lambda: 2**64,
    "-2**63 - 1": lambda: -(2**63) - 1,
    "10**400": lambda: 10**400,
    "-10**5000": lambda: -(10**5000),
    "-0.0": lambda: -0.0,
    "0.5": lambda: 0.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "1e308": lambda: 1e308,
    "5e-324": lambda: 5e-324,
    "complex": lambda: 1 + 2j,
    "Decimal": lambda: decimal.Decimal("1e999999"),
    "Fraction": lambda: fractions.Fraction(10**400, 3),
    "np.int64": lambda: np.int64(3),
    "np.float32 nan": lambda: np.float32("nan"),
    "np.float64": lambda: np.float64(1e300),
    "np.bool": lambda: np.bool_(True),
    "np.complex64": lambda: np.complex64(1j),
    "np.datetime64": lambda: np.datetime64("2020-01-01"),
    "np.str_": lambda: np.str_("ones"),
    "NoIndex": NoIndex,
}
TEXTS: dict[str, Callable[[], Any]] = {
    "empty": lambda: "",
    "blank": lambda: " ",
    "word": lambda: "normal",
    "same": lambda: "same",
    "long": lambda: "x" * 10**5,
    "LongName": lambda: LongName("ones"),
    "surrogate": lambda: "\ud800",
    "null": lambda: "a\0b",
    "newline": lambda: "a\nb",
    "bytes": lambda: b"x",
    "long bytes": lambda: b"x" * 10**6,
    "cuda": lambda: "cuda",
    "cuda:999": lambda: "cuda:999",
    "cuda:-1": lambda: "cuda:-1",
    "meta": lambda: "meta",
    "cpu:1": lambda: "cpu:1",
    "float32": lambda: "float32",
    "int8": lambda: "int8",
    "complex64": lambda: "complex64",
}
CONTAINERS: dict[str, Callable[[], Any]] = {
    "[]": list,
    "()": tuple,
    "[0]": lambda: [0],
    "[-1]": lambda: [-1],
    "[None]": lambda: [None],
    "[True]": lambda: [True],
    "[nan]": lambda: [math.nan],
    "[2, 3]": lambda: [2, 3],
    "(2, 3)": lambda: (2, 3),
    "(2, -3)": lambda: (2, -3),
    "(2**62, 2**62)": lambda: (2**62, 2**62),
    "[10**400]": lambda: [10**400],
    "[10**5000]": lambda: [10**5000],
    "[2.5]": lambda: [2.5],
    "strings": lambda: ["a", "b"],
    "ragged": lambda: [[1], [2, 3]],
    "deep": lambda: nested(5000),
    "cyclic": cyclic,
    "many": lambda: [1] * 10**5,
    "many tuples": lambda: [(0, 1)] * 10**4,
    "[Hostile]": lambda: [Hostile()],
    "(Hostile, Hostile)": lambda: (Hostile(), Hostile()),
    "[NoIndex]": lambda: [NoIndex()],
    "{}": dict,
    "{'a': 1}": lambda: {"a": 1},
    "{1: Hostile}": lambda: {1: Hostile()},
    "set": lambda: {1},
    "range": lambda: range(3),
    "iterator": lambda: iter([1, 2]),
    "generator": lambda: (x for x in "ab"),
}
OBJECTS: dict[str, Callable[[], Any]] = {
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda: None,
    "exception": lambda: ValueError("x"),
    "Ellipsis": lambda: ...,
    "slice": lambda: slice(1, 2),
    "Hostile": Hostile,
    "Anything": Anything,
    "NoAttributes": NoAttributes,
    "of a long type": type("T" * 10**5, (), {}),
    "a long type": lambda: type("T" * 10**5, (), {}),
    "torch.device meta": lambda: torch.device("meta"),
    "torch.device cuda": lambda: torch.device("cuda", 5),
    "torch.dtype": lambda: torch.float16,
    "torch.complex64": lambda: torch.complex64,
    "torch.quint8": lambda: torch.quint8,
    "np.dtype": lambda: np.dtype("f8"),
    "np.dtype object": lambda: np.dtype(object),
    "np.float32": lambda: np.float32,
    "mstype.int8": lambda: dtype.int8,
    "torch.Size": lambda: torch.Size([2, 3]),
    "module": lambda: torch.nn.Linear(2, 2),
    "Box": lambda: Box((0,), (1,)),
    "Box outside": lambda: Box((-1, 0), (2**63, 1)),
    "Box pair": lambda: [(Box((0, 0), (1, 1)), Box((0,), (1,)))],
    "Generator": lambda: Generator(3),
    "law Normal": lambda: Normal(mean=0.0, std=2.0),
    "law Constant": lambda: Constant(10**400),
    "Normal": NormalInitializer,
    "Identity": Identity,
    "One": One,
    "LawOfNothing": LawOfNothing,
    "SilentInitializer": SilentInitializer,
}
ARRAYS: dict[str, Callable[[], Any]] = {
    "np scalar array": lambda: np.array(1),
    "np.arange": lambda: np.arange(3),
    "np strings": lambda: np.array(["a"]),
    "np objects": lambda: np.array([object(), None]),
    "np complex": lambda: np.array([1 + 2j]),
    "np structured": lambda: np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    "np empty": lambda: np.empty((0, 3)),
    "np masked": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "np longdouble": lambda: np.zeros(2, np.longdouble),
    "np big-endian": lambda: np.zeros((2, 3), ">f4"),
    "np read-only": lambda: np.broadcast_to(np.float32(1), (2, 3)),
    "np backwards": lambda: np.arange(6, dtype=np.float32).reshape(2, 3)[::-1],
    "np dates": lambda: np.array(["2020-01-01"], "M8[D]"),
}
TENSORS: dict[str, Callable[[], Any]] = {
    "scalar": lambda: torch.tensor(1.5),
    "float": lambda: torch.ones(2, 3),
    "long": lambda: torch.arange(6).view(2, 3),
    "bool": lambda: torch.ones(2, 3, dtype=torch.bool),
    "complex": lambda: torch.ones(2, 3, dtype=torch.complex64),
    "complex32": quiet(lambda: torch.zeros(2, 3, dtype=torch.complex32)),
    "float8_e4m3fnuz": lambda: torch.zeros(2, 3, dtype=torch.float8_e4m3fnuz),
    "meta": lambda: torch.empty(2, 3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse csr": quiet(lambda: torch.eye(3).to_sparse_csr()),
    "quantized": quiet(lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8)),
    "nested": quiet(lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])),
    "jagged": quiet(lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)),
    "requires_grad": lambda: torch.ones(2, 3, requires_grad=True),
    "with a history": lambda: torch.ones(2, 3, requires_grad=True) * 2,
    "no elements": lambda: torch.empty(0, 3),
    "expanded": lambda: torch.ones(1, 1).expand(2, 3),
    "transposed": lambda: torch.arange(6.0).view(3, 2).T,
    "overlapping": lambda: torch.arange(6.0).as_strided((2, 3), (1, 1)),
    "conjugate": lambda: torch.ones(2, 3, dtype=torch.complex64).conj(),
    "negative": lambda: torch.ones(2, 3, dtype=torch.complex64).conj().imag,
    "fake": fake_tensor,
    "inference": inference_tensor,
    "nn.Parameter": lambda: torch.nn.Parameter(torch.ones(2, 3)),
    "uninitialized": torch.nn.parameter.UninitializedParameter,
    "subclass": lambda: torch.ones(2, 3).as_subclass(Overridden),
    "many dimensions": lambda: torch.ones((1,) * 40),
    "Tensor": lambda: Tensor([[1.0, 2.0, 3.0]] * 2),
    "Tensor int": lambda: Tensor([1, 2]),
    "lazy Tensor": lambda: lazy(2, 3),
    "lazy Tensor of another shape": lambda: lazy(5),
    "Parameter": lambda: Parameter([[1.0, 2.0, 3.0]] * 2, name="v"),
    "lazy Parameter": lambda: Parameter(lazy(2, 3), name="v"),
    "Parameter of a long name": lambda: Parameter([1.0], name="n" * 1000),
    "ParameterTuple": lambda: ParameterTuple([Parameter([1.0], name="v")]),
}
VALUES: dict[str, Callable[[], Any]] = {
    f"{kind} {name}": make
    for kind, made in (
        ("number", NUMBERS),
        ("text", TEXTS),
        ("container", CONTAINERS),
        ("object", OBJECTS),
        ("array", ARRAYS),
        ("tensor", TENSORS),
    )
    for name, make in made.items()
}
