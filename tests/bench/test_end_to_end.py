"""Two writers of one config are timed as processes, and no time counts unless they wrote the same tensors."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from bench import end_to_end
from bench.end_to_end import OURS, PEER, Job, jobs, line, main, measure, timed
from bench.rows import environment


def test_a_run_is_timed_from_start_to_end_with_its_own_peak_of_memory() -> None:
    quick = timed([sys.executable, "-c", ""])
    slow = timed([sys.executable, "-c", "import time; x = bytearray(b'1') * 200_000_000; time.sleep(0.5)"])
    assert slow.seconds > 0.5
    assert slow.peak_bytes > quick.peak_bytes + 190_000_000


def test_a_run_that_fails_is_an_error_that_says_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="ended with 1: it broke"):
        timed([sys.executable, "-c", "print('it broke'); raise SystemExit(3)"])


def test_the_models_are_those_that_are_spoken_of() -> None:
    gpt2, llama = jobs()
    assert (gpt2.dtype, llama.dtype) == ("float32", "bfloat16")
    config = llama.config
    embedding = config["vocab_size"] * config["hidden_size"]
    heads = config["head_dim"] * (config["num_attention_heads"] + config["num_key_value_heads"]) * 2
    layer = config["hidden_size"] * (heads + 3 * config["intermediate_size"] + 2)
    assert embedding + config["num_hidden_layers"] * layer + config["hidden_size"] == 1_235_814_400
    assert [job.name for job in jobs(quick=True)] == ["gpt2 cut down", "llama-3.2-1b cut down"]


def copies_of(folders: Mapping[str, Path]) -> Callable[..., list[str]]:
    """Writers that copy a folder."""

    def command(provider: str, config: Path, out: Path, dtype: str) -> list[str]:
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
    assert main(["--quick", "--rounds", "3", "--only", "llama", "--out", str(tmp_path / "rows.csv")]) == 0
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["provider"] for row in rows] == [OURS, PEER]
    for row in rows:
        assert (row["bytes"], row["rounds"], row["workload"]) == ("60", "3", "llama-3.2-1b cut down")
        assert 0 < float(row["least_s"]) <= float(row["median_s"]) <= float(row["most_s"])
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
        measure(Job("m", {}, "float32"), 1, environment("cpu", "test"))


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="a minute long: set TRITONPARAM_ALL")
def test_both_write_the_same_tensors_of_small_models() -> None:
    for job in jobs(quick=True):
        ours, peer = measure(job, 1, environment("cpu", "test"))
        assert ours.bytes == peer.bytes > 10**5
        assert min(ours.peak_bytes, peer.peak_bytes) > 10**8


def test_a_row_is_a_line_for_people() -> None:
    where = environment("cpu", "test")
    values = dict.fromkeys(("least_s", "median_s", "most_s"), 1.5)
    row = end_to_end.Row(
        **vars(where), workload="m", dtype="float32", provider=PEER, bytes=10**6, rounds=3, peak_bytes=10**9, **values
    )
    want = "m, float32, transformers: 1.50 s (least 1.50, most 1.50, 3 rounds), at most 1,000 MB, 1 MB written"
    assert line(row) == want
