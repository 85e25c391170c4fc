"""SPEC, what the user names as a model: from its text to a deferred module."""

from __future__ import annotations

import importlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tritonparam.checkpoint import RECORD_NAME, CheckpointError, UsageError, not_fetched, parse_dtype, parse_json_object
from tritonparam.cli.init.config import RUNS_CODE, as_config, checked_config, keys_of, special_number
from tritonparam.cli.init.hub_model import build_config, constructing, hub_files, reason
from tritonparam.cli.options import path as path_of
from tritonparam.cli.record import CALLABLE, RECORD_KEY, Record, parse_record, read_json

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Spec:
    """Where a model comes from: a Hugging Face configuration or a callable.

    Attributes:
        text: SPEC as the user wrote it, for messages.
        config: The configuration, or None.
        target: `package.module:callable`, or None.
    """

    text: str
    config: dict[str, Any] | None = None
    target: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What a record keeps of it: everything needed to build the model again."""
        return {"config": self.config} if self.target is None else {"callable": self.target}

    @classmethod
    def from_json(cls, values: dict[str, Any], text: str) -> Spec:
        """The source that `to_json` described."""
        return cls(text, values.get("config"), values.get("callable"))

    @classmethod
    def read(cls, path: Path) -> Spec:
        """The configuration in the file at `path`.

        Raises:
            UsageError: The file cannot be read or holds something else.
        """
        return cls(str(path), config=as_config(read_json(path, constant=special_number), path))

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that it asks for: a configuration's own or float32; None, as declared, for a callable.

        Raises:
            UsageError: The configuration names a dtype that is not a float.
        """
        if self.config is None:
            return None
        names = (self.config.get("dtype"), self.config.get("torch_dtype"))
        name = next((name for name in names if name not in (None, "auto")), "float32")
        return parse_dtype(str(name)[:100], f"the dtype in {self.text}")


@dataclass(frozen=True)
class Built:
    """A deferred module and the functions that only its library has.

    Attributes:
        module: The module; it holds no data.
        files: Makes the text of the files that belong beside the weights, given their dtype.
    """

    module: torch.nn.Module
    files: Callable[[torch.dtype | None], dict[str, str]] = field(default=lambda _: {})


def read_spec(text: str) -> Spec | Record:
    """What SPEC names: a configuration or a folder with one, `package.module:callable`, or an earlier run's record.

    A file called config.json is a configuration, whatever it holds. A folder is the one with its config.json, and
    without one it is its record.

    Raises:
        UsageError: There is nothing of the kind, or its file is not what it has to be.
    """
    path = path_of("SPEC")(text)
    try:
        if path.is_dir():
            found = [path / name for name in (CONFIG_NAME, RECORD_NAME) if (path / name).exists()]
            if not found:
                raise UsageError(f"SPEC {text!r} is a folder without {CONFIG_NAME} or {RECORD_NAME}")
            path = found[0]
        is_file = path.exists()
    except OSError as error:
        raise UsageError(f"SPEC {text!r} cannot be read: {error.strerror}") from None
    if is_file and path.suffix == ".py":
        raise UsageError(f"SPEC must name what builds a model in {text}, as {path.stem}:NAME, got {text!r} alone")
    if is_file:
        return _read_file(path)
    if CALLABLE.fullmatch(text):
        return Spec(text, target=text)
    more = not_fetched(text, "its config.json")
    raise UsageError(f"SPEC not found: {text!r} is neither a file, a folder nor package.module:callable{more}")


def _read_file(path: Path) -> Spec | Record:
    """The configuration or, unless the file's name forbids it, the record at `path`."""
    values = read_json(path, constant=special_number)
    if path.name == CONFIG_NAME or (path.name != RECORD_NAME and RECORD_KEY not in values):
        return Spec(str(path), config=as_config(values, path))
    record = parse_record(values, path)
    if CONFIG_NAME not in record.settings["files"]:
        return record
    beside = parse_json_object(record.settings["files"][CONFIG_NAME].encode(), constant=special_number)
    if RUNS_CODE.isdisjoint(keys_of(beside)):
        checked_config(beside, str(path))
        return record
    raise UsageError(
        f"{path}: its {CONFIG_NAME} must name no code from elsewhere, which `init` never writes; take out "
        f"{', '.join(sorted(RUNS_CODE & keys_of(beside)))}"
    )


def build(source: Spec, seed: int = 0) -> Built:
    """The model of `source`, deferred: nothing is allocated.

    Args:
        source: What the user named.
        seed: Of NumPy's and Python's generators while it is built.

    Raises:
        UsageError: The source names no model that can be built.
        CheckpointError: transformers is needed and missing, or the constructor failed.
    """
    with _seeded(seed):
        if source.config is not None:
            module = build_config(source.config, source.text)
        elif source.target is not None:
            module = _build_target(source.target, source.text)
        else:
            raise UsageError(f"{source.text} does not say which model it is of")
    return Built(module, lambda dtype: hub_files(module, dtype, source.text))


def model_of(text: str) -> tuple[torch.nn.Module, torch.dtype | None]:
    """The deferred model that SPEC names, and the dtype that it asks for; None for each tensor's own.

    Raises:
        UsageError: As for `read_spec` and `build`; or SPEC is the record of a callable, which a record does not start.
        CheckpointError: As for `build`.
    """
    source = read_spec(text)
    if isinstance(source, Spec):
        return build(source).module, source.dtype
    made = Spec.from_json(source.settings["spec"], text)
    if made.target is not None:
        raise UsageError(f"SPEC {text!r} is the record of a callable: name {made.target[:200]} itself, if you trust it")
    dtype = source.settings["dtype"]
    return build(made, int(source.settings["seed"])).module, None if dtype is None else parse_dtype(dtype)


def _build_target(target: str, text: str) -> torch.nn.Module:
    module_name, _, attributes = target.partition(":")
    if os.getcwd() not in sys.path:  # only here: no file in it may stand in for a package that nobody named
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            function = getattr(function, attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise CheckpointError(f"importing {module_name} for SPEC {text!r} failed: {error}") from None
        raise UsageError(f"SPEC {text!r}: {error}") from None
    except AttributeError as error:
        raise UsageError(f"SPEC {text!r}: {error}") from None
    except (Exception, SystemExit) as error:
        raise CheckpointError(f"importing {module_name} for SPEC {text!r} failed: {reason(error)}") from error
    if not callable(function) or isinstance(function, torch.nn.Module):
        raise UsageError(
            f"SPEC {text!r} must name what builds a model, a class or a function, got {type(function).__name__}"
        )
    with constructing(text):
        module = function()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"SPEC {text!r} must return a torch.nn.Module, got {type(module).__name__}")
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's and Python's generators inside, so that a constructor that draws from them can be repeated."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the constructor.* draws from")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
