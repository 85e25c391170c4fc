"""Configurations from anywhere: none runs code, reaches another machine or reads a file, and a bad one is a line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
transformers = pytest.importorskip("transformers")
import huggingface_hub  # noqa: E402

from tests.cli.test_record_mutations import DROPPED, changed, in_one_line, places  # noqa: E402
from tritonparam.checkpoint import CheckpointError, UsageError  # noqa: E402
from tritonparam.cli.init import Spec, declared_entries, prepare  # noqa: E402
from tritonparam.cli.init.config import checked_config  # noqa: E402

Run = Callable[..., tuple[int, str, str]]
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES = {"image_size": 8, "patch_size": 4}
LLAVA: dict[str, Any] = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {key: value for key, value in LLAMA.items() if key != "architectures"},
    "vision_config": {"model_type": "clip_vision_model", "projection_dim": 8, **VISION, **SIZES},
    "image_token_index": 1,
}
DINO = {"model_type": "dinov2", **VISION, **SIZES, "out_indices": [1]}
DEPTH: dict[str, Any] = {
    "model_type": "depth_anything",
    "architectures": ["DepthAnythingForDepthEstimation"],
    "backbone_config": {**DINO, "reshape_hidden_states": False, "out_indices": [1, 1, 1, 1][:1]},
}
DETR: dict[str, Any] = {"model_type": "detr", "architectures": ["DetrForObjectDetection"], "d_model": 16}
TIMM: dict[str, Any] = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperModel"], "label_names": ["a"]}


@pytest.fixture(autouse=True)
def doors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the network, the hub, the cache or a package of kernels; all of them are there and refuse."""
    asked: list[str] = []

    def door(name: str) -> Callable[..., Any]:
        def refuse(*arguments: Any, **_: Any) -> Any:
            asked.append(f"{name}{arguments[:2]}")
            raise OSError(f"{name} was used")

        return refuse

    for module in ("modeling_utils", "integrations.hub_kernels"):
        monkeypatch.setattr(f"transformers.{module}.is_kernels_available", lambda *_, **__: True)
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", door("get_kernel"))
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", door("flash_attention"))
    monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", door("remote code"))
    monkeypatch.setattr("transformers.models.auto.auto_factory.get_class_from_dynamic_module", door("remote code"))
    monkeypatch.setattr("transformers.models.auto.auto_factory.resolve_trust_remote_code", door("a question"))
    for name in ("repo_exists", "hf_hub_download", "snapshot_download", "model_info", "file_exists"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, door(name))
    monkeypatch.setattr("transformers.utils.hub.cached_files", door("cached_files"))
    monkeypatch.setattr("builtins.input", door("input"))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, door(name))
    monkeypatch.setattr(socket, "getaddrinfo", door("getaddrinfo"))
    return asked


def with_values(config: dict[str, Any], where: str, values: dict[str, Any]) -> dict[str, Any]:
    """`config` with further values in itself or in the configuration inside it."""
    if not where:
        return config | values
    return config | {where: config[where] | values}


NAMES = ("org/repo", "org/repo@main:function", "kernels-community/flash-attn2", "paged|org/repo", "../x", "hf-hub:a/b")


