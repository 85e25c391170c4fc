"""`tritonparam init`: a checkpoint that transformers loads as its own, one line for an error, the right exit status."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import math
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("typer")

from safetensors.torch import load_file

from tritonparam import cli, fingerprint
from tritonparam.module.materialization import materialize

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = EXAMPLES / "tiny-llama.json"
TINY_GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "vocab_size": 500,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module in the working directory that builds models."""
    name = f"models_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(
        """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 50))
    nn.init.trunc_normal_(model[1].weight, std=0.02, a=-0.04, b=0.04)
    model[3].register_buffer("scratch", torch.zeros(3), persistent=False)
    return model

def build_rotary():
    model = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
    nn.init.orthogonal_(model[0].weight)
    model.register_buffer("inv_freq", 1 / 10000 ** (torch.arange(0, 8, 2).float() / 8))
    model.register_buffer("scale", torch.ones(4))
    return model

class Namespace:
    @staticmethod
    def make():
        return nn.Linear(3, 2)

def fails():
    raise RuntimeError("no\\nsuch luck")

def wrong():
    return 5

number = 7
"""
    )
    monkeypatch.chdir(tmp_path)
    return name


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def check_with_transformers(folder: Path) -> None:
    """All weights are loaded, none invented, and an untrained model's loss is that of guessing."""
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, 48), generator=generator)
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    # Logits of a freshly initialized model spread little: the loss is ln(vocabulary) up to half their variance.
    assert loss == pytest.approx(math.log(model.config.vocab_size), abs=0.5)


def test_a_llama_is_loaded_by_transformers(run: Run, tmp_path: Path) -> None:
    code, out, err = run("init", TINY, "--out", tmp_path / "llama", "--max-shard-size", "200KB")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\S+llama: 311,872 parameters, 623\.7 KB, .* GB/s, digest [0-9a-f]{64}\n", out)
    assert {value.dtype for value in load(tmp_path / "llama").values()} == {torch.bfloat16}
    assert len(list((tmp_path / "llama").glob("model-*-of-00004.safetensors"))) == 4
    check_with_transformers(tmp_path / "llama")


def test_the_files_are_those_of_save_pretrained(run: Run, tmp_path: Path) -> None:
    """Same names, dtypes and shapes of tensors, same configs, tied weights written once."""
    from transformers import GPT2Config, GPT2LMHeadModel

    (tmp_path / "any name.json").write_text(json.dumps(TINY_GPT2))
    assert run("init", tmp_path / "any name.json", "--out", tmp_path / "got")[0] == 0
    GPT2LMHeadModel(GPT2Config.from_dict(TINY_GPT2)).save_pretrained(tmp_path / "want")
    got, want = load(tmp_path / "got"), load(tmp_path / "want")
    shapes = [{name: (value.dtype, value.shape) for name, value in each.items()} for each in (got, want)]
    assert shapes[0] == shapes[1]
    assert "lm_head.weight" not in got
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "got" / name).read_text()) == json.loads((tmp_path / "want" / name).read_text())
    check_with_transformers(tmp_path / "got")


