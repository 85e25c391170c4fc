"""What a seed checkpoint costs: a model on a mesh of two processes, with the same values as in one process.

The habit: one process builds the model on its host and writes it (torch.distributed.checkpoint); then every process
builds it without values, shards it, gives the shards memory, and reads its rows. Ours: every process makes its rows.
Both end in a model under fully_shard, in processes that torchrun has started on this host; from the start of the first
process to the exit of the last.

    python -m bench.seed_checkpoint [--rounds 5] [--out FILE.csv]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from bench.end_to_end import Run, timed
from bench.options import parsed, parser_of
from bench.rows import Environment, environment, write_table

PROCESSES = 2
OURS, HABIT = "materialize", "seed checkpoint"
SIZES = {"quick": (64, 2), "1 GB": (2048, 8)}  # width, layers


@dataclass(frozen=True)
class Row(Environment):
    """Some runs of one way.

    Attributes:
        workload, way: The model, and how it is made.
        bytes, processes: Of the model in float32, and over how many processes it is sharded.
        rounds: How many runs there were, the ways by turns.
        least_s, median_s: Seconds, of all that has to be run.
        peak_bytes: The most memory that any one process had.
        disk_bytes: What is written to a disk, and read again by all.
    """

    workload: str
    way: str
    bytes: int
    processes: int
    rounds: int
    least_s: float
    median_s: float
    peak_bytes: int
    disk_bytes: int


def built(workload: str) -> nn.Module:
    """Feed-forward layers as torch initializes them."""
    width, layers = SIZES[workload]
    pairs = ((nn.Linear(width, 4 * width), nn.Linear(4 * width, width)) for _ in range(layers))
    return nn.Sequential(*(nn.Sequential(*pair) for pair in pairs))


def measure(where: Environment, workload: str, rounds: int) -> list[Row]:
    """Run both ways by turns, after a round of each that only warms caches.

    Raises:
        RuntimeError: One failed.
    """
    runs: dict[str, list[Run]] = {OURS: [], HABIT: []}
    disk = 0
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            mesh = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
            steps = {
                OURS: [_words([*mesh, "-m"], "make", workload, folder)],
                HABIT: [_words(["-m"], "seed", workload, folder), _words([*mesh, "-m"], "read", workload, folder)],
            }
            for way, commands in steps.items():
                each = [timed(words) for words in commands]
                run = Run(sum(one.seconds for one in each), max(one.peak_bytes for one in each))
                runs[way] += [run] if number else []
            disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    with torch.device("meta"):
        nbytes = sum(each.numel() * each.itemsize for each in built(workload).parameters())
    return [
        Row(
            **asdict(where),
            workload=workload,
            way=way,
            bytes=nbytes,
            processes=PROCESSES,
            rounds=rounds,
            least_s=min(one.seconds for one in each),
            median_s=median(one.seconds for one in each),
            peak_bytes=max(one.peak_bytes for one in each),
            disk_bytes=disk if way == HABIT else 0,
        )
        for way, each in runs.items()
    ]


def _words(launcher: Sequence[str], step: str, workload: str, folder: str) -> list[str]:
    return [sys.executable, "-W", "ignore", *launcher, "bench.seed_checkpoint", "--step", step, workload, folder]


def take(step: str, workload: str, folder: str) -> None:
    """One step of a way, in each of its processes.

    Raises:
        ValueError: A value is not there in the end.
    """
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    from tritonparam import deferred_init, materialize

    if step == "seed":
        torch.manual_seed(0)
        save(built(workload).state_dict(), checkpoint_id=folder)
        return
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (PROCESSES,))
    with deferred_init() if step == "make" else torch.device("meta"):
        model = built(workload)
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if step == "make":
        materialize(model, seed=0)
    else:
        model.to_empty(device="cpu")
        state = get_model_state_dict(model)
        load(state, checkpoint_id=folder)
        model.load_state_dict(state, assign=True)
    if not all(isinstance(each, DTensor) and each.to_local().any() for each in model.parameters()):
        raise ValueError(f"{step} left parameters without values")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = parser_of("seed_checkpoint", __doc__, "a small model", "each way")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "WORKLOAD", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parsed(parser, words)
    if arguments.step is not None:
        take(*arguments.step)
        return 0
    rows = measure(environment("cpu", arguments.commit), "quick" if arguments.quick else "1 GB", arguments.rounds)
    for row in rows:
        sys.stdout.write(
            f"{row.way}: {row.bytes / 1e9:.2f} GB over {row.processes} processes: {row.median_s:.1f} s (least "
            f"{row.least_s:.1f}), at most {row.peak_bytes / 1e6:,.0f} MB in one process, "
            f"{row.disk_bytes / 1e9:.2f} GB on disk\n"
        )
    if arguments.out is not None:
        write_table(arguments.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
