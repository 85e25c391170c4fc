"""What people call is timed beside its peers, in processes, and no time counts unless the tensors are the same."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from bench import end_to_end, rows
from bench.cases import llama_shapes
from bench.end_to_end import INIT, OPS, OURS, PEER, Job, Row, Run, jobs, line, main, measure, timed
from bench.rows import environment
from bench.ways import CONSTRUCT, LOAD, WAYS, Asked, take
from tritonparam import fingerprint

LLAMA_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")


def test_a_run_is_timed_from_start_to_end_with_its_own_peak_of_memory() -> None:
    quick = timed([sys.executable, "-c", ""])
    slow = timed([sys.executable, "-c", "import time; x = bytearray(b'1') * 200_000_000; time.sleep(0.5)"])
    assert slow.seconds > 0.5
    assert slow.peak_bytes > quick.peak_bytes + 190_000_000


def test_a_run_that_fails_is_an_error_that_says_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="ended with 1: it broke"):
        timed([sys.executable, "-c", "print('it broke'); raise SystemExit(3)"])


def test_the_models_are_those_that_are_spoken_of() -> None:
    gpt2, llama, large = jobs()
    assert (gpt2.dtype, llama.dtype, large.dtype) == ("float32", "bfloat16", "bfloat16")
    config = llama.config
    embedding = config["vocab_size"] * config["hidden_size"]
    heads = config["head_dim"] * (config["num_attention_heads"] + config["num_key_value_heads"]) * 2
    layer = config["hidden_size"] * (heads + 3 * config["intermediate_size"] + 2)
    assert embedding + config["num_hidden_layers"] * layer + config["hidden_size"] == 1_235_814_400
    assert config["rope_scaling"]["rope_type"] == "llama3"
    whole = large.config
    shapes = llama_shapes(*(whole[name] for name in LLAMA_SIZES))
    assert sum(map(prod, shapes)) == 6_738_415_616
    assert [job.name for job in jobs(quick=True)] == [f"{job.name} cut down" for job in jobs()]


def copies_of(folders: Mapping[str, Path]) -> Callable[..., list[str]]:
    """Writers that copy a folder."""

    def command(provider: str, config: Path, out: Path, dtype: str, device: str) -> list[str]:
        code = "import shutil, sys; shutil.copytree(*sys.argv[1:])"
        return [sys.executable, "-S", "-c", code, str(folders[provider]), str(out)]

    return command


def checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], digest: str = "0") -> Path:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "tritonparam.json").write_text(json.dumps({"digest": digest}))
    return folder


def test_rows_say_who_wrote_what_in_which_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = checkpoint(tmp_path / "ours", {"w": torch.ones(3, 5)})
    peer = checkpoint(tmp_path / "peer", {"w": torch.zeros(3, 5)})
    monkeypatch.setattr(end_to_end, "command", copies_of({OURS: ours, PEER: peer}))
    words = ["--quick", "--rounds", "3", "--only", "3.2-1b", "--op", "init", "--out", str(tmp_path / "rows")]
    assert main(words) == 0
    (path,) = (tmp_path / "rows").glob("*.csv")
    found = rows.read_as(Row, path)
    assert [(row.op, row.provider) for row in found] == [(INIT, OURS), (INIT, PEER)]
    for row in found:
        assert (row.bytes, row.rounds, row.workload) == (60, 3, "llama-3.2-1b cut down")
        assert 0 < row.least_s <= row.median_s <= row.most_s
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "other", [{"v": torch.ones(3, 5)}, {"w": torch.ones(5, 3)}, {"w": torch.ones(3, 5).half()}], ids=str
)
def test_writers_of_different_tensors_are_not_compared(
    other: Mapping[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = checkpoint(tmp_path / "ours", {"w": torch.ones(3, 5)}), checkpoint(tmp_path / "peer", other)
    monkeypatch.setattr(end_to_end, "command", copies_of({OURS: ours, PEER: peer}))
    with pytest.raises(ValueError, match="different tensors"):
        list(measure(Job("m", {}, "float32"), 1, environment("cpu", "test"), ops=[INIT]))


def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: Mapping[tuple[str, str], Mapping[str, str]]) -> None:
    """Ways that only say what is given for their op and maker, over values that all share."""
    ours = checkpoint(tmp_path / "ours", {"w": torch.ones(3, 5)})
    monkeypatch.setattr(end_to_end, "command", copies_of({OURS: ours, PEER: ours}))

    def run(words: Sequence[str]) -> Run:
        if "bench.ways" in words:
            op, maker = words[words.index("bench.ways") + 1 :][:2]
            said = {"seconds": [2.0, 1.0], "peak_bytes": 7, "fingerprint": "f", "fault": ""}
            Path(words[-1]).write_text(json.dumps(said | answers.get((op, maker), {})))
            return Run(9.0, 9)
        return timed(words)

    monkeypatch.setattr(end_to_end, "timed", run)


def test_ways_in_one_process_are_rows_of_their_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own construction has values of its own; every other way must have the same."""
    told(monkeypatch, tmp_path, {(CONSTRUCT, "torch"): {"fingerprint": "g"}})
    found = list(measure(Job("m", {}, "float32"), 2, environment("cpu", "test"), ops=[CONSTRUCT, LOAD]))
    assert [[(row.op, row.provider) for row in op] for op in found] == [
        [(CONSTRUCT, "tritonparam"), (CONSTRUCT, "torch")],
        [(LOAD, "tritonparam"), (LOAD, "transformers")],
    ]
    for row in (row for op in found for row in op):
        assert (row.bytes, row.rounds, row.least_s, row.median_s, row.most_s) == (60, 2, 1.0, 1.5, 2.0)
        assert row.peak_bytes == 7