def test_values_are_those_of_materialize(run: Run, tmp_path: Path) -> None:
    """The command line and `materialize` are two ways to the same bits, in every dtype."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tritonparam.module.recording.deferred import deferred_init

    (tmp_path / "config.json").write_text(json.dumps(TINY_GPT2))
    for short, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert run("init", tmp_path, "--out", tmp_path / short, "--seed", 11, "--dtype", short)[0] == 0
        with deferred_init():
            model = GPT2LMHeadModel(GPT2Config.from_dict(TINY_GPT2))
        want = materialize(model, seed=11, device="cpu", dtype=dtype).state_dict()
        for name, value in load(tmp_path / short).items():
            assert value.dtype == dtype
            assert torch.equal(value, want[name]), name


def test_a_callable_is_built_as_declared(run: Run, tmp_path: Path, module_file: str) -> None:
    """Each tensor keeps its dtype unless --dtype is given, which leaves integers alone; no config.json is invented."""
    assert run("init", f"{module_file}:build", "--out", "a")[0] == 0
    assert run("init", f"{module_file}:build", "--out", "b", "--dtype", "float8_e4m3fn")[0] == 0
    plain, narrow = load(tmp_path / "a"), load(tmp_path / "b")
    assert set(plain) == {
        *("0.weight", "1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"),
        *("2.running_mean", "2.running_var", "2.num_batches_tracked"),
    }
    for name, value in plain.items():
        whole = name == "2.num_batches_tracked"
        assert value.dtype == (torch.int64 if whole else torch.float32)
        assert torch.equal(narrow[name].float(), (value if whole else value.to(torch.float8_e4m3fn)).float()), name
    assert not plain["0.weight"][0].any()
    assert plain["1.weight"].abs().max() <= 0.04
    assert not (tmp_path / "a" / "config.json").exists()
    assert run("init", f"{module_file}:Namespace.make", "--out", "c")[0] == 0


def test_buffers_whose_dtype_was_named_keep_it(run: Run, tmp_path: Path, module_file: str) -> None:
    """As `materialize(dtype=)` has it, and transformers when it loads or saves; a record repeats it."""
    assert run("init", f"{module_file}:build_rotary", "--out", "m", "--dtype", "bf16")[0] == 0
    want = {"inv_freq": torch.float32, "1.num_batches_tracked": torch.int64}
    got = load(tmp_path / "m")
    assert {name: value.dtype for name, value in got.items()} == {name: want.get(name, torch.bfloat16) for name in got}
    assert torch.equal(got["inv_freq"], 1 / 10000 ** (torch.arange(0, 8, 2).float() / 8))
    again = ("init", "m/tritonparam.json", "--out", "again", "--callable", f"{module_file}:build_rotary")
    assert run(*again)[0] == 0
    assert {name: value.dtype for name, value in load(tmp_path / "again").items()} == {
        name: value.dtype for name, value in got.items()
    }


def test_a_report_has_a_row_for_every_tensor(run: Run, tmp_path: Path, module_file: str) -> None:
    """On request, after the summary, with memory and time; in JSON too."""
    assert "declared" not in run("init", f"{module_file}:build_rotary", "--out", "a")[1]
    code, out, err = run("init", f"{module_file}:build_rotary", "--out", "b", "--report")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split() == ["name", "kind", "shape", "dtype", "state", "law", "key", "why"]
    assert any(line.startswith("0.weight ") and "linalg_qr" in line for line in lines)
    assert any(line.startswith("0.bias ") and "Uniform(" in line for line in lines)
    assert lines[-2].endswith("9 tensors: 9 initialized")
    assert re.fullmatch(r"9 tensors, [\d,]+ bytes, in .* s; most memory of the process: [\d,]+ bytes", lines[-1])
    row = json.loads(run("init", f"{module_file}:build_rotary", "--out", "c", "--report", "--json")[1])
    assert {each["name"]: each["why"] for each in row["ledger"]}["inv_freq"]
    assert "ledger" not in json.loads(run("init", f"{module_file}:build_rotary", "--out", "d", "--json")[1])


def test_a_terminal_shows_a_table_with_the_whole_digest(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("init", TINY, "--out", tmp_path / "m")
    assert code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines[1:])
    assert list(rows) == ["parameters", "bytes", "seconds", "GB/s", "digest", "fingerprint"]
    assert rows["digest"].strip() == json.loads((tmp_path / "m" / "tritonparam.json").read_text())["digest"]


def test_json_is_one_object_and_nothing_else(run: Run, tmp_path: Path) -> None:
    code, out, err = run("init", TINY, "--out", tmp_path / "m", "--json", "--seed", 3, "--dtype", "fp16")
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert out.count("\n") == 1
    assert (row["parameters"], row["bytes"], row["seed"], row["dtype"]) == (311872, 623744, 3, "float16")
    record = json.loads((tmp_path / "m" / "tritonparam.json").read_text())
    assert row["digest"] == record["digest"]
    assert row["fingerprint"] == record["fingerprint"] == fingerprint(tmp_path / "m").total
    assert row["files"] == ["model.safetensors"]


def test_a_record_repeats_its_run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed, dtype and sharding come from the record; where all laws are known, not even transformers is needed."""
    first = ("init", TINY, "--out", tmp_path / "a", "--seed", 9, "--dtype", "fp16", "--max-shard-size", "200KB")
    assert run(*first)[0] == 0
    monkeypatch.setitem(sys.modules, "transformers", None)
    record = tmp_path / "a" / "tritonparam.json"
    assert run("init", record, "--out", tmp_path / "b")[0] == 0
    left = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path != record}
    right = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir() if path.name != record.name}
    assert left == right
    digests = [json.loads((tmp_path / name / record.name).read_text())["digest"] for name in "ab"]
    assert digests[0] == digests[1]
    code, _, err = run("init", record, "--out", tmp_path / "c", "--seed", 10)
    assert code == 2
    assert re.fullmatch(r"error: seed is 9 in the record \S+, got 10; leave it out\n", err)
    assert run("init", record, "--out", tmp_path / "c", "--seed", 9)[0] == 0


