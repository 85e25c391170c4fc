"""SPEC, what the user names as a model: from its text to a deferred module."""

from __future__ import annotations

import importlib
import os
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tritonparam.checkpoint import RECORD_NAME, CheckpointError, UsageError, parse_dtype
from tritonparam.cli.record import RECORD_KEY, Record, parse_record, read_json
from tritonparam.module import deferred_init


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

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that it asks for: a configuration's own or float32; None, as declared, for a callable.

        Raises:
            UsageError: The configuration names a dtype that is not a float.
        """
        if self.config is None:
            return None
        name = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return parse_dtype("float32" if name == "auto" else str(name), f"the dtype in {self.text}")


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

    Raises:
        UsageError: There is nothing of the kind.
    """
    path = Path(text)
    if path.is_dir():
        found = [path / name for name in ("config.json", RECORD_NAME) if (path / name).is_file()]
        if not found:
            raise UsageError(f"SPEC {text!r} is a folder without config.json or {RECORD_NAME}")
        path = found[0]
    if path.is_file():
        values = read_json(path)
        return parse_record(values, path) if RECORD_KEY in values else Spec(text, config=values)
    if re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text):
        return Spec(text, target=text)
    raise UsageError(f"SPEC not found: {text!r} is neither a file, a folder nor package.module:callable")


def build(source: Spec, seed: int = 0) -> Built:
    """The model of `source`, deferred: nothing is allocated.

    Args:
        source: What the user named.
        seed: Of NumPy's and Python's generators while it is built.

    Raises:
        UsageError: The source names no model that can be built.
        CheckpointError: transformers is needed and missing, or the constructor failed.
    """
    if source.config is not None:
        return _build_config(source.config, source.text, seed)
    return _build_target(source.target or "", source.text, seed)


def _build_target(target: str, text: str, seed: int) -> Built:
    module_name, _, attributes = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            function = getattr(function, attribute)
    except ModuleNotFoundError as error:
        raise UsageError(f"SPEC {text!r}: {error}") from None
    except AttributeError as error:
        raise UsageError(f"SPEC {text!r}: {error}") from None
    except Exception as error:
        raise CheckpointError(f"importing {module_name} for SPEC {text!r} failed: {_reason(error)}") from error
    if not callable(function):
        raise UsageError(f"SPEC {text!r} must name a callable, got {type(function).__name__}")
    with _constructing(text, seed):
        module = function()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"SPEC {text!r} must return a torch.nn.Module, got {type(module).__name__}")
    return Built(module, lambda dtype: _hub_files(module, dtype))


def _build_config(values: dict[str, Any], text: str, seed: int) -> Built:
    transformers = _import_transformers()
    if "quantization_config" in values:
        raise UsageError(f"{text}: quantization_config is not supported; weights are initialized unquantized")
    model_class = _model_class(transformers, values, text)
    try:
        if model_class is not None and model_class.config_class is not None:
            config = model_class.config_class.from_dict(values)
        else:
            options = {key: value for key, value in values.items() if key != "model_type"}
            config = transformers.AutoConfig.for_model(values["model_type"], **options)
    except Exception as error:
        raise UsageError(f"bad config {text}: {_reason(error)}") from error
    _set_dtype(config, torch.float32)
    factory = transformers.AutoModelForCausalLM.from_config if model_class is None else model_class._from_config
    if model_class is None and type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        known = f"no causal language model in transformers {transformers.__version__}"
        raise UsageError(f"{text}: model_type {values['model_type']!r} has {known}; name a class in 'architectures'")
    with _constructing(text, seed):
        module = factory(config)
    return Built(module, lambda dtype: _hub_files(module, dtype))


def _import_transformers() -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise CheckpointError(
            f"a Hugging Face config needs transformers: pip install 'tritonparam[hf]' ({_reason(error)})"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _model_class(transformers: Any, values: dict[str, Any], text: str) -> Any:
    """The class that the configuration names; None where it names none but has a model_type."""
    names = values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{text}: architectures must be a list of class names, got {names!r}")
    if names:
        found = getattr(transformers, names[0], None)
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            have = f"transformers {transformers.__version__} has no such model"
            raise UsageError(f"{text}: unknown architecture {names[0]!r}: {have}")
        return found
    if values.get("model_type") not in transformers.CONFIG_MAPPING:
        have = "no 'architectures' and no model_type that transformers knows"
        raise UsageError(f"{text} is not a model's config: {have}, got model_type {values.get('model_type')!r}")
    return None


def _set_dtype(config: Any, dtype: torch.dtype) -> None:
    """Make `dtype` the one that `config` and the configurations inside it ask for."""
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype)
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            _set_dtype(getattr(config, name), dtype)


def _hub_files(module: Any, dtype: torch.dtype | None) -> dict[str, str]:
    """The files that `save_pretrained` puts beside the weights of a Hugging Face model; none for another module."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return {}
    _set_dtype(module.config, dtype or module.dtype)
    module.config.architectures = [type(module).__name__]
    files = {"config.json": module.config.to_json_string(use_diff=True)}
    if module.can_generate():
        files["generation_config.json"] = module.generation_config.to_json_string(use_diff=True)
    return files


@contextmanager
def _constructing(text: str, seed: int) -> Iterator[None]:
    """Defer what is built inside; what it raises becomes one error that names SPEC.

    NumPy's and Python's generators are seeded, so that a constructor that draws from them can be repeated.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the constructor.* draws from")
            with deferred_init():
                yield
    except Exception as error:
        raise CheckpointError(f"building {text} failed: {_reason(error)}") from error
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _reason(error: Exception) -> str:
    """The error's type and its message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
