"""`python -m bench`: measure, and make the tables and the picture from what was measured."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import host, pages, plot, rows, run, table
from bench.cases import cases
from bench.construction import construction_cases, measure_construction
from bench.copies import copy_cases
from bench.fingerprints import fingerprint_cases

RESULTS = Path(__file__).parent / "results"
PICTURE = "fills.png"


def measure(arguments: argparse.Namespace) -> int:
    """Check every maker's values against the reference, time those that are right. 1 if one was wrong."""
    where = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if where == "cuda" and not torch.cuda.is_available():
        return _fail("no CUDA device here", 2)
    start = time.monotonic()
    environment = rows.environment(where, arguments.commit)
    print(f"{environment.device}; torch {environment.torch}, triton {environment.triton}, commit {environment.commit}")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: load average {load:.1f}: something else runs here, and the figures will show it")
    values = tuple(case for of in (cases, copy_cases, fingerprint_cases) for case in of(where, arguments.quick))
    chosen = [case for case in values if arguments.only in str(case)]
    constructions = construction_cases(where, arguments.quick)
    built = [case for case in constructions if arguments.only in str(case)]
    count, limit = (3, 0.5) if arguments.quick else (arguments.rounds, arguments.budget)
    outcome = run.measure(chosen, where, environment, rounds=count, budget=limit, report=_say)
    if not arguments.only:
        tensors = 100 if arguments.quick else host.COUNT
        outcome.rows += host.measure_host(where, environment, tensors, count, limit, _say)
    # The last, since what transformers leaves in the process slows the host down.
    outcome.add(measure_construction(built, where, environment, rounds=count, budget=limit, report=_say))
    if not constructions:
        outcome.notes.append("construction is left out, since transformers is not installed")
    for note in dict.fromkeys(outcome.notes):
        print(f"note: {note}")
    out = arguments.out or (None if arguments.quick else RESULTS)
    if out is not None and outcome.rows:
        for path in rows.write(out, outcome.rows, whole=not arguments.only):
            print(f"rows in {path}")
    print(f"{len(outcome.rows)} rows, {len(outcome.refused)} refused, {time.monotonic() - start:.0f} s")
    for refusal in outcome.refused:
        _fail(f"wrong values, not timed: {refusal}", 1)
    return 1 if outcome.refused else 0


def show_table(arguments: argparse.Namespace) -> int:
    """Print all tables as the rows give them, or check or write those in files."""
    paths: list[Path] = arguments.check or arguments.write
    if not paths:
        print(table.section(arguments.results))
    return max((_table_in(path, arguments) for path in paths), default=0)


def _table_in(path: Path, arguments: argparse.Namespace) -> int:
    try:
        text = path.read_text()
        renewed = pages.renew(text, arguments.results)
    except (OSError, ValueError) as error:
        return _fail(f"{path}: {error}", 1)
    if arguments.write:
        path.write_text(renewed)
    elif renewed != text:
        command = f"python -m bench table --write {path}"
        return _fail(f"{path}: its tables are not what {arguments.results} gives: {command}", 1)
    return 0


def draw(arguments: argparse.Namespace) -> int:
    """Draw the README's picture beside the rows, or check that it is of them."""
    picture = arguments.results / PICTURE
    if arguments.check:
        right = plot.is_of(arguments.results, picture)
        return 0 if right else _fail(f"{picture} is not of the rows: python -m bench plot", 1)
    try:
        plot.plot(arguments.results, picture)
    except ValueError as error:
        return _fail(str(error), 1)
    print(picture)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(text: str, code: int) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=measure.__doc__)
    parser.set_defaults(run=measure)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where; by default on CUDA if there is a device")
    parser.add_argument("--quick", action="store_true", help="small tensors and few rounds: to see that all runs")
    parser.add_argument("--only", metavar="TEXT", default="", help="only cases with this text in their description")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each case at most [15]")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of timing for each case [2]")
    parser.add_argument("--commit", help="the commit to name in the rows, where git cannot say")
    out = "folder for the rows; bench/results by default, with --quick none"
    parser.add_argument("--out", metavar="DIR", type=Path, help=out)
    commands = parser.add_subparsers()
    shown = commands.add_parser("table", description=show_table.__doc__, help="the tables in README and docs")
    shown.set_defaults(run=show_table)
    what = shown.add_mutually_exclusive_group()
    what.add_argument("--check", metavar="FILE", nargs="+", type=Path, default=[], help="1 if rows give others")
    what.add_argument("--write", metavar="FILE", nargs="+", type=Path, default=[], help="put tables between the marks")
    drawn = commands.add_parser("plot", description=draw.__doc__, help="the README's picture")
    drawn.set_defaults(run=draw)
    drawn.add_argument("--check", action="store_true", help="1 if it is not of the rows")
    for command in (shown, drawn):
        command.add_argument("--results", metavar="DIR", type=Path, default=RESULTS, help="folder with the rows")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.run is measure and (arguments.rounds < 1 or arguments.budget < 0):
        parser.error(f"--rounds must be >= 1 and --budget >= 0, got {arguments.rounds} and {arguments.budget}")
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