def test_the_record_says_how_it_was_made(run: Run, tmp_path: Path) -> None:
    assert run("init", TINY, "--out", tmp_path / "m", "--seed", 4)[0] == 0
    record = json.loads((tmp_path / "m" / "tritonparam.json").read_text())
    assert (record["stream"], record["seed"], record["dtype"]) == (1, 4, "bfloat16")
    assert record["spec"] == {"config": json.loads(TINY.read_text())}
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(record["versions"]) == {"python", "tritonparam", "torch", "triton", "numpy", "transformers"}
    row = record["tensors"]["model.norm.weight"]
    assert row["initializer"] == [{"offsets": [0], "sizes": [64], "law": {"kind": "constant", "value": 1.0}}]
    assert row["dtype"] == "bfloat16"
    assert record["tensors"]["model.embed_tokens.weight"]["aliases"] == ["lm_head.weight"]


def test_an_existing_folder_is_replaced_only_on_request(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "m"
    assert run("init", TINY, "--out", out)[0] == 0
    before = (out / "model.safetensors").read_bytes()
    code, text, err = run("init", TINY, "--out", out, "--seed", 1)
    assert (code, text) == (2, "")
    assert err == f"error: {out} exists; use --overwrite to replace it\n"
    assert (out / "model.safetensors").read_bytes() == before
    assert run("init", TINY, "--out", out, "--seed", 1, "--overwrite")[0] == 0
    assert (out / "model.safetensors").read_bytes() != before


def bad_config(**values: Any) -> str:
    return json.dumps(json.loads(TINY.read_text()) | values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bad_config(architectures=["SkynetForCausalLM"]), "unknown architecture 'SkynetForCausalLM': transformers"),
        (bad_config(architectures=["pipeline"]), "unknown architecture 'pipeline'"),
        (bad_config(architectures=7), "architectures must be a list of class names, got 7"),
        (bad_config(architectures=None, model_type="skynet"), "got model_type 'skynet'"),
        (bad_config(architectures=None, model_type="clip_vision_model"), "name a class in 'architectures'"),
        (bad_config(torch_dtype="int4"), "must be one of float16 (fp16, f16, half)"),
        (bad_config(hidden_size="wide"), "bad config"),
        (bad_config(quantization_config={"quant_method": "fp8"}), "quantization_config is not supported"),
        ('{"tritonparam_record": 1}', "holds a record, where a model's config is expected"),
        ("{", "is not JSON"),
        ("[1]", "must hold a JSON object, got list"),
    ],
)
def test_a_bad_config_is_a_usage_error(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    code, out, err = run("init", tmp_path, "--out", tmp_path / "m")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["init"], 2, "SPEC is missing"),
        (["init", TINY], 2, "--out"),
        (["init", TINY, "--out", "m", "--nonsense"], 2, "--nonsense"),
        (["init", TINY, "--out", "m", "--seed", "-1"], 2, "--seed"),
        (["init", TINY, "--out", "m", "--seed", "x"], 2, "--seed"),
        (["init", TINY, "--out", "m", "--dtype", "int8"], 2, "--dtype must be a floating-point dtype, got 'int8'"),
        (["init", TINY, "--out", "m", "--max-shard-size", "5 parsecs"], 2, "--max-shard-size must be"),
        (["init", TINY, "--out", "m", "--device", "tpu9"], 2, "device must be a cpu or cuda device, got 'tpu9'"),
        (["init", TINY, "--out", "m", "--device", "cuda:77"], 1, "CUDA devices"),
        (["init", TINY, "--out", "m", "--backend", "abacus"], 2, "abacus"),
        (["init", "nowhere.json", "--out", "m"], 2, "SPEC not found: 'nowhere.json'"),
        (["init", ".", "--out", "m"], 2, "is a folder without config.json"),
        (["init", "no.such.module:f", "--out", "m"], 2, "No module named"),
        (["init", "MODULE:absent", "--out", "m"], 2, "absent"),
        (["init", "MODULE:number", "--out", "m"], 2, "must name what builds a model, a class or a function, got int"),
        (["init", "MODULE:wrong", "--out", "m"], 2, "must return a torch.nn.Module, got int"),
        (["init", "MODULE:fails", "--out", "m"], 1, "RuntimeError: no such luck"),
        (["init", TINY, "--out", "/proc/m"], 1, "/proc/m"),
        (["inspect", "nowhere"], 2, "nowhere is not a folder"),
        (["inspect", "."], 2, "has no safetensors files"),
        (["explode"], 2, "explode"),
    ],
)
def test_an_error_is_one_line(run: Run, module_file: str, arguments: list[Any], code: int, message: str) -> None:
    got, out, err = run(*(str(argument).replace("MODULE", module_file) for argument in arguments))
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("m").exists()
    assert not Path("m.partial").exists()


