"""Where the tables stand in README.md and docs/benchmarks.md: each between two marks, made anew or compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench import digests, table

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"  # of all tables of single calls
SUMMARY, SUMMARY_END = "<!-- bench:summary:begin -->", "<!-- bench:summary:end -->"  # of the README's
TABLES: dict[tuple[str, str], Callable[[Path], str]] = {
    (BEGIN, END): table.section,
    (SUMMARY, SUMMARY_END): digests.summary,
    ("<!-- bench:ways:begin -->", "<!-- bench:ways:end -->"): digests.ways,
    ("<!-- bench:one-tensor:begin -->", "<!-- bench:one-tensor:end -->"): digests.one_tensor,
}


def renew(text: str, results: Path) -> str:
    """`text` with the tables that the rows give between its marks, whichever of them it has.

    Raises:
        ValueError: There are no marks, or not once each, in order.
    """
    found = [marks for marks in TABLES if any(mark in text for mark in marks)]
    if not found:
        raise ValueError(f"the text must have one {BEGIN} and one {END} after it")
    for begin, end in found:
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"the text must have one {begin} and one {end} after it")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n\n{TABLES[begin, end](results)}\n\n{end}{after}"
    return text
