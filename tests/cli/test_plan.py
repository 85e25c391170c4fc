"""`tritonparam plan` says what every rank would hold, as text, JSON and a picture; what is wrong, it says in a line."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = EXAMPLES / "tiny-llama.json"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SPEC that names a callable: layers between an embedding and a head, and an orthogonal matrix."""
    name = f"planned_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n\n\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.emb = torch.nn.Embedding(10, 8)\n"
        "        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))\n"
        "        self.turn = torch.nn.Parameter(torch.nn.init.orthogonal_(torch.empty(9, 9)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:Model"


def said(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run("plan", *arguments, "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    values: dict[str, Any] = json.loads(out)
    return values


def test_text_has_totals_the_most_loaded_rank_and_how_tensors_are_cut(run: Run) -> None:
    pytest.importorskip("transformers")
    code, out, err = run("plan", TINY, "--mesh", "dp_shard=3,tp=2", "--dtype", "fp32", "--rank", "5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{TINY}: 40 tensors, 1.2 MB, float32, on dp_shard=3,tp=2: 6 ranks"
    assert re.fullmatch(r"a rank +least +mean +most +rank 5", lines[2])
    assert any(re.fullmatch(r"launches +1 +1 +1 +1", line) for line in lines)
    assert any(re.fullmatch(r"predicted at 3,240 GB/s( +0\.07\d\d us){4}", line) for line in lines)
    assert any(line.startswith("most loaded: rank 0 (dp_shard 0, tp 0) with ") for line in lines)
    assert any(
        "of model.layers.*.self_attn.q_proj.weight: dimension 0: 64 in 6 parts, 11 on rank 0, 10 on rank 5" in line
        for line in lines
    )
    assert any(line.startswith("plan of rank 5: built here in ") for line in lines)
    embedding = next(line for line in lines if line.startswith("model.embed_tokens.weight"))
    assert embedding.split("  ")[-1] == "1 of 170 x 64"
    down = next(line for line in lines if line.startswith("model.layers.*.mlp.down_proj.weight"))
    assert "tp: dim 1, dp_shard: dim 0" in down
    assert "rotary_emb.inv_freq" in out


def test_json_has_what_the_docs_say(run: Run, built: str) -> None:
    values = said(run, built, "--mesh", "dp_replicate=2,dp_shard=3", "--rank", "1", "--bandwidth", "1000")
    documented = (
        (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8").partition("### `--json`")[2]
    )
    assert {*re.findall(r"^\| `([a-z_]+)` \|", documented, re.MULTILINE)} == values.keys()
    assert values["mesh"] == {"pp": 1, "dp_replicate": 2, "dp_shard": 3, "cp": 1, "tp": 1}
    assert (values["ranks"], values["dtype"], values["bandwidth_gb_per_s"]) == (6, None, 1000)
    whole = 4 * (10 * 8 + 4 * (64 + 8) + 81)
    assert values["whole_bytes"] == sum(values["bytes_by_rank"]) // 2 == whole
    assert values["bytes_by_rank"] == values["bytes_by_rank"][:3] * 2
    loads = values["loads"]
    assert sum(each["ranks"] for each in loads) == 6
    assert [each["bytes"] for each in loads] == sorted({*values["bytes_by_rank"]}, reverse=True)
    assert values["most_loaded"]["bytes"] == max(values["bytes_by_rank"])
    assert values["most_loaded"]["peak_bytes"] == values["most_loaded"]["bytes"] + 4 * 81
    rank = values["rank"]
    sizes = {each["name"]: sum(math.prod(box["sizes"]) for box in each["boxes"]) for each in rank["tensors"]}
    assert 4 * sum(sizes.values()) == rank["bytes"]
    assert next(each["boxes"] for each in rank["tensors"] if each["name"] == "emb.weight") == [
        {"offsets": [4, 0], "sizes": [4, 8]}
    ]
    (turn,) = (each for each in values["tensors"] if each["name"] == "turn")
    assert (turn["made_whole"], turn["cuts"]) == (True, [{"over": "dp_shard", "dim": 0, "split": 1}])


def test_dtype_is_that_of_the_config_unless_one_is_given(run: Run) -> None:
    pytest.importorskip("transformers")
    assert said(run, TINY, "--mesh", "tp=2")["dtype"] == "bfloat16"
    half, full = (
        said(run, TINY, "--mesh", "dp_shard=2", "--dtype", dtype)["whole_bytes"] for dtype in ("bf16", "fp32")
    )
    assert 1.99 < full / half < 2  # rotary frequencies stay what they are


def test_a_record_of_a_config_is_a_spec_and_one_of_a_callable_is_not_run(run: Run, built: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    assert run("init", TINY, "--out", tmp_path / "llama", "--device", "cpu", "--dtype", "fp16")[0] == 0
    record = tmp_path / "llama" / "tritonparam.json"
    assert said(run, record, "--mesh", "tp=2")["dtype"] == "float16"
    assert run("init", built, "--out", tmp_path / "model", "--device", "cpu")[0] == 0
    sys.modules.pop(built.partition(":")[0])
    code, out, err = run("plan", tmp_path / "model", "--mesh", "dp_shard=2")
    assert (code, out) == (2, "")
    assert f"is the record of a callable: name {built} itself, if you trust it" in err
    assert built.partition(":")[0] not in sys.modules


def test_rules_of_tensor_parallelism_come_from_a_file(run: Run, built: str, tmp_path: Path) -> None:
    rules = tmp_path / "tp.json"
    rules.write_text('{"emb": "embedding_rowwise", "layers.*": "rowwise", "turn": "replicate"}')
    cuts = {each["name"]: each["cuts"] for each in said(run, built, "--mesh", "tp=2", "--tp-plan", rules)["tensors"]}
    assert cuts["layers.*.weight"] == [{"over": "tp", "dim": 1, "split": 1}]
    assert (cuts["layers.*.bias"], cuts["turn"]) == ([], [])


def test_a_mesh_that_cuts_finer_than_tensors_are_is_said(run: Run, built: str) -> None:
    code, out, _ = run("plan", built, "--mesh", "dp_shard=9")
    assert code == 0
    assert "9 tensors have no part for some ranks, such as emb.weight: the mesh cuts finer than they are" in out
    assert "all ranks hold the same" in run("plan", built, "--mesh", "dp_replicate=3")[1]


def test_picture_shows_the_ranks(run: Run, built: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for mesh, ending in (("pp=2,dp_shard=4", "png"), ("dp_replicate=2", "svg")):
        path = tmp_path / f"ranks.{ending}"
        code, _, err = run("plan", built, "--mesh", mesh, "--plot", path)
        assert (code, err) == (0, "")
        assert path.stat().st_size > 5000
    assert "stage (pp)" not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mesh", "dp_shard"], "--mesh must be sizes by name, such as 'dp_shard=128,tp=8', got 'dp_shard'"),
        (["--mesh", "ep=2"], "--mesh must name dimensions among pp, dp_replicate, dp_shard, cp, tp, got 'ep'"),
        (["--mesh", "tp=0"], "tp must be from 1 to 1,048,576, got 0"),
        (["--mesh", "dp_shard=4096,tp=4096"], "at most 1,048,576 ranks"),
        (["--mesh", "tp=2", "--rank", "2"], "--rank must be an int in [0, 2), the ranks of --mesh, got 2"),
        (["--mesh", "tp=2", "--bandwidth", "-3"], "--bandwidth must be a positive number of GB/s, got -3"),
        (["--mesh", "tp=2", "--dtype", "int8"], "--dtype must be a floating-point dtype, got 'int8'"),
        (["--mesh", "tp=2", "--plot", "ranks.txt"], "--plot must end in one of"),
        (["--mesh", "tp=2", "--tp-plan", "{}/list.json"], "must hold a JSON object, got list"),
        (["--mesh", "tp=2", "--tp-plan", "{}/numbers.json"], "must hold names and styles"),
        (["--mesh", "tp=2", "--tp-plan", "{}/lost.json"], "--tp-plan must name modules or parameters of the model"),
        (["--mesh", "tp=2"], "--tp-plan must be given for tp=2, since Model comes with none"),
        (["--mesh", "pp=5"], "pp must be at most the 4 layers of layers, got 5"),
        ([], "--mesh is missing"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(
    run: Run, built: str, tmp_path: Path, arguments: list[str], text: str
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "numbers.json").write_text('{"emb": 1}')
    (tmp_path / "lost.json").write_text('{"embedding": "colwise"}')
    code, out, err = run("plan", built, *(each.format(tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1


def test_a_bad_mesh_is_told_before_the_model_is_built(run: Run) -> None:
    """What SPEC names need not even be there."""
    assert "ep" in run("plan", "nowhere:build", "--mesh", "ep=2")[2]
    assert "nowhere" in run("plan", "nowhere:build", "--mesh", "tp=2")[2]


@pytest.mark.slow
def test_llama_405b_over_1024_ranks_takes_little_memory(tmp_path: Path) -> None:
    """In a process of its own, less than 1 GB at its peak."""
    pytest.importorskip("transformers")
    from bench.end_to_end import timed

    words = [
        "-m",
        "tritonparam",
        "plan",
        str(EXAMPLES / "llama-3.1-405b.json"),
        "--mesh",
        "dp_shard=128,tp=8",
        "--json",
    ]
    assert timed([sys.executable, *words]).peak_bytes < 10**9
