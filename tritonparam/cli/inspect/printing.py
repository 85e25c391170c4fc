"""What `inspect` says about a checkpoint: a table of its tensors and a line, or JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import typer

from tritonparam.cli.inspect.inspection import FALSE_ALARM, Inspection, Report

_TITLES = ("tensor", "shape", "dtype", "mean", "std", "min", "max", "expected", "verdict")
_RIGHT = ("mean", "std", "min", "max")
_LEFT_OUT = ("max", "min", "dtype", "shape", "mean", "std", "expected")  # in this order, where a terminal is narrow
_ALONE = "compared with nothing: there is no tritonparam.json and no config.json; name their model by --spec"
_LEAST_NAME = 20  # characters
_APART = 2


def print_inspection(inspection: Inspection, *, only_failures: bool = False) -> None:
    """Print a row for each tensor, with its statistics and its verdict, and a summary.

    A row is a line: on a terminal names are shortened in the middle and columns left out until it fits, and what
    disagrees is said below the table; elsewhere it has all there is.

    Args:
        inspection: What to print.
        only_failures: Whether to leave out the tensors that are as they should be.
    """
    # Only here: JSON does without rich.
    from rich.console import Console

    console = Console()
    fits = console.width if console.is_terminal or "COLUMNS" in os.environ else None
    reports = [each for each in inspection.reports if each.problems or not only_failures]
    if reports:
        _print_table(reports, fits, console.is_terminal and not console.no_color)
    wrong = sum(bool(report.problems) for report in inspection.reports)
    summary = "all ok" if not wrong else f"{wrong} disagree{'s' if wrong == 1 else ''}"
    count = len(inspection.reports)
    if inspection.source:
        typer.echo(f"{count} tensors against {inspection.source}: {summary}")
    else:
        typer.echo(f"{count} tensors {_ALONE}{f'; {wrong} with NaN, or not to be read' if wrong else ''}")
    if inspection.fingerprint is not None:
        typer.echo(f"fingerprint {inspection.fingerprint}")


def _print_table(reports: Sequence[Report], fits: int | None, colour: bool) -> None:
    rows = [_cells(each, whole=fits is None) for each in reports]
    titles = list(_TITLES)
    widths = {title: max(len(title), *(len(row[title]) for row in rows)) for title in titles}
    if fits is not None:
        least = _least_width([row["tensor"] for row in rows])
        for title in _LEFT_OUT:
            if fits - sum(widths[each] + _APART for each in titles[1:]) >= least:
                break
            titles.remove(title)
        room = fits - sum(widths[each] + _APART for each in titles[1:])
        widths["tensor"] = min(widths["tensor"], max(room, _LEAST_NAME))
    typer.echo(typer.style(_line(dict(zip(titles, titles, strict=True)), widths), bold=True), color=colour)
    for report, row in zip(reports, rows, strict=True):
        row["tensor"] = shortened(row["tensor"], widths["tensor"])
        line = _line({title: row[title] for title in titles[:-1]}, widths)
        verdict = typer.style(row["verdict"], fg="red" if report.problems else "green")
        typer.echo(f"{line:{sum(widths[each] + _APART for each in titles[:-1])}}{verdict}", color=colour)
    if fits is not None:
        for report in reports:
            if report.problems:
                typer.echo(f"{_plain(report.name)}: {_plain(report.verdict)}")


def _cells(report: Report, *, whole: bool) -> dict[str, str]:
    moments = report.moments
    numbers = (moments.mean, moments.std, moments.low, moments.high)
    verdict = report.verdict if whole or not report.problems else "wrong"
    cells = [report.name, str(list(report.shape)), report.dtype_name]
    cells += [f"{number:.4g}" if moments.count else "-" for number in numbers]
    return {title: _plain(cell) for title, cell in zip(_TITLES, (*cells, report.expected, verdict), strict=True)}


def _line(cells: dict[str, str], widths: dict[str, int]) -> str:
    parts = (f"{cell:{'>' if title in _RIGHT else '<'}{widths[title]}}" for title, cell in cells.items())
    return (" " * _APART).join(parts).rstrip()


def _plain(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _least_width(names: Sequence[str]) -> int:
    """In how few characters `names` can be told apart, if they are not very short."""
    longest, distinct = max(map(len, names)), len(set(names))
    widths = range(min(_LEAST_NAME, longest), longest)
    return next((width for width in widths if len({shortened(name, width) for name in names}) == distinct), longest)


def shortened(name: str, most: int) -> str:
    """`name` in at most `most` characters, without its middle where it is longer.

    Examples:
        >>> shortened("transformer.h.11.mlp.c_proj.weight", 20)
        'transforme…oj.weight'
    """
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def inspection_json(inspection: Inspection, folder: Path, *, only_failures: bool = False) -> str:
    """The inspection as one line of JSON; with `only_failures`, its tensors are those that disagree."""
    values = {
        "path": str(folder),
        "source": inspection.source or None,
        "ok": inspection.ok,
        "false_alarm_rate": FALSE_ALARM,
        "digest": inspection.digest,
        "fingerprint": inspection.fingerprint,
        "tensors": [report.to_json() for report in inspection.reports if report.problems or not only_failures],
    }
    return json.dumps(values)
