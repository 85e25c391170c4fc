"""The public calls, each with a good value for every argument."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tritonparam
from tests.fuzz.values import lazy
from tritonparam import (
    Box,
    Constant,
    Copy,
    Fill,
    Fingerprint,
    Generator,
    Normal,
    Parameter,
    ParameterTuple,
    Plan,
    Tensor,
    TruncatedNormal,
    Uniform,
    check_replicas,
    copy_slices,
    declarations,
    deferred_init,
    derive_key,
    fingerprint,
    ledger,
    load,
    materialize,
    param_init_fn,
    save,
    set_seed,
)
from tritonparam import initializer as init
from tritonparam.checkpoint import CheckpointError
from tritonparam.dtype import as_dtype

LAYOUT = ([2], [0, -1], [1, 3], 0, True, "")


@dataclass
class Call:
    """One call.

    Attributes:
        function: What is called, with `own` first if there is one.
        arguments: A maker of a good value, by argument; each is passed by its name.
        own: What makes the object whose method it is.
        written: The arguments that the call may change where it works; `own` is one always.
        other_names: What an error may name, beside the arguments.
        errors: What it may raise beside ValueError and TypeError, as its docstring says.
    """

    function: Callable[..., Any]
    arguments: dict[str, Callable[[], Any]]
    own: Callable[[], Any] | None = None
    written: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = field(default=())


def fixed(value: Any) -> Callable[[], Any]:
    return lambda: value


def tensor() -> Tensor:
    return Tensor([[1.0, 2.0, 3.0]] * 2)


def real() -> Parameter:
    return Parameter([[1.0, 2.0, 3.0]] * 2, name="p")


def pending() -> Parameter:
    return Parameter(lazy(2, 3), name="p")


def group() -> ParameterTuple:
    return ParameterTuple([Parameter(lazy(2, 3), name="a"), Parameter([1.0], name="b")])


def setter(attribute: str) -> Callable[..., None]:
    return lambda own, **value: setattr(own, attribute, value[attribute])


def deferred() -> torch.nn.Module:
    with deferred_init():
        return torch.nn.Linear(3, 2)


@functools.cache
def folder() -> Path:
    """Where what is saved goes; it is gone at the end."""
    held = tempfile.TemporaryDirectory(prefix="fuzz-")
    folder.held = held  # type: ignore[attr-defined]
    save(torch.nn.Linear(3, 2), Path(held.name) / "m.safetensors", progress=False)
    return Path(held.name)


PLACE = {"device": fixed(None), "backend": fixed(None)}
# What an initializer says of its own arguments, of the shape and of the class that writes neither of its methods.
LAWS: dict[str, Any] = {
    "other_names": ("value", "shape", "law", "init", "name", "input_data"),
    "errors": (NotImplementedError,),
}
BOX = fixed(Box((0, 0), (1, 3)))
CALLS: dict[str, Call] = {
    "Constant": Call(Constant, {"value": fixed(1)}),
    "Uniform": Call(Uniform, {"low": fixed(0.0), "high": fixed(1.0)}),
    "Normal": Call(Normal, {"mean": fixed(0.0), "std": fixed(1.0)}),
    "TruncatedNormal": Call(
        TruncatedNormal, {"mean": fixed(0.0), "std": fixed(1.0), "low": fixed(-2.0), "high": fixed(2.0)}
    ),
    "Generator": Call(Generator, {"seed": fixed(1)}),
    "Generator.key": Call(Generator.key, {"name": fixed("w")}, lambda: Generator(1)),
    "set_seed": Call(set_seed, {"seed": fixed(0)}),
    "derive_key": Call(derive_key, {"seed": fixed(1), "name": fixed("w"), "occurrence": fixed(0)}),
    "Box": Call(Box, {"offsets": fixed((0,)), "sizes": fixed((1,))}),
    "Box.whole": Call(Box.whole, {"shape": fixed((2, 3))}),
    "Box.of": Call(Box.of, {"tensor": lambda: torch.ones(2, 3)}, BOX, other_names=("box",)),
    "Box.lies_in": Call(Box.lies_in, {"shape": fixed((2, 3))}, BOX),
    "Box.meet": Call(Box.meet, {"other": BOX}, BOX),
    "Box.minus": Call(Box.minus, {"inner": BOX}, BOX),
    "Box.within": Call(Box.within, {"outer": BOX}, BOX),
    "Box.mirrored": Call(Box.mirrored, {"shape": fixed((2, 3)), "dims": fixed((0,))}, BOX),
    "Fill": Call(
        Fill,
        {
            "out": lambda: torch.ones(1, 3),
            "law": fixed(Normal()),
            "key": fixed(1),
            "shape": fixed((2, 3)),
            "offsets": fixed((1, 0)),
        },
        other_names=("value", "box"),
    ),
    "Fill and run": Call(
        lambda out, law: Plan([Fill(out, law)]).run(),
        {"out": lambda: torch.ones(2, 3), "law": fixed(Normal())},
        written=("out",),
        other_names=("value", "box"),
    ),
    "Copy": Call(
        Copy,
        {
            "out": lambda: torch.ones(2, 3),
            "source": lambda: torch.zeros(2, 3),
            "out_box": BOX,
            "source_box": BOX,
        },
        other_names=("dtype",),
    ),
    "Copy and run": Call(
        lambda out, source: Plan([Copy(out, source)]).run(),
        {"out": lambda: torch.ones(2, 3), "source": lambda: torch.zeros(2, 3)},
        written=("out",),
        other_names=("dtype",),
    ),
    "Plan": Call(Plan, {"operations": fixed(()), "backend": fixed("numpy")}, other_names=("device",)),
    "Plan of a fill": Call(lambda backend: Plan([Fill(torch.ones(2), Normal())], backend), {"backend": fixed("numpy")}),
    "as_dtype": Call(as_dtype, {"dtype": fixed("float32")}),
    "initializer": Call(
        init.initializer,
        {"init": fixed("normal"), "shape": fixed([2, 3]), "dtype": fixed("float32"), "name": fixed("w")},
        **LAWS,
    ),
    "fans": Call(init.fans, {"shape": fixed((2, 3))}),
    "init.Constant": Call(init.Constant, {"value": fixed(1)}),
    "init.Uniform": Call(init.Uniform, {"scale": fixed(1)}),
    "init.Normal": Call(init.Normal, {"sigma": fixed(1), "mean": fixed(0)}),
    "init.TruncatedNormal": Call(
        init.TruncatedNormal, {"sigma": fixed(1), "mean": fixed(0), "a": fixed(-2), "b": fixed(2)}
    ),
    "init.XavierUniform": Call(init.XavierUniform, {"gain": fixed(1)}),
    "init.HeUniform": Call(
        init.HeUniform,
        {"negative_slope": fixed(0), "mode": fixed("fan_in"), "nonlinearity": fixed("relu")},
    ),
    "init.VarianceScaling": Call(
        init.VarianceScaling, {"scale": fixed(1), "mode": fixed("fan_in"), "distribution": fixed("uniform")}
    ),
    "init.Dirac": Call(init.Dirac, {"groups": fixed(1)}),
    "init.Orthogonal": Call(init.Orthogonal, {"gain": fixed(1)}),
    "init.Sparse": Call(init.Sparse, {"sparsity": fixed(0.5), "sigma": fixed(1)}),
    "Tensor": Call(Tensor, {"input_data": fixed([1, 2]), "dtype": fixed(None)}, other_names=("init",)),
    "lazy Tensor": Call(
        Tensor,
        {"dtype": fixed("float32"), "shape": fixed([2, 3]), "init": fixed(init.One()), "name": fixed("w")},
        **LAWS,
    ),
    "Tensor.init_data": Call(
        Tensor.init_data,
        {"slice_index": fixed(1), "shape": fixed([1, 3]), "opt_shard_group": fixed(None)} | PLACE,
        lambda: lazy(2, 3),
    ),
    "Tensor.set_dtype": Call(Tensor.set_dtype, {"dtype": fixed("float16")}, tensor),
    "Tensor.assign_value": Call(Tensor.assign_value, {"value": tensor}, tensor),
    "Tensor.astype": Call(Tensor.astype, {"dtype": fixed("float16"), "copy": fixed(True)}, tensor),
    "Tensor.item": Call(Tensor.item, {"index": fixed(1)}, tensor, errors=(IndexError,)),
    "Tensor.reshape": Call(lambda own, shape: own.reshape(shape), {"shape": fixed([3, 2])}, tensor),
    "Parameter": Call(
        Parameter,
        {
            "default_input": fixed(1.0),
            "name": fixed("w"),
            "requires_grad": fixed(True),
            "layerwise_parallel": fixed(False),
            "parallel_optimizer": fixed(True),
        },
    ),
    "Parameter.init_data": Call(
        Parameter.init_data,
        {"layout": fixed(LAYOUT), "set_sliced": fixed(False), "rank": fixed(1)} | PLACE,
        pending,
        errors=(RuntimeError,),
    ),
    "Parameter.set_data": Call(
        Parameter.set_data, {"data": tensor, "slice_shape": fixed(False), "box": fixed(None)}, real, **LAWS
    ),
    "Parameter.set_data of a box": Call(Parameter.set_data, {"data": fixed(1.0), "box": BOX}, pending, **LAWS),
    "lazy Parameter.set_data": Call(Parameter.set_data, {"data": tensor, "slice_shape": fixed(False)}, pending, **LAWS),
    "Parameter.slice": Call(Parameter.slice, {"box": BOX} | PLACE, real),
    "lazy Parameter.slice": Call(Parameter.slice, {"box": BOX} | PLACE, pending),
    "Parameter.clone": Call(Parameter.clone, {"init": fixed("same"), "dtype": fixed(None)}, real, **LAWS),
    "lazy Parameter.clone": Call(Parameter.clone, {"init": fixed("same"), "dtype": fixed(None)}, pending, **LAWS),
    "Parameter.set_param_ps": Call(
        Parameter.set_param_ps, {"init_in_server": fixed(False)}, real, errors=(RuntimeError,)
    ),
    "Parameter.set_dtype": Call(Parameter.set_dtype, {"dtype": fixed("float16")}, pending),
    **{
        f"Parameter.{name}": Call(setter(name), {name: fixed(value)}, real, errors=(RuntimeError,))
        for name, value in {
            "name": "w",
            "requires_grad": True,
            "cache_shape": [],
            "layerwise_parallel": True,
            "parallel_optimizer": True,
            "cache_enable": False,
            "comm_fusion": 1,
        }.items()
    },
    "ParameterTuple": Call(ParameterTuple, {"parameters": fixed([])}),
    "ParameterTuple.init_data": Call(ParameterTuple.init_data, PLACE, group),
    "ParameterTuple.clone": Call(
        ParameterTuple.clone, {"prefix": fixed("m"), "init": fixed("same"), "dtype": fixed(None)}, group, **LAWS
    ),
    "copy_slices": Call(
        copy_slices,
        {"dst": lambda: torch.ones(2, 3), "src": lambda: torch.zeros(2, 3), "boxes": lambda: [Box((0, 0), (1, 3))]},
        written=("dst",),
    ),
}
MODULES: dict[str, Call] = {
    "declarations": Call(declarations, {"module": deferred}),
    "ledger": Call(ledger, {"module": deferred}, errors=(RuntimeError,)),
    "materialize": Call(
        materialize,
        {
            "module": deferred,
            "seed": fixed(0),
            "dtype": fixed(None),
            "prefix": fixed(None),
            "only": fixed(None),
            "skip": fixed(None),
            "strict": fixed(True),
            "report": fixed(False),
            "check": fixed(False),
            "deadline": fixed(300.0),
        }
        | PLACE,
        written=("module",),
        other_names=("name",),
        errors=(RuntimeError,),
    ),
    "param_init_fn": Call(
        param_init_fn,
        {
            "model": deferred,
            "seed": fixed(0),
            "dtype": fixed(None),
            "strict": fixed(True),
        }
        | PLACE,
        other_names=("name", "module"),
        errors=(RuntimeError,),
    ),
}
# Without `mapping`: it may be any function, whose errors are its own.
FILES: dict[str, Call] = {
    "load": Call(
        load,
        {
            "target": lambda: torch.nn.Linear(3, 2),
            "path": lambda: folder() / "m.safetensors",
            "strict": fixed(True),
            "layouts": fixed(None),
            "rank": fixed(None),
            "seed": fixed(0),
            "dtype": fixed(None),
            "progress": fixed(False),
        }
        | PLACE,
        written=("target",),
        other_names=("parameters", "checkpoint", "exist", "shapes", "File name"),
        errors=(CheckpointError, OSError, RuntimeError),
    ),
    "save": Call(
        save,
        {
            "target": lambda: torch.nn.Linear(3, 2),
            "path": lambda: folder() / "new.safetensors",
            "max_shard_size": fixed("5GB"),
            "dtype": fixed(None),
            "overwrite": fixed(True),
            "rank": fixed(None),
            "world_size": fixed(None),
            "metadata": fixed(None),
            "progress": fixed(False),
            "deadline": fixed(300.0),
        },
        other_names=("parameters",),
        errors=(CheckpointError, OSError, RuntimeError),
    ),
}
FILES["fingerprint"] = Call(
    fingerprint,
    {
        "target": lambda: torch.nn.Linear(3, 2),
        "group": fixed(None),
        "backend": fixed("numpy"),
        "progress": fixed(False),
    },
    other_names=("parameters", "path", "source", "name", "exist", "checkpoint", "File name"),
    errors=(CheckpointError, OSError),
)
FILES["fingerprint of a file"] = Call(
    fingerprint,
    {"target": lambda: folder() / "m.safetensors", "group": fixed(None), "progress": fixed(False)},
    other_names=("parameters", "path", "source", "name", "exist", "checkpoint", "File name"),
    errors=(CheckpointError, OSError),
)
MODULES["check_replicas"] = Call(
    check_replicas,
    {"target": lambda: torch.nn.Linear(3, 2), "group": fixed(None), "backend": fixed("numpy")},
    other_names=("parameters", "source", "name"),
)
CALLS["Fingerprint.of"] = Call(Fingerprint.of, {"tensors": fixed({"w": "0" * 32})}, other_names=("digests",))
CALLS |= MODULES | FILES
# What `tritonparam.__all__` has and no call above covers: it takes no arguments, or is not a call.
WITHOUT_ARGUMENTS = {"Law", "__version__", "dtype", "get_generator", "get_seed", "initializer", "deferred_init"}
RESULTS = {"Ledger", "LoadReport", "ReplicaDifference", "SaveReport"}


def covered() -> set[str]:
    return {name.split(".")[0].split(" ")[0] for name in CALLS} | WITHOUT_ARGUMENTS | RESULTS


def uncovered() -> set[str]:
    """Names of the package, and initializers, that no call covers."""
    own = {name.removeprefix("init.") for name in CALLS if name.startswith("init.")}
    same = {"HeNormal", "XavierNormal"}  # take their arguments as HeUniform and XavierUniform do
    none = {"Identity", "Initializer", "LecunNormal", "LecunUniform", "One", "Pattern", "Zero", "initializer", "fans"}
    told = {name for name in tritonparam.__all__ if isinstance(getattr(tritonparam, name), type)}
    told = {name for name in told if issubclass(getattr(tritonparam, name), (Exception, Warning))}
    return (set(tritonparam.__all__) - covered() - told) | (set(init.__all__) - own - same - none)
