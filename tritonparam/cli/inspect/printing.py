"""What `inspect` says about a checkpoint: a table of its tensors and a line, or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer

from tritonparam.checkpoint import dtype_name
from tritonparam.cli.inspect.inspection import FALSE_ALARM, Inspection


def print_inspection(inspection: Inspection) -> None:
    """Print every tensor with its statistics and its verdict, and a summary."""
    # Only here: JSON does without rich.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="none")
    for title in ("tensor", "shape", "dtype", "mean", "std", "min", "max", "expected", "verdict"):
        table.add_column(
            Text(title, style="bold"), justify="right" if title in ("mean", "std", "min", "max") else "left"
        )
    for report in inspection.reports:
        moments = report.moments
        numbers = (moments.mean, moments.std, moments.low, moments.high)
        cells = [report.name, str(list(report.shape)), dtype_name(report.dtype)]
        cells += [f"{number:.4g}" if moments.count else "-" for number in numbers]
        verdict = Text(report.verdict, style="red" if report.problems else "green")
        table.add_row(*(Text(cell) for cell in (*cells, report.expected)), verdict)
    # As wide as it comes: a narrow terminal wraps lines, where rich would cut columns or leave them out.
    console = Console(width=10_000)
    with console.capture() as text:
        console.print(table)
    padding = re.compile(r" +(\x1b\[0m)?$", re.MULTILINE)
    typer.echo(padding.sub(r"\1", text.get()), nl=False, color=console.is_terminal)
    wrong = sum(bool(report.problems) for report in inspection.reports)
    summary = "all ok" if not wrong else f"{wrong} disagree"
    typer.echo(f"{len(inspection.reports)} tensors against {inspection.source}: {summary}")
    if inspection.fingerprint is not None:
        typer.echo(f"fingerprint {inspection.fingerprint}")


def inspection_json(inspection: Inspection, folder: Path) -> str:
    """The inspection as one line of JSON."""
    values = {
        "path": str(folder),
        "source": inspection.source,
        "ok": inspection.ok,
        "false_alarm_rate": FALSE_ALARM,
        "digest": inspection.digest,
        "fingerprint": inspection.fingerprint,
        "tensors": [report.to_json() for report in inspection.reports],
    }
    return json.dumps(values)
