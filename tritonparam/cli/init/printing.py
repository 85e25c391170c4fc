"""What `init` says about what it wrote: a table on a terminal, a line elsewhere, or JSON."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from tritonparam._program import memory_peak
from tritonparam.checkpoint import dtype_name, format_size
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.pieces import split
from tritonparam.cli.init.workspace import finished_files
from tritonparam.cli.init.writing import Written
from tritonparam.cli.record import Entry
from tritonparam.module import Ledger, LedgerRow, why_replayed
from tritonparam.stream import Constant, derive_key


def print_written(written: Written, out: Path) -> None:
    """Print a summary: what was written to the folder `out`, and how fast."""
    # Only here: JSON does without rich.
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        numbers = f"{written.parameters:,} parameters, {format_size(written.nbytes)}, {written.seconds:.2f} s"
        typer.echo(f"{out}: {numbers}, {written.gb_per_s:.2f} GB/s, digest {written.digest}")
        return
    table = Table(box=None, show_header=False, pad_edge=False, title=str(out), title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("parameters", f"{written.parameters:,} in {written.tensors} tensors")
    table.add_row("bytes", f"{format_size(written.nbytes)} in {len(written.shards)} files ({written.reused} reused)")
    table.add_row("seconds", f"{written.seconds:.2f}")
    table.add_row("GB/s", f"{written.gb_per_s:.2f}")
    table.add_row("digest", written.digest)
    table.add_row("fingerprint", written.fingerprint)
    console.print(table)


def kept(job: Job, out: Path) -> str:
    """The end of the line about an interrupt: what of the folder `out` is kept, and how to go on."""
    names = [shard.name for shard in split(job.entries, job.settings["max_shard_size"])]
    whole = finished_files(out, names)
    if whole is None:
        return f"; {out} is whole"
    partial = out.with_name(f"{out.name}.partial")
    if not whole:
        return f": none of {len(names)} files is finished; run the same command again to start over"
    some = f"{whole} of {len(names)} files {'is' if whole == 1 else 'are'} in {partial}"
    return f": {some}; run the same command again to continue"


def print_report(job: Job, written: Written) -> None:
    """Print where the values of each tensor come from, and what the run took in memory and time."""
    typer.echo(str(_ledger(job)))
    typer.echo(f"{written.tensors} tensors, {written.nbytes:,} bytes, in {written.seconds:.3f} s; {memory_peak()}")


def _ledger(job: Job) -> Ledger:
    return Ledger(tuple(_row(job, entry) for entry in job.entries))


def _row(job: Job, entry: Entry) -> LedgerRow:
    replayed = job.replays.get(entry.name)
    own = derive_key(job.seed, entry.name)
    keys = {own if origin is None else origin.key for box, origin in entry.boxes() if not isinstance(box.law, Constant)}
    return LedgerRow(
        entry.name,
        entry.aliases,
        entry.kind,
        entry.shape,
        entry.dtype,
        "cloned" if keys and own not in keys else "initialized",
        entry.laws,
        ", ".join(entry.name if key == own else f"{key:#018x}" for key in sorted(keys)),
        "" if replayed is None else why_replayed(replayed),
    )


def written_json(job: Job, written: Written, out: Path, *, report: bool = False) -> str:
    """The same, and what `job` said, as one line of JSON; with `report`, a row for every tensor too."""
    row = {
        "out": str(out),
        "parameters": written.parameters,
        "tensors": written.tensors,
        "bytes": written.nbytes,
        "seconds": round(written.seconds, 6),
        "gb_per_s": round(written.gb_per_s, 6),
        "digest": written.digest,
        "fingerprint": written.fingerprint,
        "seed": job.seed,
        "dtype": job.settings["dtype"],
        "files": list(written.shards),
        "reused_files": written.reused,
    }
    if report:
        row["memory"] = memory_peak()
        row["ledger"] = [
            {
                "name": each.name,
                "aliases": each.aliases,
                "kind": each.kind,
                "shape": each.shape,
                "dtype": dtype_name(each.dtype),
                "state": each.state,
                "law": each.law,
                "key": each.key,
                "why": each.why,
            }
            for each in _ledger(job)
        ]
    return json.dumps(row)
