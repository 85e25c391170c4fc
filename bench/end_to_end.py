"""What people call, in seconds: from a constructor to a model, from a config to a checkpoint, from that to a model.

- construct: `deferred_init` and `materialize`, and torch's own construction, by the same class of transformers.
- load: `deferred_init` and `load`, and `from_pretrained`, of the same checkpoint.
- init: `tritonparam init`, and `from_config` with `save_pretrained`.

The first two are timed inside a process each (bench.ways), without imports; of the third each run is a process of its
own, from start to exit. Makers make the same model in the same dtype, on the same device; no time counts unless the
tensors are the same, and the values too where both are to have them.

    python -m bench.end_to_end [--device cuda] [--only gpt2] [--op load] [--rounds 5] [--out bench/results/end-to-end]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch

from bench.options import parsed, parser_of
from bench.rows import ROOT, Environment, OfACase, environment, write
from bench.ways import CONSTRUCT, LOAD, WAYS
from tritonparam.checkpoint import dtype_name, find_files, read_header

INIT = "init"
OPS = (CONSTRUCT, LOAD, INIT)
OURS, PEER = "tritonparam init", "transformers"
# What a user of transformers writes. Threads and dtype are as the library has them; a device is where values are drawn.
_PEER = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
if sys.argv[4] != "cpu":
    torch.set_default_device(sys.argv[4])
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
# Llama 2 7B, as its config says; its constructor gives each weight the same law.
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


class Job(NamedTuple):
    """A config, the dtype that all make, and what it is called."""

    name: str
    config: Mapping[str, Any]
    dtype: str


class Run(NamedTuple):
    """What the system says of a process: seconds from its start to its end, and the most memory that it had."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Row(OfACase):
    """Some runs of one maker.

    Attributes:
        op: One of OPS.
        workload, dtype, provider: The model, its dtype, and who makes it.
        bytes: Of the tensors.
        rounds: How many runs there were, after one that does not count.
        least_s, median_s, most_s: Seconds; of `init` a whole process, from start to exit.
        peak_bytes: The most memory that any process had on the host.
    """

    op: str
    workload: str
    dtype: str
    provider: str
    bytes: int
    rounds: int
    least_s: float
    median_s: float
    most_s: float
    peak_bytes: int

    IDENTITY: ClassVar[tuple[str, ...]] = ("op", "workload", "dtype", "provider")


def jobs(quick: bool = False) -> list[Job]:
    """GPT-2 in float32, a Llama 3.2 1B and a Llama 2 7B in bfloat16; cut down if `quick`, to see that all runs."""
    gpt2, llama = (json.loads((ROOT / "examples" / f"{name}.json").read_text()) for name in ("gpt2", "llama-3.2-1b"))
    if not quick:
        return [
            Job("gpt2", gpt2, "float32"),
            Job("llama-3.2-1b", llama, "bfloat16"),
            Job("llama-2-7b", LLAMA_2_7B, "bfloat16"),
        ]
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
    return [
        Job("gpt2 cut down", gpt2 | {"n_layer": 2, "n_embd": 48, "vocab_size": 1000}, "float32"),
        Job("llama-3.2-1b cut down", llama | small | {"head_dim": 2}, "bfloat16"),
        Job("llama-2-7b cut down", LLAMA_2_7B | small, "bfloat16"),
    ]


def command(provider: str, config: Path, out: Path, dtype: str, device: str = "cpu") -> list[str]:
    """What starts a writer of a checkpoint."""
    if provider == PEER:
        return [sys.executable, "-c", _PEER, str(config), str(out), dtype, device]
    words = [sys.executable, "-m", "tritonparam", "init", str(config), "--out", str(out), "--dtype", dtype]
    return [*words, "--device", device]


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


