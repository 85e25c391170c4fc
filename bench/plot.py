"""Bars from rows: one picture a device, GB/s of each maker beside the plain fill or copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cases import PLAIN_FILL
from bench.construction import OPS as CONSTRUCTION
from bench.copies import OPS, PLAIN_COPY
from bench.fingerprints import OP as READ
from bench.fingerprints import PLAIN_SUM
from bench.rows import Row
from bench.table import significant

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is the ceiling.
COLOURS = {
    "tritonparam triton": "#0072B2",
    "tritonparam cpu": "#0072B2",
    "tritonparam numpy": "#56B4E9",
    "tritonparam triton, plan built too": "#009E73",
    "torch": "#E69F00",
    "torch foreach": "#CC79A7",
    PLAIN_FILL: "#BBBBBB",
    PLAIN_COPY: "#BBBBBB",
    PLAIN_SUM: "#BBBBBB",
}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw one device's rows, but those of construction, into a PNG: a panel for each workload, threads and mode.

    Raises:
        ValueError: There are none that move bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    values = [row for row in rows if row.mode != "host" and row.op not in CONSTRUCTION]
    if not values:
        raise ValueError("rows must hold some that move bytes, got none")
    panels: dict[str, list[Row]] = {}
    for row in values:
        what = "copies" if row.op in OPS else "reads" if row.op == READ else "fills"
        panels.setdefault(f"{what}: {row.workload}, {row.threads} threads, {row.mode}", []).append(row)
    figure = Figure(figsize=(10, 0.8 + 2.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, shown) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        jobs = list(dict.fromkeys((row.op, row.dtype) for row in shown))
        makers = [maker for maker in COLOURS if any(row.provider == maker for row in shown)]
        width = 0.86 / len(makers)
        for n, maker in enumerate(makers):
            bars = [row for row in shown if row.provider == maker]
            at = [jobs.index((row.op, row.dtype)) + (n - (len(makers) - 1) / 2) * width for row in bars]
            drawn = axes.bar(at, [row.gb_per_s for row in bars], width, color=COLOURS[maker])
            axes.bar_label(drawn, [significant(row.gb_per_s, 2) for row in bars], fontsize=6, padding=1)
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.set_xticks(range(len(jobs)), [_label(*job) for job in jobs], fontsize=7)
        axes.set_ylabel("GB/s (log)", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    present = [maker for maker in COLOURS if any(row.provider == maker for row in values)]
    figure.legend(
        [Patch(color=COLOURS[maker]) for maker in present], present, loc="outside lower center", ncols=4, fontsize=8
    )
    first = values[0]
    figure.suptitle(f"{first.device}; torch {first.torch}, tritonparam {first.tritonparam}, {first.date}", fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _label(op: str, dtype: str) -> str:
    return f"{op.replace('_', ' ')}\n{dtype}".replace(" to ", "\nto ")