@pytest.mark.parametrize("where", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("key", ["attn", "_attn", "experts", "_experts", "linear_attn", "_attn_internal"])
def test_no_implementation_comes_from_elsewhere(doors: list[str], tmp_path: Path, where: str, key: str) -> None:
    """Named at any depth, for a part or for all parts."""
    inner = key.endswith("_internal")
    key = f"{key.removesuffix('_internal')}_implementation{'_internal' * inner}"
    for name in NAMES:
        for value in (name, {"": name}, {"text_config": name, "": "eager"}, {"text_config": {"": name}}):
            (tmp_path / "c.json").write_text(json.dumps(with_values(LLAVA, where, {key: value})))
            with pytest.raises(UsageError, match=f"{where}.?{key} must name an implementation that transformers has"):
                prepare(str(tmp_path / "c.json"))
    assert doors == []


HONEST: dict[str, dict[str, Any]] = {
    "auto_map": {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "org/repo--evil.M", "AutoModel": "x.Y"}},
    "a path": {"_name_or_path": "/etc", "name_or_path": "org/repo", "_commit_hash": "0" * 40},
    "eager": {"_attn_implementation": "eager", "attn_implementation": "sdpa", "experts_implementation": "eager"},
    "flash": {"_attn_implementation": "flash_attention_2", "attn_implementation": "flash_attention_3"},
    "parts": {"attn_implementation": {"": "flash_attention_2", "text_config": "sdpa"}},
    "pipelines": {"custom_pipelines": {"text-generation": {"impl": "evil.P", "pt": ["AutoModel"]}}},
    "trusting": {"trust_remote_code": True},
    "no kernels": {"use_kernels": False, "kernel_config": None},
    "auto": {"torch_dtype": "auto", "dtype": "auto"},
    "null": {"torch_dtype": None, "quantization_config": None},
    "version": {"transformers_version": "4.1.0", "torchscript": False, "use_cache": True},
}


