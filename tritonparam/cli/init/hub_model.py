"""The model of a Hugging Face configuration, built by transformers without weights, code or names from elsewhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from tritonparam._arguments import shown
from tritonparam.checkpoint import CheckpointError, UsageError
from tritonparam.cli.init.config import MOST_PARTS, check_attributes, checked_config
from tritonparam.cli.init.no_network import no_network
from tritonparam.module import deferred_init

MOST_REASON = 500


def build_config(config: Mapping[str, Any], text: str) -> torch.nn.Module:
    """The model of `config`; inside a block of `deferred_init`, nothing is allocated.

    Args:
        config: The configuration, as in a file.
        text: What it is called in messages.

    Raises:
        UsageError: It names no model that can be built, or something outside of itself.
        CheckpointError: transformers is missing, or the constructor failed.
    """
    transformers = _import_transformers()
    values = checked_config(config, text)
    # No one chooses where these look for code, files or other machines, but what transformers is might.
    with no_network():
        model_class = _model_class(transformers, values, text)
        try:
            hub_config = _hub_config(transformers, model_class, values, text)
            set_dtype(hub_config, torch.float32)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"bad config {text}: {reason(error)}") from error
        factory = transformers.AutoModelForCausalLM.from_config if model_class is None else model_class._from_config
        if model_class is None and type(hub_config) not in transformers.AutoModelForCausalLM._model_mapping:
            known = f"no causal language model in transformers {transformers.__version__}"
            raise UsageError(
                f"{text}: model_type {values['model_type']!r} has {known}; name a class in 'architectures'"
            )
        with constructing(text), _counting():
            module: torch.nn.Module = factory(hub_config)
    return module


def _import_transformers() -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise CheckpointError(
            f"a Hugging Face config needs transformers, as in the extra hf: pip install it ({reason(error)})"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _hub_config(transformers: Any, model_class: Any, values: dict[str, Any], text: str) -> Any:
    """The configuration as an object of transformers."""
    if model_class is None:
        config_class = transformers.CONFIG_MAPPING[values["model_type"]]
        check_attributes(values, config_class, text)
        options = {key: value for key, value in values.items() if key != "model_type"}
        return transformers.AutoConfig.for_model(values["model_type"], **options)
    check_attributes(values, model_class.config_class, text)
    return model_class.config_class.from_dict(values)


def _model_class(transformers: Any, values: Mapping[str, Any], text: str) -> Any:
    """The class that the configuration names; None where it names none but has a model_type."""
    names, model_type = values.get("architectures"), values.get("model_type")
    if not (names is None or isinstance(names, list)) or not all(isinstance(name, str) for name in names or []):
        raise UsageError(f"{text}: architectures must be a list of class names, got {shown(names)}")
    if not (model_type is None or isinstance(model_type, str)):
        raise UsageError(f"{text}: model_type must be a string, got {shown(model_type)}")
    if not names:
        if model_type not in transformers.CONFIG_MAPPING:
            have = "no 'architectures' and no model_type that transformers knows"
            raise UsageError(f"{text} is not a model's config: {have}, got model_type {shown(model_type)}")
        return None
    try:
        found = getattr(transformers, names[0], None)
        config_class = getattr(found, "config_class", None)  # which raises where a package is missing
    except Exception as error:  # a module of transformers that cannot be imported here
        raise CheckpointError(f"{text}: {names[0]} cannot be imported: {reason(error)}") from error
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not is_model or config_class is None:
        have = f"transformers {transformers.__version__} has no such model"
        raise UsageError(f"{text}: unknown architecture {shown(names[0])}: {have}")
    if model_type not in (None, config_class.model_type):
        raise UsageError(
            f"{text}: architecture {names[0]!r} is of model_type {config_class.model_type!r}, got {shown(model_type)}; "
            "correct the one or the other"
        )
    return found


def set_dtype(config: Any, dtype: torch.dtype) -> None:
    """Make `dtype` the one that `config` and the configurations inside it ask for."""
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", dtype)
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            set_dtype(getattr(config, name), dtype)


def hub_files(module: Any, dtype: torch.dtype | None, text: str) -> dict[str, str]:
    """The files that `save_pretrained` puts beside the weights of a Hugging Face model; none for another module.

    Raises:
        CheckpointError: transformers cannot write its configuration.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return {}
    try:
        set_dtype(module.config, dtype or module.dtype)
        module.config.architectures = [type(module).__name__]
        files = {"config.json": module.config.to_json_string(use_diff=True)}
        if module.can_generate():
            files["generation_config.json"] = module.generation_config.to_json_string(use_diff=True)
    except Exception as error:
        raise CheckpointError(f"{text}: its config cannot be written: {reason(error)}") from error
    return files


@contextmanager
def constructing(text: str) -> Iterator[None]:
    """Defer what is built inside; what it raises becomes one error that names SPEC."""
    try:
        with deferred_init():
            yield
    except (Exception, SystemExit) as error:
        raise CheckpointError(f"building {text} failed: {reason(error)}") from error


@contextmanager
def _counting() -> Iterator[None]:
    """Stop a constructor that makes parameters without end."""
    count = 0

    def counted(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > MOST_PARTS:
            raise ValueError(f"a model of a config must have at most {MOST_PARTS:,} parameters")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def reason(error: BaseException) -> str:
    """The error's type and its message on one line, cut short."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return line if len(line) <= MOST_REASON else f"{line[:MOST_REASON]} ..."
