"""Who writes a new checkpoint of a config: the command line, and what a user of transformers does, from start to exit.

Each run is a process of its own with a folder of its own; its wall time and its peak of memory are the system's. Both
write what the same config asks for, in the same dtype; no time counts unless both wrote the same tensors.

    python -m bench.end_to_end [--only gpt2] [--rounds 5] [--out FILE.csv]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.options import parsed, parser_of
from bench.rows import ROOT, Environment, environment, write_table
from tritonparam.checkpoint import dtype_name, find_files, read_header

OURS, PEER = "tritonparam init", "transformers"
# What a user of transformers writes. Threads and dtype are as the library has them.
_PEER = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, sys.argv[3]))
model.save_pretrained(sys.argv[2], max_shard_size="5GB")
"""
# Between this process and the timed one stands one that is small: what a process has before `exec` counts as its own.
_LAUNCHER = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - begin, usage.ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""


class Job(NamedTuple):
    """A config, the dtype that both write, and what it is called."""

    name: str
    config: Mapping[str, Any]
    dtype: str


class Run(NamedTuple):
    """What the system says of a process: seconds from its start to its end, and the most memory that it had."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Row(Environment):
    """Some runs of one writer.

    Attributes:
        workload, dtype, provider: The model, the dtype that is written, and who writes.
        bytes: Of the tensors.
        rounds: How many runs there were, the writers by turns.
        least_s, median_s, most_s: Seconds of a process, from start to exit.
        peak_bytes: The most memory that any of them had.
    """

    workload: str
    dtype: str
    provider: str
    bytes: int
    rounds: int
    least_s: float
    median_s: float
    most_s: float
    peak_bytes: int


def jobs(quick: bool = False) -> list[Job]:
    """GPT-2 in float32 and a Llama 3.2 1B in bfloat16; cut down if `quick`, to see that all runs."""
    gpt2, llama = (json.loads((ROOT / "examples" / f"{name}.json").read_text()) for name in ("gpt2", "llama-3.2-1b"))
    if not quick:
        return [Job("gpt2", gpt2, "float32"), Job("llama-3.2-1b", llama, "bfloat16")]
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000, "head_dim": 2}
    return [
        Job("gpt2 cut down", gpt2 | {"n_layer": 2, "n_embd": 48, "vocab_size": 1000}, "float32"),
        Job("llama-3.2-1b cut down", llama | small, "bfloat16"),
    ]


def command(provider: str, config: Path, out: Path, dtype: str) -> list[str]:
    """What starts a writer."""
    if provider == PEER:
        return [sys.executable, "-c", _PEER, str(config), str(out), dtype]
    return [sys.executable, "-m", "tritonparam", "init", str(config), "--out", str(out), "--dtype", dtype]


def timed(words: Sequence[str]) -> Run:
    """Run a program to its end.

    Raises:
        RuntimeError: It failed; the end of what it said is in the message.
    """
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *words],
        cwd=tempfile.gettempdir(),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words[:4]} ended with {done.returncode}: {done.stderr[-2000:]}")
    seconds, peak = json.loads(done.stdout)
    return Run(seconds, peak * (1 if sys.platform == "darwin" else 1024))


def tensors_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """The dtype, shape and bytes of each tensor of a checkpoint."""
    found = {}
    for file in find_files(folder)[0]:
        for name, extent in read_header(file).extents.items():
            found[name] = dtype_name(extent.dtype), extent.shape, extent.nbytes
    return found


def measure(job: Job, rounds: int, where: Environment) -> list[Row]:
    """Let both write `job`, by turns, after a round that only warms the system's caches.

    Raises:
        ValueError: They wrote different tensors, or ours differ from one round to the next.
        RuntimeError: One failed.
    """
    runs: dict[str, list[Run]] = {OURS: [], PEER: []}
    wrote: dict[str, set[str]] = {OURS: set(), PEER: set()}
    nbytes = 0
    with tempfile.TemporaryDirectory() as work:
        config = Path(work) / "config.json"
        config.write_text(json.dumps(job.config))
        for number in range(rounds + 1):
            for provider in runs:
                out = Path(work) / "out"
                run = timed(command(provider, config, out, job.dtype))
                found = tensors_of(out)
                nbytes = sum(each[2] for each in found.values())
                digest = json.loads((out / "tritonparam.json").read_text())["digest"] if provider == OURS else ""
                wrote[provider].add(json.dumps([sorted(found.items()), digest if provider == OURS else ""]))
                shutil.rmtree(out)
                if number:
                    runs[provider].append(run)
    described = {provider: {json.dumps(json.loads(each)[0]) for each in texts} for provider, texts in wrote.items()}
    if described[OURS] != described[PEER] or any(len(texts) != 1 for texts in wrote.values()):
        raise ValueError(f"{job.name}: the writers wrote different tensors, or one of them not always the same")
    return [
        Row(
            **asdict(where),
            workload=job.name,
            dtype=job.dtype,
            provider=provider,
            bytes=nbytes,
            rounds=len(done),
            least_s=min(run.seconds for run in done),
            median_s=median(run.seconds for run in done),
            most_s=max(run.seconds for run in done),
            peak_bytes=max(run.peak_bytes for run in done),
        )
        for provider, done in runs.items()
    ]


def line(row: Row) -> str:
    """One row for people."""
    return (
        f"{row.workload}, {row.dtype}, {row.provider}: {row.median_s:.2f} s (least {row.least_s:.2f}, most "
        f"{row.most_s:.2f}, {row.rounds} rounds), at most {row.peak_bytes / 1e6:,.0f} MB, "
        f"{row.bytes / 1e6:,.0f} MB written"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = parser_of("end_to_end", __doc__, "small models", "each writer")
    parser.add_argument("--only", default="", metavar="TEXT", help="only models with this text in their name")
    arguments = parsed(parser, words)
    where = environment("cpu", arguments.commit)
    rows: list[Row] = []
    for job in jobs(arguments.quick):
        if arguments.only in job.name:
            rows += measure(job, arguments.rounds, where)
            for row in rows[-2:]:
                sys.stdout.write(line(row) + "\n")
                sys.stdout.flush()
    if arguments.out is not None and rows:
        write_table(arguments.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
