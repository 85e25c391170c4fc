"""What a Hugging Face configuration may say: values of a model, and nothing that runs code or is read from elsewhere.

A configuration is data that somebody else wrote, and transformers acts on some of it: it loads attention kernels from
the hub, asks the hub for backbones, or lets timm read files. None of that changes which tensors a model has. Such keys
are refused where they name something outside, and left out where they do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonparam._arguments import shown
from tritonparam.checkpoint import RECORD_NAME, UsageError
from tritonparam.cli.record import RECORD_KEY

_MOST_DEPTH = 48
MOST_PARTS = 1_000_000  # layers, labels and the like: each becomes objects, whatever the size of its tensors
_FLOAT = "__float__"  # how transformers writes a number that JSON has not
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_IMPLEMENTATION = re.compile(r".*_implementation(_internal)?")
_KNOWN_IMPLEMENTATION = re.compile(r"[A-Za-z0-9_|]*")  # eager, sdpa, flash_attention_2, paged|sdpa; no repository
_REMOTE = ("use_kernels", "allow_all_kernels")
_HARMLESS = ("auto_map", "custom_pipelines", "code_revision", "trust_remote_code", *_REMOTE)  # where a model is built
_READ_BY_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
RUNS_CODE = frozenset(("auto_map", "custom_pipelines", "trust_remote_code"))
_COUNTS = re.compile(r"(.*_)?(layers?|labels|blocks|experts|depth)")
_LABELS = ("id2label", "label2id")  # whose keys are anybody's words


def special_number(name: str) -> dict[str, str]:
    """What transformers writes for Infinity, -Infinity and NaN, and strict JSON can hold.

    Examples:
        >>> special_number("Infinity")
        {'__float__': 'Infinity'}
    """
    return {_FLOAT: name}


def as_config(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """`values`, read from `path`, if it is a configuration and no record.

    Raises:
        UsageError: It is a record.
    """
    if RECORD_KEY in values:
        raise UsageError(
            f"{path} holds a record, where a model's config is expected; to repeat a run, name its {RECORD_NAME}"
        )
    return values


def checked_config(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A copy of `config` to build a model from, without what only loading takes.

    Args:
        config: The configuration, as in a file.
        text: What it is called in messages.

    Raises:
        UsageError: It names something outside of itself, or has a value that no model has.
    """
    copy: dict[str, Any] = _copied(config, text, "", 0)
    for where, values in _objects(copy, ""):
        _check_object(values, where, text)
    return copy


def _objects(values: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object in `values`, itself included, with the keys that lead to it; labels are not looked into."""
    if isinstance(values, dict):
        yield where, values
        for key, value in list(values.items()):
            if key not in _LABELS:
                yield from _objects(value, f"{where}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from _objects(value, where)


def keys_of(config: Mapping[str, Any]) -> set[str]:
    """The keys of a configuration that say something, at any depth."""
    return {key for _, values in _objects(dict(config), "") for key, value in values.items() if value}


def _copied(value: Any, text: str, where: str, depth: int) -> Any:
    if depth > _MOST_DEPTH:
        raise UsageError(f"{text} must not be nested more than {_MOST_DEPTH} deep, as a record has to hold it")
    if isinstance(value, dict):
        if value.keys() == {_FLOAT} and value[_FLOAT] in _FLOATS:
            return _FLOATS[value[_FLOAT]]
        return {key: _copied(each, text, f"{where}{key}.", depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_copied(each, text, where, depth + 1) for each in value]
    if type(value) is int and abs(value) >= 2**63:
        raise UsageError(f"{text}: {where.removesuffix('.')} must be below 2**63, got {shown(value)}")
    return value


def _check_object(values: dict[str, Any], where: str, text: str) -> None:
    """Refuse what an object in a configuration must not say, and leave out what it need not."""

    def refuse(key: str, why: str) -> UsageError:
        return UsageError(f"{text}: {where}{key} {why}, got {shown(values[key])}")

    for key, value in list(values.items()):
        if key.startswith("__"):
            raise refuse(key, "is no key of a config")
        if _IMPLEMENTATION.fullmatch(key):
            if not (value is None or isinstance(value, (str, dict))):
                raise refuse(key, "must be a name or null")
            if not all(_KNOWN_IMPLEMENTATION.fullmatch(each) for each in _strings(value)):
                raise refuse(key, "must name an implementation that transformers has itself, and no repository")
            del values[key]
        elif key in _REMOTE and value not in (None, False):
            raise refuse(key, "asks for code from elsewhere, which is not run here; leave it out")
        elif key == "kernel_config" and value is not None:
            raise refuse(key, "asks for kernels from elsewhere, which are not run here; leave it out")
        elif key in ("quantization_config", "compression_config") and value is not None:
            raise UsageError(f"{text}: {where}{key} is not supported; weights are initialized unquantized")
        elif key in (*_HARMLESS, "kernel_config", "quantization_config", "compression_config") or (
            key in ("dtype", "torch_dtype") and value in (None, "auto")
        ):
            del values[key]
        elif key == "use_pretrained_backbone" and value is not None:
            values[key] = False
        elif key in ("backbone", "architecture") and isinstance(value, str):
            if ":" in value or ("/" in value and _is_looked_up(values, key)):
                raise refuse(key, "must not be read from elsewhere; give its values as backbone_config")
        elif key in ("model_args", "backbone_kwargs") and isinstance(value, dict):
            for option in _READ_BY_TIMM:
                if value.get(option):
                    raise refuse(key, f"must not have {option}, which reads files")
        elif _COUNTS.fullmatch(key) and type(value) in (int, float) and not value <= MOST_PARTS:
            raise refuse(key, f"must be at most {MOST_PARTS:,}")


def _is_looked_up(values: Mapping[str, Any], key: str) -> bool:
    """Whether a name with a slash is more than a note of where `backbone_config` came from."""
    return key == "architecture" or values.get("model_type") == "timm_backbone" or not values.get("backbone_config")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def check_attributes(config: Mapping[str, Any], config_class: type, text: str) -> None:
    """Refuse keys that would take the place of a method, or of what all configurations of a class share.

    Raises:
        UsageError: There is such a key.
    """
    for where, values in _objects(dict(config), ""):
        for key, value in values.items():
            shared: Callable[..., object] | object = getattr(config_class, key, None)
            if callable(shared) or key in ("attribute_map", "sub_configs", "sub_configs_defaults", "keys_to_ignore"):
                raise UsageError(f"{text}: {where}{key} is no value of a model, got {shown(value)}")
