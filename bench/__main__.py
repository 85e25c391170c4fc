"""`python -m bench`: measure, and make the README's table and the plots from what was measured."""

from __future__ import annotations

import os
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench import host, plot, rows, run, table
from bench.cases import cases

RESULTS = Path(__file__).parent / "results"
app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


class Device(str, Enum):
    """Where to measure."""

    cpu = "cpu"
    cuda = "cuda"


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    device: Annotated[Device | None, typer.Option(help="Where; by default on CUDA if there is a device.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small tensors and few rounds: to see that all runs.")] = False,
    only: Annotated[str, typer.Option(help="Only cases with this text in their description.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each case at most.")] = 15,
    budget: Annotated[float, typer.Option(min=0.0, help="Seconds of timing for each case.")] = 2.0,
    commit: Annotated[str | None, typer.Option(help="The commit to name in the rows, where git cannot say.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the rows; bench/results by default, with --quick none.")
    ] = None,
) -> None:
    """Check every maker's values against the reference, time those that are right. Exit code 1 if one was wrong."""
    if context.invoked_subcommand is not None:
        return
    where = device.value if device else "cuda" if torch.cuda.is_available() else "cpu"
    if where == "cuda" and not torch.cuda.is_available():
        typer.echo("bench: no CUDA device here", err=True)
        raise typer.Exit(2)
    start = time.monotonic()
    environment = rows.environment(where, commit)
    typer.echo(
        f"{environment.device}; torch {environment.torch}, triton {environment.triton}, commit {environment.commit}"
    )
    load = os.getloadavg()[0]
    if load > 0.5:
        typer.echo(f"note: load average {load:.1f}: something else runs here, and the figures will show it")
    chosen = [case for case in cases(where, quick) if only in str(case)]
    count, limit = (3, 0.5) if quick else (rounds, budget)
    outcome = run.measure(chosen, where, environment, rounds=count, budget=limit, report=typer.echo)
    if not only:
        tensors = 100 if quick else host.COUNT
        outcome.rows += host.measure_host(where, environment, tensors, count, limit, typer.echo)
    for note in dict.fromkeys(outcome.notes):
        typer.echo(f"note: {note}")
    out = out or (None if quick else RESULTS)
    if out is not None and outcome.rows:
        for path in rows.write(out, outcome.rows, whole=not only):
            typer.echo(f"rows in {path}")
    typer.echo(f"{len(outcome.rows)} rows, {len(outcome.refused)} refused, {time.monotonic() - start:.0f} s")
    if outcome.refused:
        for refusal in outcome.refused:
            typer.echo(f"bench: wrong values, not timed: {refusal}", err=True)
        raise typer.Exit(1)


@app.command("table")
def table_command(
    check: Annotated[
        Path | None, typer.Option(help="Exit with 1 if this file's tables are not what the rows give.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Put the tables between the marks of this file.")] = None,
    results: Annotated[Path, typer.Option(help="Folder with the rows.")] = RESULTS,
) -> None:
    """Print the README's tables as the rows give them, or check or write those in a file."""
    path = check or write
    if path is None:
        typer.echo(table.section(results))
        return
    try:
        text = path.read_text()
        renewed = table.renew(text, results)
    except (OSError, ValueError) as error:
        typer.echo(f"bench: {path}: {error}", err=True)
        raise typer.Exit(1) from None
    if write is not None:
        path.write_text(renewed)
    elif renewed != text:
        typer.echo(
            f"bench: {path}: its tables are not what {results} gives: python -m bench table --write {path}", err=True
        )
        raise typer.Exit(1)


@app.command("plot")
def plot_command(results: Annotated[Path, typer.Option(help="Folder with the rows.")] = RESULTS) -> None:
    """Draw a picture of each file of rows, beside it."""
    for path in sorted(results.glob("*.csv")):
        picture = path.with_suffix(".png")
        plot.plot(rows.read(path), picture)
        typer.echo(str(picture))


if __name__ == "__main__":
    app()
