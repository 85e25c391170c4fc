"""All rows as tables, one device after the other, made from the rows and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.cases import PLAIN_FILL
from bench.construction import OPS as CONSTRUCTION
from bench.copies import OPS, OURS, PLAIN_COPY
from bench.fingerprints import OP as READ
from bench.fingerprints import PLAIN_SUM
from bench.rows import Environment, Row, read

CEILINGS = (PLAIN_FILL, PLAIN_COPY, PLAIN_SUM)


def render(rows: Sequence[Row]) -> str:
    """One device's rows as Markdown, without those of construction."""
    rows = [row for row in rows if row.op not in CONSTRUCTION]
    values = [row for row in rows if row.mode != "host"]
    host = [row for row in rows if row.mode == "host"]
    parts = [f"**{names(row.device for row in rows)}**"]
    fills = [row for row in values if row.op not in (*OPS, READ)]
    copies = [row for row in values if row.op in OPS]
    reads = [row for row in values if row.op == READ]
    if fills:
        text = "GB/s written, in brackets as a fraction of the faster plain fill of the same bytes:"
        parts.append(f"{text}\n\n{_throughput('fill', fills)}")
    if ratios := _ratios(fills):
        parts.append(f"The compiled loops, as many times as fast as torch:\n\n{ratios}")
    if copies:
        text = "GB/s moved, read and written, in brackets as a fraction of the faster plain copy that moves as many:"
        parts.append(f"{text}\n\n{_throughput('copy', copies)}")
    if reads:
        text = "GB/s read, in brackets as a fraction of torch's sum of the same bytes:"
        parts.append(f"{text}\n\n{_throughput('read', reads)}")
    if host:
        parts.append(_host(host))
    parts.append(origin(rows))
    return "\n\n".join(parts)


def names(found: Iterable[str]) -> str:
    """Each once, in order, for a sentence."""
    return ", ".join(dict.fromkeys(found))


def _throughput(title: str, rows: Sequence[Row]) -> str:
    """Jobs down, makers across: GB/s and, of all but the ceiling, the fraction of it."""
    modes = list(dict.fromkeys(row.mode for row in rows))
    makers = list(dict.fromkeys((row.provider, row.mode) for row in rows))
    makers.sort(key=lambda maker: maker[0] in CEILINGS)
    cells = {(job_of(row), (row.provider, row.mode)): row for row in rows}
    head = [f"{provider} ({mode})" if len(modes) > 1 else provider for provider, mode in makers]
    lines = [(title, "dtype", "tensors", "threads", *head), ("---", "---", "---", "--:", *("--:" for _ in makers))]
    for job in dict.fromkeys(map(job_of, rows)):
        lines.append((*job, *(_cell(cells.get((job, maker))) for maker in makers)))
    return markdown(lines)


def job_of(row: Row) -> tuple[str, str, str, str]:
    """What is done, in which dtype, of what, with how many threads."""
    return row.op.replace("_", " "), row.dtype, row.workload, str(row.threads)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    speed = significant(row.gb_per_s)
    if row.provider in CEILINGS or row.fraction_of_ceiling == 0:
        return speed
    return f"{speed} ({significant(row.fraction_of_ceiling, 2)})"


def significant(value: float, digits: int = 3) -> str:
    """A positive number to so many significant digits, without an exponent.

    Examples:
        >>> significant(1234.5), significant(0.012345), significant(9.999)
        ('1234', '0.0123', '10.0')
    """
    rounded = float(f"{value:.{digits}g}")
    places = digits - 1 - int(f"{rounded:e}".partition("e")[2])
    return f"{value:.{max(places, 0)}f}"


def _ratios(rows: Sequence[Row]) -> str:
    """Jobs down, kinds of memory across: torch's time over that of the compiled loops; nothing where there are none."""
    times = {(job_of(row), row.provider, row.mode): row.median_s for row in rows}
    modes = list(dict.fromkeys(row.mode for row in rows))
    lines = [("fill", "dtype", "tensors", "threads", *modes), ("---", "---", "---", "--:", *("--:" for _ in modes))]
    for job in dict.fromkeys(job_of(row) for row in rows if row.provider == OURS["cpu"]):
        pairs = [(times.get((job, "torch", mode)), times.get((job, OURS["cpu"], mode))) for mode in modes]
        lines.append((*job, *(significant(torch / own, 2) if torch and own else "" for torch, own in pairs)))
    return markdown(lines) if len(lines) > 2 else ""


def _host(rows: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [("on the host", "by", "of", "ms"), ("---", "---", "---", "--:")]
    lines += [(row.op, row.provider, row.workload, significant(row.median_s * 1e3)) for row in rows]
    return "What a plan costs on the host:\n\n" + markdown(lines)


def origin(rows: Sequence[Row]) -> str:
    """How the rows were measured, where that is not in a column: a sentence or two."""
    rounds = [row.rounds for row in rows]
    samples = f"{min(rounds)} to {max(rounds)}" if min(rounds) < max(rounds) else f"{rounds[0]}"
    return f"Medians of {samples} samples, taken in turn in one process. {versions(rows)}."


def versions(rows: Sequence[Environment]) -> str:
    """With what, when and of which commit rows were measured."""
    used = (
        f"{name} {names(str(getattr(row, name)) for row in rows)}"
        for name in ("tritonparam", "stream", "torch", "triton", "numpy", "python")
    )
    return f"{', '.join(used)}; {names(row.date for row in rows)}, commit {names(row.commit for row in rows)}"


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """Lines of cells as a table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def section(results: Path) -> str:
    """What stands between the marks: every device's table, those of GPUs first, then by the files' names."""
    tables = [read(path) for path in sorted(results.glob("*.csv"))]
    return "\n\n".join(map(render, sorted(tables, key=is_of_a_host)))


def is_of_a_host(rows: Sequence[Row]) -> bool:
    """Whether no GPU made any of them."""
    return all(row.provider != OURS["cuda"] for row in rows if row.mode != "host")
