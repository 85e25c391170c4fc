"""A picture of an inspection: the numbers of each family of tensors against what they should have been drawn from."""

from __future__ import annotations

import importlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tritonparam.checkpoint import CheckpointError, UsageError, dtype_name, replace_file
from tritonparam.cli.inspect.expected import BINS, Expected, RandomLaw, density, describe
from tritonparam.cli.inspect.inspection import Inspection
from tritonparam.distributed import family_name

MOST_PANELS = 30
FORMATS = (".eps", ".jpg", ".pdf", ".png", ".svg", ".webp")
_OBSERVED, _DENSITY, _WRONG, _INK = "#9ecae1", "#08519c", "#c0392b", "#333333"


@dataclass
class Family:
    """Tensors whose names differ only in numbers and that share a law and a dtype.

    Attributes:
        name: Their name with * for the numbers.
        expected: What they should follow.
        dtype: Their dtype.
        tensors: How many there are.
        histogram: The sum of their histograms.
        wrong: How many of them have a problem.
    """

    name: str
    expected: Expected
    dtype: torch.dtype
    tensors: int = 0
    histogram: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS + 2, dtype=torch.int64))
    wrong: int = 0


def families(inspection: Inspection) -> list[Family]:
    """The families of the random tensors of `inspection`, in the order of the model."""
    found: dict[tuple[str, RandomLaw, torch.dtype], Family] = {}
    for report in inspection.reports:
        for group in report.groups:
            if group.expected is None:
                continue
            key = (family_name(report.name), group.expected.law, group.dtype)
            family = found.setdefault(key, Family(key[0], group.expected, group.dtype))
            family.tensors += 1
            family.histogram = family.histogram + group.histogram
            family.wrong += bool(report.problems)
    return list(found.values())


def check_plot(path: Path) -> None:
    """Find out, before the work, what would stop a picture at `path`.

    Raises:
        UsageError: Its ending names no format.
        CheckpointError: matplotlib is missing.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot must end in one of {', '.join(FORMATS)}, got {str(path)!r}")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise CheckpointError(f"--plot needs matplotlib, as in the extra plot: pip install it ({error})") from None


def plot_inspection(inspection: Inspection, path: Path, title: str) -> None:
    """Draw the families of `inspection` into the file at `path`, whose ending says the format.

    Raises:
        UsageError: The ending names no format.
        CheckpointError: matplotlib is missing, or there is nothing to draw.
        OSError: The file cannot be written.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = families(inspection)
    if not every:
        raise CheckpointError("nothing to plot: no tensor is drawn from a distribution")
    # Families with problems must be seen even where not all fit.
    drawn = sorted(every, key=lambda family: not family.wrong)[:MOST_PANELS] if len(every) > MOST_PANELS else every
    columns = min(4, math.ceil(math.sqrt(len(drawn))))
    rows = math.ceil(len(drawn) / columns)
    width = max(3.6 * columns, 7.0)
    figure = Figure(figsize=(width, 2.5 * rows + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for family, axis in zip(drawn, axes, strict=False):
        _draw(family, axis)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    figure.suptitle(
        f"{title}: {_summary(inspection, len(drawn), len(every))}", fontsize=11, color=_INK, parse_math=False
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, dpi=130, format=path.suffix[1:].lower())
    path.parent.stat()  # a folder that is not there is more likely a mistake than a wish
    replace_file(path, [data.getbuffer()], True, "--plot")


def _summary(inspection: Inspection, drawn: int, total: int) -> str:
    wrong = sum(bool(report.problems) for report in inspection.reports)
    verdict = "all ok" if not wrong else f"{wrong} of {len(inspection.reports)} tensors disagree"
    return f"{verdict}; {drawn} of {total} families" if drawn < total else verdict


def _draw(family: Family, axis: Any) -> None:
    """One panel: observed shares as bars, expected ones (after rounding) as steps, the law's density as a curve."""
    expected = family.expected
    total = max(1, int(family.histogram.sum()))
    # Wider bins for few numbers: some 20 in each on average.
    merged = next((step for step in (1, 2, 4) if total * step >= 20 * BINS), 8)
    edges = expected.edges[::merged]
    observed = family.histogram[1:-1].view(-1, merged).sum(1) / total / edges.diff()
    rounded = expected.below[::merged].diff() / edges.diff()
    x = torch.linspace(float(edges[0]), float(edges[-1]), 400, dtype=torch.float64)
    axis.stairs(observed.tolist(), edges.tolist(), fill=True, color=_OBSERVED, label="observed")
    axis.stairs(
        rounded.tolist(), edges.tolist(), color=_WRONG, linewidth=0.9, label="expected of each bin, after rounding"
    )
    curve = density(expected.law, x)
    axis.plot(x.tolist(), curve.tolist(), color=_DENSITY, linewidth=1.2, label="expected density")
    room = 1.35 if expected.law.kind == "uniform" else 1.15
    axis.set_ylim(0, room * max(float(curve.max()), float(rounded.max())))
    _label(family, axis, total)


def _label(family: Family, axis: Any, total: int) -> None:
    color = _WRONG if family.wrong else _INK
    axis.set_title(_shorten(family.name), fontsize=8.5, loc="left", color=color, pad=4, parse_math=False)
    count = f"{family.tensors} tensors" if family.tensors > 1 else "1 tensor"
    lines = [describe(family.expected.law), f"{dtype_name(family.dtype)}, {count}", f"{total:,} numbers"]
    outside = int(family.histogram[0] + family.histogram[-1])
    if outside > 0.001 * total:
        lines.append(f"{outside / total:.1%} outside")
    if family.wrong:
        lines.append(f"{family.wrong} disagree")
    axis.set_xlabel("   ".join(lines[:2]), fontsize=7.5, color=color)
    axis.text(0.98, 0.96, "\n".join(lines[2:]), transform=axis.transAxes, ha="right", va="top", fontsize=7, color=color)
    axis.set_yticks([])
    axis.tick_params(axis="x", labelsize=7)
    axis.locator_params(axis="x", nbins=5)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _shorten(name: str, most: int = 46) -> str:
    """`name`, without its first parts where it is too long for a panel."""
    return name if len(name) <= most else "…" + name[-most + 1 :]