def measure(
    job: Job, rounds: int, where: Environment, device: str = "cpu", ops: Sequence[str] = OPS
) -> Iterator[list[Row]]:
    """The rows of each op in turn; `init` is the last, since a peer may take minutes for it.

    Raises:
        ValueError: Makers made different tensors, or one of them wrong or not always the same ones.
        RuntimeError: One failed.
    """
    with tempfile.TemporaryDirectory() as work:
        config, checkpoint = Path(work) / "config.json", Path(work) / "checkpoint"
        config.write_text(json.dumps(job.config))
        # It warms what the system keeps of files, too, and is what is loaded.
        timed(command(OURS, config, checkpoint, job.dtype, device))
        nbytes = sum(each[2] for each in tensors_of(checkpoint).values())
        prints: set[str] = set()
        for op in (op for op in (CONSTRUCT, LOAD) if op in ops):
            rows = []
            for maker in (maker for known, maker in WAYS if known == op):
                out = Path(work) / "told.json"
                words = [op, maker, config, checkpoint, job.dtype, device, rounds, out]
                timed([sys.executable, "-W", "ignore", "-m", "bench.ways", *map(str, words)])
                told = json.loads(out.read_text())
                prints |= {told["fingerprint"]} if (op, maker) != (CONSTRUCT, "torch") else set()
                if told["fault"] or len(prints) > 1:
                    raise ValueError(f"{job.name}, {op}, {maker}: {told['fault'] or 'other values than those before'}")
                rows.append(_row(where, op, job, maker, nbytes, told["seconds"], told["peak_bytes"]))
            yield rows
        if INIT in ops:
            yield _written(job, rounds, where, device, Path(work), checkpoint)


def _written(job: Job, rounds: int, where: Environment, device: str, work: Path, checkpoint: Path) -> list[Row]:
    """Let both write `job`, by turns, after a round that only warms caches: ours is `checkpoint`."""
    runs: dict[str, list[Run]] = {OURS: [], PEER: []}
    wrote = {OURS: {_described(checkpoint, OURS)}, PEER: set()}
    nbytes = sum(each[2] for each in tensors_of(checkpoint).values())
    shutil.rmtree(checkpoint)
    for number in range(rounds + 1):
        for provider in runs if number else (PEER,):
            out = work / "out"
            run = timed(command(provider, work / "config.json", out, job.dtype, device))
            wrote[provider].add(_described(out, provider))
            shutil.rmtree(out)
            if number:
                runs[provider].append(run)
    described = {provider: {json.loads(each)[0] for each in texts} for provider, texts in wrote.items()}
    if described[OURS] != described[PEER] or any(len(texts) != 1 for texts in wrote.values()):
        raise ValueError(f"{job.name}: the writers wrote different tensors, or one of them not always the same")
    return [
        _row(where, INIT, job, provider, nbytes, [run.seconds for run in done], max(run.peak_bytes for run in done))
        for provider, done in runs.items()
    ]


def _described(folder: Path, provider: str) -> str:
    """What a writer wrote: tensors, and of ours a digest of their values."""
    digest = json.loads((folder / "tritonparam.json").read_text())["digest"] if provider == OURS else ""
    return json.dumps([json.dumps(sorted(tensors_of(folder).items())), digest])


def _row(where: Environment, op: str, job: Job, maker: str, nbytes: int, seconds: Sequence[float], peak: int) -> Row:
    return Row(
        **asdict(where),
        op=op,
        workload=job.name,
        dtype=job.dtype,
        provider=maker,
        bytes=nbytes,
        rounds=len(seconds),
        least_s=min(seconds),
        median_s=median(seconds),
        most_s=max(seconds),
        peak_bytes=peak,
    )


def line(row: Row) -> str:
    """One row for people."""
    return (
        f"{row.op}, {row.workload}, {row.dtype}, {row.provider}: {row.median_s:.2f} s (least {row.least_s:.2f}, most "
        f"{row.most_s:.2f}, {row.rounds} rounds), at most {row.peak_bytes / 1e6:,.0f} MB, "
        f"{row.bytes / 1e6:,.0f} MB of tensors"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = parser_of("end_to_end", __doc__, "small models", "each maker", out="FOLDER")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models are made [cpu]")
    parser.add_argument("--only", default="", metavar="TEXT", help="only models with this text in their name")
    parser.add_argument("--op", choices=OPS, action="append", help="only this op; may be given again")
    arguments = parsed(parser, words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and there is none here")
    where = environment(arguments.device, arguments.commit)
    for job in (job for job in jobs(arguments.quick) if arguments.only in job.name):
        for rows in measure(job, arguments.rounds, where, arguments.device, arguments.op or OPS):
            sys.stdout.write("".join(f"{line(row)}\n" for row in rows))
            sys.stdout.flush()
            if arguments.out is not None:
                write(arguments.out, rows, whole=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