@pytest.mark.parametrize("where", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("name", HONEST)
def test_honest_configs_are_taken_and_run_nothing(doors: list[str], tmp_path: Path, where: str, name: str) -> None:
    """What is common in files on the hub changes no tensor; what only loading reads is not written either."""
    want = [(each.name, each.shape, each.dtype) for each in declared_entries(Spec("x", config=LLAVA))]
    (tmp_path / "c.json").write_text(json.dumps(with_values(LLAVA, where, HONEST[name])))
    job = prepare(str(tmp_path / "c.json"))
    assert [(each.name, each.shape, each.dtype) for each in job.entries] == want
    assert job.settings["spec"] == {"config": with_values(LLAVA, where, HONEST[name])}
    assert not any(word in job.settings["files"]["config.json"] for word in ("auto_map", "evil", "flash", "trust"))
    assert doors == []


def test_an_unnamed_architecture_takes_no_code_from_a_map(doors: list[str], tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "architectures"}
    (tmp_path / "c.json").write_text(json.dumps(config | HONEST["auto_map"] | HONEST["a path"]))
    assert prepare(str(tmp_path / "c.json")).parameters
    assert doors == []


ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "kernels": (LLAMA | {"use_kernels": True}, "use_kernels"),
    "all kernels": (LLAMA | {"allow_all_kernels": True}, "allow_all_kernels"),
    "kernel config": (LLAMA | {"kernel_config": {"RMSNorm": "org/repo:X"}}, "kernel_config"),
    "quantized": (LLAMA | {"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    "compressed": (LLAMA | {"compression_config": {"quant_method": "x"}}, "compression_config"),
    "quantized part": (with_values(LLAVA, "text_config", {"quantization_config": {}}), "text_config.quantization"),
    "backbone": ({**DEPTH, "backbone_config": None, "backbone": "org/repo"}, "backbone"),
    "backbone of timm": ({**DETR, "backbone": "hf-hub:org/repo"}, "backbone"),
    "backbone file": ({**DETR, "backbone": "local-dir:/etc"}, "backbone"),
    "inner backbone": (
        {**DEPTH, "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:a/b"}},
        "backb",
    ),
    "timm": (TIMM | {"architecture": "hf-hub:org/repo"}, "architecture"),
    "timm file": (TIMM | {"architecture": "x", "model_args": {"checkpoint_path": "/x"}}, "checkpoint_path"),
    "timm weights": (TIMM | {"architecture": "x", "model_args": {"pretrained": True}}, "pretrained"),
    "timm options": (
        {**DETR, "backbone": "x", "backbone_kwargs": {"pretrained_cfg": {"file": "/x"}}},
        "pretrained_cfg",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_lies_elsewhere_is_refused_by_name(doors: list[str], tmp_path: Path, name: str) -> None:
    config, key = ELSEWHERE[name]
    (tmp_path / "c.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=rf"c\.json: .*{key}"):
        prepare(str(tmp_path / "c.json"))
    assert doors == []


def test_a_backbone_without_its_values_asks_nobody(doors: list[str], tmp_path: Path) -> None:
    """A plain name may be one of timm's or of the hub: transformers would ask the hub."""
    (tmp_path / "c.json").write_text(json.dumps({**DEPTH, "backbone_config": None, "backbone": "resnet50"}))
    with pytest.raises(CheckpointError):
        prepare(str(tmp_path / "c.json"))
    assert [each for each in doors if not each.startswith("repo_exists")] == []


def test_a_note_of_where_a_backbone_came_from_is_no_reason(doors: list[str]) -> None:
    noted = {**DEPTH, "backbone": "facebook/dinov2-small", "use_pretrained_backbone": True}
    values = checked_config(noted, "c.json")
    assert values["backbone"] == "facebook/dinov2-small"
    assert values["use_pretrained_backbone"] is False
    assert noted["use_pretrained_backbone"] is True


def test_the_network_is_closed_to_this_thread_only_while_a_config_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever key a later transformers looks at: the socket itself refuses, and says why."""
    monkeypatch.undo()

    def phone(config: Any, **_: Any) -> Any:
        with socket.socket() as phone:
            phone.settimeout(5)
            phone.connect(("127.0.0.1", 9))

    monkeypatch.setattr(transformers.LlamaForCausalLM, "_from_config", phone)
    with pytest.raises(CheckpointError, match="a config must not ask the network for anything"):
        prepare_values(LLAMA)
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def prepare_values(config: dict[str, Any]) -> Any:
    return declared_entries(Spec("c.json", config=config))


@pytest.mark.parametrize(
    "key",
    ["attribute_map", "to_dict", "__class__", "__dict__", "get_text_config", "sub_configs", "update", "validate"],
)
def test_no_key_takes_the_place_of_code(key: str) -> None:
    for config in (LLAMA, {key: value for key, value in LLAMA.items() if key != "architectures"}):
        with pytest.raises(UsageError, match=f"{key} is no"):
            prepare_values(config | {key: {"x": "_attn_implementation"}, "x": "org/repo"})


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [("GPT2LMHeadModel", "llama"), ("LlamaForCausalLM", "mistral"), ("LlamaForCausalLM", "skynet")],
)
def test_an_architecture_of_another_model_is_refused(architecture: str, model_type: str) -> None:
    with pytest.raises(UsageError, match=f"architecture '{architecture}' is of model_type .* got '{model_type}'"):
        prepare_values(LLAMA | {"architectures": [architecture], "model_type": model_type})
    assert prepare_values({key: value for key, value in LLAMA.items() if key != "model_type"})


@pytest.mark.parametrize("name", ["PreTrainedModel", "pipeline", "Trainer", "no", "os", "__builtins__", ""])
def test_an_architecture_is_a_model_of_transformers(name: str) -> None:
    with pytest.raises(UsageError, match="unknown architecture"):
        prepare_values(LLAMA | {"architectures": [name]})


def test_infinities_are_taken_as_transformers_writes_them(run: Run, tmp_path: Path) -> None:
    """Bare, as older versions wrote them, or in an object; the record has strict JSON, and repeats."""
    mamba = {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "vocab_size": 32, "hidden_size": 32}
    mamba |= {"num_hidden_layers": 1, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2}
    bare = json.dumps(mamba | {"time_step_limit": [0.0, math.inf]})
    boxed = json.dumps(mamba | {"time_step_limit": [0.0, {"__float__": "Infinity"}]})
    digests = set()
    for name, text in {"bare": bare, "boxed": boxed}.items():
        (tmp_path / "c.json").write_text(text)
        code, out, err = run("init", tmp_path / "c.json", "--out", tmp_path / name, "--json")
        assert (code, err) == (0, "")
        digests.add(json.loads(out)["digest"])
        record = (tmp_path / name / "tritonparam.json").read_text()
        values = json.loads(record, parse_constant=pytest.fail)
        assert values["spec"]["config"]["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert written["time_step_limit"][1] in (math.inf, {"__float__": "Infinity"})
        assert run("init", tmp_path / name / "tritonparam.json", "--out", tmp_path / f"{name} again")[0] == 0
    assert len(digests) == 1


VALUES: tuple[Any, ...] = (
    *(DROPPED, None, True, -1, 0, 3, 10**6 + 1, 2**40, 2**62, 2**63, 2**90, 1.5, -0.5, math.nan, math.inf),
    *("", "x", "load", "\0", "é" * 3000, [], {}, [[]], [None], [-1], {"x": 1}, {"__float__": "NaN"}, ["x"] * 70),
)


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_a_malformed_config_is_one_line(run: Run, tmp_path: Path, number: int) -> None:
    """Each value in turn, in a configuration and in one inside: a model of it, or a line that says what is wrong."""
    config = with_values(LLAVA, "text_config", {"dtype": "bfloat16", "rope_theta": 1e4, "hidden_act": "silu"})
    config |= {"dtype": "float32", "tie_word_embeddings": False, "id2label": {"0": "x"}}
    for path in places(config):
        (tmp_path / "c.json").write_text(json.dumps(changed(config, path, VALUES[number])))
        try:
            prepare(str(tmp_path / "c.json"))
        except CheckpointError as error:
            line = " ".join(str(error).split())
            in_one_line(error.exit_code, "", f"error: {line}\n")
        assert [each.name for each in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_labels", "n_layer", "num_experts", "depth"])
def test_a_count_without_end_is_refused_at_once(key: str) -> None:
    for value in (10**9, 2**62, math.inf):
        with pytest.raises(UsageError, match=f"{key} must be at most 1,000,000"):
            prepare_values(LLAMA | {key: value})


def test_parameters_without_end_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers may be counted under any name."""
    monkeypatch.setattr("tritonparam.cli.init.hub_model.MOST_PARTS", 20)
    with pytest.raises(CheckpointError, match="must have at most 20 parameters"):
        prepare_values(LLAMA | {"num_hidden_layers": 50})


def test_an_absurdly_large_model_is_deferred_all_the_same(tmp_path: Path) -> None:
    sizes = {"vocab_size": 10**9, "hidden_size": 2**20, "intermediate_size": 2**22, "num_attention_heads": 2**13}
    (tmp_path / "c.json").write_text(json.dumps(LLAMA | sizes | {"num_key_value_heads": 2**10}))
    assert prepare(str(tmp_path / "c.json")).nbytes > 10**15


def test_no_key_of_any_config_reaches_outside(doors: list[str]) -> None:
    """Each key of each class that may be a string, and some that none has, made the name of a repository."""
    from transformers import CONFIG_MAPPING

    kinds = sorted(CONFIG_MAPPING.keys())
    further = ("backbone", "architecture", "auto_map", "vocab_file", "tokenizer", "checkpoint", "_name_or_path")
    tried = 0
    for kind in kinds if os.environ.get("TRITONPARAM_ALL") else kinds[::25]:
        config_class = CONFIG_MAPPING[kind]
        try:
            values = config_class().to_dict()
        except Exception:  # some have no values of their own
            continue
        for key in {key for key, value in values.items() if value is None or isinstance(value, str)} | {*further}:
            tried += 1
            with contextlib.suppress(Exception):  # most are no value of that key
                config_class.from_dict(checked_config(values | {"backbone_config": None, key: "org/repo"}, "c.json"))
        assert doors == [], kind
    assert tried > 300