@pytest.mark.parametrize(
    ("where", "answer", "said"),
    [
        ((CONSTRUCT, "torch"), {"fault": "w is all zero"}, "m, construct, torch: w is all zero"),
        ((LOAD, "tritonparam"), {"fingerprint": "g"}, "m, load, tritonparam: other values than those before"),
        ((LOAD, "transformers"), {"fingerprint": "g"}, "m, load, transformers: other values than those before"),
    ],
)
def test_a_way_to_wrong_tensors_is_not_timed(
    where: tuple[str, str], answer: Mapping[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, tmp_path, {where: answer})
    with pytest.raises(ValueError, match=said):
        list(measure(Job("m", {}, "float32"), 2, environment("cpu", "test")))


@pytest.mark.parametrize(("op", "maker"), WAYS)
def test_ways_make_models_that_are_checked(op: str, maker: str, tmp_path: Path) -> None:
    """A Llama cut down, by each way: as many times as are to count, and no fault; a spoiled one has one."""
    transformers = pytest.importorskip("transformers")
    job = jobs(quick=True)[1]
    (tmp_path / "config.json").write_text(json.dumps(job.config))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "config.json")
    asked = Asked(config, str(tmp_path / "checkpoint"), torch.bfloat16, torch.device("cpu"))
    made = WAYS[CONSTRUCT, "tritonparam"](asked)
    made.save_pretrained(asked.checkpoint)
    one = take(WAYS[op, maker], asked, times=2, ours=maker == "tritonparam")
    assert (len(one.seconds), one.fault) == (2, "")
    assert one.peak_bytes > 10**8
    assert (one.fingerprint == fingerprint(made).total) == ((op, maker) != (CONSTRUCT, "torch"))

    def spoiled(asked: Asked) -> torch.nn.Module:
        model: torch.nn.Module = WAYS[op, maker](asked)
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
        return model

    assert "model.embed_tokens.weight: the standard deviation is" in take(spoiled, asked, 1, ours=False).fault


def test_cuda_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "--device cuda needs a CUDA device" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="a minute long: set TRITONPARAM_ALL")
def test_both_write_the_same_tensors_of_small_models() -> None:
    for job in jobs(quick=True):
        found = [row for op in measure(job, 1, environment("cpu", "test")) for row in op]
        assert [row.op for row in found] == [op for op in OPS for _ in range(2)]
        assert len({row.bytes for row in found}) == 1
        assert all(row.bytes > 10**5 and row.peak_bytes > 10**8 for row in found)


def test_a_row_is_a_line_for_people() -> None:
    where = environment("cpu", "test")
    values = dict.fromkeys(("least_s", "median_s", "most_s"), 1.5)
    row = end_to_end.Row(
        **vars(where),
        **values,
        op=INIT,
        workload="m",
        dtype="float32",
        provider=PEER,
        bytes=10**6,
        rounds=3,
        peak_bytes=10**9,
    )
    want = "init, m, float32, transformers: 1.50 s (least 1.50, most 1.50, 3 rounds), at most 1,000 MB, 1 MB of tensors"
    assert line(row) == want
