"""A picture of a plan: the bytes of every rank over the mesh, and what the most and the least loaded rank hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from tritonparam.checkpoint import format_size, replace_file
from tritonparam.cli.inspect import check_plot
from tritonparam.cli.plan.planning import Planned
from tritonparam.distributed import MeshPlan

_MOST_FAMILIES = 7
# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is the rest.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_REST, _INK = "#BBBBBB", "#333333"


def plot_plan(planned: Planned, path: Path) -> None:
    """Draw a plan into the file at `path`, whose ending says the format.

    Raises:
        UsageError: The ending names no format.
        CheckpointError: matplotlib is missing.
        OSError: The file cannot be written.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan = planned.plan
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_mesh(plan, figure, above)
    _draw_holdings(plan, below)
    title = f"{Path(planned.spec).name}, {format_size(plan.whole_nbytes)}, on {plan.mesh}: {plan.mesh.ranks:,} ranks"
    figure.suptitle(title, fontsize=11, color=_INK, parse_math=False)
    data = io.BytesIO()
    figure.savefig(data, dpi=130, format=path.suffix[1:].lower())
    path.parent.stat()  # a folder that is not there is more likely a mistake than a wish
    replace_file(path, [data.getbuffer()], True, "--plot")


def _draw_mesh(plan: MeshPlan, figure: Any, axis: Any) -> None:
    """A cell for each rank, but of replicas, which hold the same: shards to the right, stages and tp upwards."""
    mesh = plan.mesh
    cells = plan.nbytes.reshape(mesh.pp, mesh.dp_replicate, mesh.shards, mesh.tp)[:, 0]
    megabytes = cells.transpose(0, 2, 1).reshape(mesh.pp * mesh.tp, mesh.shards) / 1e6
    image = axis.imshow(megabytes, aspect="auto", cmap="viridis", origin="lower", interpolation="nearest")
    figure.colorbar(image, ax=axis, label="MB a rank")
    axis.set_xlabel("shard (dp_shard, and cp within it)", fontsize=8)
    axis.set_ylabel("tp" if mesh.pp == 1 else "stage (pp), and tp within it", fontsize=8)
    for side, count in ((axis.xaxis, mesh.shards), (axis.yaxis, mesh.pp * mesh.tp)):
        side.get_major_locator().set_params(integer=True)
        if count == 1:
            side.set_ticks([0])
    axis.set_title("bytes of each rank", fontsize=9, loc="left", color=_INK)


def _draw_holdings(plan: MeshPlan, axis: Any) -> None:
    """A bar for the most and one for the least loaded rank, in parts by what they hold."""
    ranks = (plan.least_loaded, plan.most_loaded)
    held: dict[str, list[int]] = {}
    for number, rank in enumerate(ranks):
        at = plan.mesh.coordinate(rank)
        for family in plan.families:
            held.setdefault(family.name, [0, 0])[number] += plan.held(family, at)
    ordered = sorted(held.items(), key=lambda each: -max(each[1]))
    parts = [*ordered[:_MOST_FAMILIES]]
    rest = ordered[_MOST_FAMILIES:]
    if rest:
        parts.append((f"{len(rest)} more", [sum(pair[number] for _, pair in rest) for number in (0, 1)]))
    left = np.zeros(2)
    for number, (name, pair) in enumerate(parts):
        colour = _COLOURS[number] if number < len(_COLOURS) else _REST
        drawn = np.array(pair) / 1e6
        axis.barh([0, 1], drawn, 0.6, left=left, color=colour, label=_shorten(name))
        left += drawn
    axis.set_yticks([0, 1], [f"least: rank {ranks[0]}", f"most: rank {ranks[1]}"], fontsize=8)
    axis.set_xlabel("MB", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _shorten(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"…{name[-most + 1 :]}"
