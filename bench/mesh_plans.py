"""What `tritonparam plan` costs: how it grows with the ranks of a mesh and the tensors of a model, and a whole run.

Models are Llamas of the 405B's sizes with other numbers of layers. Of a plan, and of one rank's plan alone, CPU time is
taken, since a host may be shared; of the command, as a process, time from start to exit and the peak of memory.

    python -m bench.mesh_plans [--rounds 5] [--out FILE.csv] [--plot FILE.png]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.end_to_end import timed
from bench.options import parsed, parser_of
from bench.rows import ROOT, Environment, environment, write_table
from tritonparam.cli.init import model_of
from tritonparam.distributed import MeshPlan, plan_mesh
from tritonparam.distributed.rank_plan import GOES

LARGEST = ROOT / "examples" / "llama-3.1-405b.json"
LAYERS = 126
RANKS = (16, 64, 256, 1024, 4096, 16_384, 65_536)
DEPTHS = (32, 63, 126, 252, 504)
TP = 8
PLAN, RANK, COMMAND = "plan of all ranks", "plan of one rank", "the command"


@dataclass(frozen=True)
class Row(Environment):
    """Some runs of one job.

    Attributes:
        job: What is done: PLAN, RANK or COMMAND.
        layers, tensors, ranks: Of the model, and of the mesh.
        rounds: How many runs there were.
        least_s, median_s: Seconds; of CPU time, but of COMMAND from start to exit.
        peak_bytes: The most memory that the command had; 0 for the others.
    """

    job: str
    layers: int
    tensors: int
    ranks: int
    rounds: int
    least_s: float
    median_s: float
    peak_bytes: int


def config(layers: int, quick: bool) -> dict[str, Any]:
    """The 405B's, with other numbers of layers, and small if `quick`."""
    values: dict[str, Any] = json.loads(LARGEST.read_text()) | {"num_hidden_layers": layers}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8, "head_dim": 8, "vocab_size": 100}
    return values | small if quick else values


def jobs(quick: bool = False) -> list[tuple[int, int]]:
    """Layers and ranks: one grows while the other stays."""
    if quick:
        return [(2, 16), (2, 64), (4, 16)]
    return [(LAYERS, ranks) for ranks in RANKS] + [(depth, 1024) for depth in DEPTHS if depth != LAYERS]


def cpu_seconds(act: Callable[[], object], rounds: int) -> list[float]:
    """The CPU time of each of some runs, after one that does not count."""
    act()
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        act()
        found.append(time.process_time() - begin)
    return found


def measure(where: Environment, folder: Path, rounds: int, quick: bool = False) -> Iterator[Row]:
    """All rows, of models whose configs are written to `folder`.

    Raises:
        ValueError: A plan does not hold all of a model.
        RuntimeError: The command failed.
    """
    models: dict[int, torch.nn.Module] = {}
    for layers, ranks in jobs(quick):
        path = folder / f"{layers}-layers.json"
        if layers not in models:
            path.write_text(json.dumps(config(layers, quick)))
            models = {layers: model_of(str(path))[0]}
        model = models[layers]
        mesh = {"dp_shard": ranks // TP, "tp": TP}
        plan = plan_mesh(model, mesh)
        if not _holds_all(plan):
            raise ValueError(f"{layers} layers on {ranks} ranks: the ranks do not hold the model")
        about = asdict(where) | {"layers": layers, "tensors": len(plan.layouts), "ranks": ranks, "rounds": rounds}
        found = cpu_seconds(lambda model=model, mesh=mesh: plan_mesh(model, mesh), rounds)  # type: ignore[misc]
        yield Row(**about, job=PLAN, least_s=min(found), median_s=median(found), peak_bytes=0)
        found = [each / GOES for each in cpu_seconds(plan.build, rounds)]  # which builds as often
        yield Row(**about, job=RANK, least_s=min(found), median_s=median(found), peak_bytes=0)
        if (layers, ranks) == ((LAYERS, 1024) if not quick else (2, 16)):
            text = f"dp_shard={ranks // TP},tp={TP}"
            words = [sys.executable, "-m", "tritonparam", "plan", str(path), "--mesh", text, "--json"]
            runs = [timed(words) for _ in range(rounds)]
            times = [run.seconds for run in runs]
            peak = max(run.peak_bytes for run in runs)
            yield Row(**about, job=COMMAND, least_s=min(times), median_s=median(times), peak_bytes=peak)


def _holds_all(plan: MeshPlan) -> bool:
    """Whether the ranks together hold each sharded tensor once, and what is whole as often as there are ranks."""
    want = 0
    for family in plan.families:
        act = [n for n, cut in zip((plan.mesh.tp, plan.mesh.shards), family.layouts[0].cuts, strict=True) if cut]
        copies = plan.mesh.ranks
        for count in act:
            copies //= count
        want += family.nbytes * copies
    return int(plan.nbytes.sum()) == want


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw CPU time over ranks, and over tensors, on linear axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    layers, ranks = rows[0].layers, next((row.ranks for row in rows if row.layers != rows[0].layers), rows[0].ranks)
    sides = figure.subplots(1, 2)
    for axis, along, fixed in zip(sides, ("ranks", "tensors"), (("layers", layers), ("ranks", ranks)), strict=True):
        for job, colour in ((PLAN, "#0072B2"), (RANK, "#E69F00")):
            shown = sorted(
                (getattr(row, along), row.least_s)
                for row in rows
                if row.job == job and getattr(row, fixed[0]) == fixed[1]
            )
            axis.plot(*zip(*shown, strict=True), "o-", color=colour, markersize=4, label=job)
        axis.set_xlabel(f"{along} ({fixed[0]}: {fixed[1]:,})", fontsize=8)
        axis.set_ylabel("seconds of CPU time, least", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    sides[0].legend(fontsize=8, frameon=False)
    first = rows[0]
    figure.suptitle(f"{first.device}; torch {first.torch}, tritonparam {first.tritonparam}, {first.date}", fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = parser_of("mesh_plans", __doc__, "small models", "each job")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="where a picture of them goes; nowhere by default"
    )
    arguments = parsed(parser, words)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(environment("cpu", arguments.commit), Path(folder), arguments.rounds, arguments.quick):
            rows.append(row)
            peak = f", at most {row.peak_bytes / 1e6:,.0f} MB" if row.peak_bytes else ""
            times = f"{row.least_s:.3f} s (median {row.median_s:.3f})"
            sys.stdout.write(f"{row.job}: {row.tensors:,} tensors, {row.ranks:,} ranks: {times}{peak}\n")
            sys.stdout.flush()
    if arguments.out is not None:
        write_table(arguments.out, rows)
    if arguments.plot is not None:
        plot(arguments.plot, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
