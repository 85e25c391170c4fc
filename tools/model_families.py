"""Models to count, by family: of each a name, and ways to build it; the first that torch can build is taken."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from tools.model_idioms import IDIOMS

_MOST_ARGUMENTS = 16

Rules = Iterable[tuple[str, Callable[[int], int]]]
Build = Callable[[], torch.nn.Module]
Choices = Callable[[], Iterator[Build]]


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one origin.

    Attributes:
        title: What it is called.
        packages: What has to be installed, other than torch.
        models: Lists the ways to build each model, by its name.
    """

    title: str
    packages: tuple[str, ...]
    models: Callable[[], dict[str, Choices]]

    def missing(self) -> list[str]:
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def _only(build: Build) -> Choices:
    return lambda: iter([build])


def _idioms() -> dict[str, Choices]:
    return {name: _only(build) for name, build in IDIOMS.items()}


def _torch_nn() -> dict[str, Choices]:
    """Every module of torch's own list, with the first sets of arguments for its constructor."""
    infos = importlib.import_module("torch.testing._internal.common_modules").module_db
    models: dict[str, Choices] = {}
    for info in infos:
        seen = set()
        for n, made in enumerate(_module_inputs(info)):
            arguments = repr((made.constructor_input.args, made.constructor_input.kwargs))
            if arguments not in seen and len(seen) < _MOST_ARGUMENTS:
                seen.add(arguments)
                models[f"{info.name.removeprefix('nn.')} {n}"] = _only(lambda info=info, n=n: _module(info, n))
    return models


def _module_inputs(info: Any) -> list[Any]:
    options = {"device": "cpu", "dtype": torch.float32, "requires_grad": False, "training": True}
    return list(info.module_inputs_func(info, **options))


def _module(info: Any, n: int) -> torch.nn.Module:
    given = _module_inputs(info)[n].constructor_input
    return info.module_cls(*given.args, **given.kwargs)


# What makes a config small: the first pattern that an attribute's name matches, and what it becomes.
_TINY: list[tuple[str, Callable[[int], int]]] = [
    (
        r"(pad|bos|eos|sep|cls|mask|decoder_start|start|end|image|audio|video|speech)\w*_(token_)?ids?$",
        lambda n: min(n, 3),
    ),
    (r"vocab_size|num_embeddings|codebook_size|num_codes", lambda n: min(n, 120)),
    (
        r"(num|n)_(hidden_)?layers?$|\w*_layers$|^n_layer|layers?_num|depth$|num_blocks|num_stages?$",
        lambda n: min(n, 2),
    ),
    (r"(key_value|kv)_heads|num_kv|n_head_kv", lambda n: min(n, 2)),
    (r"heads?$|attention_heads", lambda n: min(n, 4)),
    (r"head_dim|d_kv|head_size|kv_channels", lambda n: min(n, 8)),
    (r"experts_per_tok|num_selected|topk$|top_k$", lambda n: min(n, 2)),
    (r"experts?$|num_local_experts", lambda n: min(n, 4)),
    (r"intermediate|ffn|d_ff|n_inner|mlp_dim|feed_forward_size", lambda n: min(n, 64)),
    (r"max_position|n_positions|max_seq|n_ctx|max_source|max_target|seq_len", lambda n: min(n, 128)),
    (
        r"hidden_size|d_model|embed_dim|n_embd|_dim$|^dim$|width$|projection_size|embedding_size|hidden_dim",
        lambda n: min(n, 32),
    ),
]
_LAYERS_ONLY: Rules = [_TINY[2], _TINY[1]]


def _transformers() -> dict[str, Choices]:
    """Every class that the auto classes know, with the config of its model type."""
    _import_torchvision()
    import transformers
    import transformers.modeling_utils
    from transformers.models.auto import modeling_auto

    transformers.logging.set_verbosity_error()
    pairs = {}
    for attribute in sorted(vars(modeling_auto)):
        if attribute.startswith("MODEL_") and attribute.endswith("_MAPPING_NAMES"):
            for model_type, names in getattr(modeling_auto, attribute).items():
                for name in [names] if isinstance(names, str) else names:
                    pairs.setdefault(name, model_type)
    by_type = sorted(pairs.items(), key=lambda pair: (pair[1], pair[0]))
    return {f"{model_type} {name}": lambda t=model_type, n=name: _small(t, n) for name, model_type in by_type}


def _small(model_type: str, name: str) -> Iterator[Build]:
    import transformers

    for rules in (_TINY, _LAYERS_ONLY, ()):

        def build(rules: Rules = rules) -> torch.nn.Module:
            config = transformers.CONFIG_MAPPING[model_type]()
            _shrink(config, rules)
            return getattr(transformers, name)(config)

        yield build


def _shrink(config: Any, rules: Rules, depth: int = 0) -> None:
    """Make the numbers in a config, and in the configs in it, as small as the rules say."""
    for name, value in list(vars(config).items()):
        if type(value) is int and value > 0:
            for pattern, small in rules:
                if re.search(pattern, name):
                    with contextlib.suppress(Exception):
                        setattr(config, name, small(value))
                    break
        elif hasattr(value, "to_dict") and hasattr(value, "__dict__") and depth < 4:
            _shrink(value, rules, depth + 1)


_SMALL_NAMES = ("test_", "atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "_050", "18", "small", "_s", "b0", "a0")


def _timm() -> dict[str, Choices]:
    """One model of every file of timm: of those with the smallest names the first that is small."""
    _import_torchvision()
    import timm

    files: dict[str, list[str]] = {}
    for name in timm.list_models():
        files.setdefault(timm.models.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)

    def rank(name: str) -> int:
        return next((n for n, part in enumerate(_SMALL_NAMES) if part in name), len(_SMALL_NAMES))

    def choices(names: list[str]) -> Iterator[Build]:
        for name in sorted(names, key=rank)[:6]:
            yield lambda name=name: timm.create_model(name, pretrained=False)

    return {file: lambda names=names: choices(names) for file, names in sorted(files.items())}


def _import_torchvision() -> None:
    """Import it, if it is installed, also a build for CUDA beside a torch without it.

    That one cannot load its compiled operators, and then misses their names. No constructor calls them.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        _KEPT.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_KEPT: list[Any] = []

FAMILIES = {
    "idioms": Family("hand-written idioms", (), _idioms),
    "torch.nn": Family("torch.nn", ("expecttest",), _torch_nn),
    "transformers": Family("transformers", ("transformers",), _transformers),
    "timm": Family("timm", ("timm", "torchvision"), _timm),
}


def selection(family: str, every: int) -> dict[str, Choices]:
    """Every nth model of a family."""
    return dict(itertools.islice(FAMILIES[family].models().items(), 0, None, every))
