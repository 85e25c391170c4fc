"""The options that commands which time whole processes have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser_of(
    command: str, about: str | None, small: str, run_of: str, out: str = "FILE.csv"
) -> argparse.ArgumentParser:
    """A parser with these options.

    Args:
        command: The module that runs, of bench.
        about: What it does.
        small: What --quick takes: "small models".
        run_of: What --rounds counts runs of: "each writer".
        out: What --out takes: a file or a folder.
    """
    parser = argparse.ArgumentParser(f"python -m bench.{command}", description=about)
    parser.add_argument("--quick", action="store_true", help=f"{small}: to see that all runs")
    parser.add_argument("--rounds", type=int, default=5, help=f"runs of {run_of}, after one that does not count [5]")
    parser.add_argument("--commit", help="the commit to name in the rows, where git cannot say")
    parser.add_argument("--out", type=Path, metavar=out, help="where the rows go; nowhere by default")
    return parser


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says; ends the program where it cannot be."""
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {arguments.rounds}")
    return arguments
