"""What `init` says about what it wrote: a table on a terminal, a line elsewhere, or JSON."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from tritonparam.checkpoint import format_size
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.writing import Written


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
    console.print(table)


def written_json(job: Job, written: Written, out: Path) -> str:
    """The same, and what `job` said, as one line of JSON."""
    row = {
        "out": str(out),
        "parameters": written.parameters,
        "tensors": written.tensors,
        "bytes": written.nbytes,
        "seconds": round(written.seconds, 6),
        "gb_per_s": round(written.gb_per_s, 6),
        "digest": written.digest,
        "seed": job.seed,
        "dtype": job.settings["dtype"],
        "files": list(written.shards),
        "reused_files": written.reused,
    }
    return json.dumps(row)