def test_a_backend_that_does_not_write_to_the_device_is_a_usage_error(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from tritonparam.plan.backends import triton as _triton

    monkeypatch.setattr(_triton, "is_interpreted", lambda: False)
    code, out, err = run("init", TINY, "--out", tmp_path / "m", "--device", "cpu", "--backend", "triton")
    assert (code, out) == (2, "")
    assert err == "error: --backend 'triton' writes to cuda devices only, got device 'cpu'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_the_next_run_completes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, out, err = run("init", TINY, "--out", tmp_path / "m")
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"error: {tmp_path}/m cannot be written: No space left on device \(\S+\)\n", err)
    assert not (tmp_path / "m").exists()
    assert run("init", TINY, "--out", tmp_path / "m")[0] == 0


def test_a_file_that_may_not_grow_is_one_line(run: Run, tmp_path: Path) -> None:
    """The kernel's own refusal, midway through a shard."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        code, out, err = run("init", TINY, "--out", tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, out) == (1, "")
    file = f"{tmp_path}/m.partial/weights/model.safetensors"
    assert err == f"error: {tmp_path}/m cannot be written: File too large ({file})\n"
    assert not list((tmp_path / "m.partial" / "weights").iterdir())
    assert not (tmp_path / "m").exists()


def test_a_missing_extra_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = run("init", TINY, "--out", tmp_path / "m")
    assert (code, out) == (1, "")
    assert "needs transformers, as in the extra hf: pip install it" in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tritonparam.checkpoint.errors import UsageError

    monkeypatch.setattr(sys, "argv", ["tritonparam", "init", "nowhere", "--out", str(tmp_path / "m"), "--debug"])
    with pytest.raises(UsageError, match="SPEC not found"):
        cli.main()


@pytest.mark.slow
def test_gpt2_is_loaded_by_transformers(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        "init", EXAMPLES / "gpt2.json", "--out", tmp_path / "gpt2", "--max-shard-size", "200MB", "--json"
    )
    assert code == 0
    assert json.loads(out)["parameters"] == 124_439_808
    check_with_transformers(tmp_path / "gpt2")
    code, out, _ = run("inspect", tmp_path / "gpt2", "--json")
    assert code == 0
    assert json.loads(out)["ok"]
