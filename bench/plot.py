"""The README's picture, from the rows: how near fills come to a plain fill of memory, ours and torch's side by side."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from bench.cases import LAWS
from bench.digests import DEVICES, Panel, Speeds, panels
from bench.table import significant

# Okabe and Ito's blue and orange, which colour-blind readers can tell apart, and apart in grey too.
OURS, TORCH = "#0072B2", "#E69F00"
INK, QUIET = "#222222", "#777777"
HIGH = 1.1  # where the axis ends
BAR = 0.38


def chosen(results: Path) -> list[Panel]:
    """The panels of the README's devices, of a host with the most threads it was measured with."""
    found = [panel for panel in panels(results) if panel.device in DEVICES and panel.ceiling]
    return [
        panel
        for panel in found
        if panel.threads == max(other.threads for other in found if other.device == panel.device)
    ]


def is_of(results: Path, path: Path) -> bool:
    """Whether a picture was drawn from these rows."""
    return path.exists() and _signature(chosen(results)).encode() in path.read_bytes()


def _signature(shown: list[Panel]) -> str:
    said = repr([(panel.device, panel.threads, panel.dtype, panel.fills) for panel in shown])
    return f"rows {hashlib.sha256(said.encode()).hexdigest()}"


def plot(results: Path, path: Path) -> None:
    """Draw the picture into a PNG, which says of which rows.

    Raises:
        ValueError: No row is of one large tensor on a device that the README speaks of.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = chosen(results)
    if not shown:
        raise ValueError(f"{results} must hold rows of one large tensor on {' or '.join(DEVICES)}, got none")
    lines = -(-len(shown) // 2)
    figure = Figure(figsize=(8, 1.2 + 2.1 * lines), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, shown, strict=False):
        _draw(axes, panel)
    figure.suptitle("Speed of filling one large tensor (1 = a plain fill of memory)", fontsize=13, color=INK)
    makers = [Patch(color=OURS), Patch(color=TORCH)]
    words = ["tritonparam, plan already built", "torch"]
    figure.legend(makers, words, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    figure.savefig(path, dpi=160, metadata={"Software": None, "Description": _signature(shown)})


def _draw(axes: Any, panel: Panel) -> None:
    ops = [*LAWS]
    fills = [panel.fills.get(op, Speeds(0.0, 0.0, 0.0)) for op in ops]
    for own, colour, side in ((True, OURS, -1), (False, TORCH, 1)):
        parts = [(each.ours if own else each.torch) / panel.ceiling for each in fills]
        at = [n + side * BAR / 2 for n in range(len(ops))]
        axes.barh(at, parts, BAR, color=colour)
        for y, part in zip(at, parts, strict=True):
            inside = part > 0.9
            axes.text(
                part + (-0.012 if inside else 0.012),
                y,
                "not measured" if not part else f"{part:.2f}" if part >= 0.1 else significant(part, 1),
                va="center",
                ha="right" if inside else "left",
                fontsize=9.5,
                color="white" if inside and own else INK,
            )
    axes.axvline(1, color=QUIET, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlim(0, HIGH)
    axes.set_ylim(len(ops) - 0.5, -0.5)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_yticks(range(len(ops)), [op.replace("_", "\n") for op in ops])
    axes.tick_params(labelsize=10.5, colors=INK, length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(f"{DEVICES[panel.device]}, {panel.dtype}", fontsize=11.5, color=INK, loc="left", weight="bold")
    axes.text(0.985, len(ops) - 0.57, f"1 = {panel.ceiling:,.0f} GB/s", ha="right", fontsize=9.5, color=QUIET)
