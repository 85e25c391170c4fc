"""The command line: `tritonparam init` writes a freshly initialized checkpoint, `tritonparam inspect` checks one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonparam._version import __version__

if TYPE_CHECKING:
    from tritonparam.cli.init import Job, Written
    from tritonparam.cli.inspect import Inspection

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

SPEC_HELP = (
    "A Hugging Face config.json (of any name), a folder with one, package.module:callable returning a torch.nn.Module, "
    "or the tritonparam.json of an earlier run, to repeat it exactly."
)
INIT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam init examples/gpt2.json --out gpt2-seed0

  tritonparam init llama/config.json --out llama --dtype bf16 --device cuda --seed 7

  tritonparam init mypackage.models:build --out model --max-shard-size 2GB

  tritonparam init gpt2-seed0/tritonparam.json --out the-same-again
"""
INSPECT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam inspect gpt2-seed0

  tritonparam inspect gpt2-seed0 --plot gpt2.png

  tritonparam inspect gpt2-seed0 --json | python -m json.tool
"""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tritonparam {__version__}")
        raise typer.Exit


@app.callback(epilog="Run 'tritonparam init --help' or 'tritonparam inspect --help' for examples.")
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Freshly initialized checkpoints with the same bits on every device, at the speed of the disk."""


@app.command(epilog=INIT_EXAMPLES)
def init(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP, show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.", show_default=False)],
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="The seed of every value. \\[default: 0]", metavar="N")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bf16, fp16, fp32, fp64, float8_e4m3fn or float8_e5m2. \\[default: the config's, else fp32]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; changes no value. \\[default: cuda where there is one]")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="triton or numpy; changes no value.")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The most bytes in one file. \\[default: 5GB]")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace DIR and all in it, once the new one is whole, if it is a checkpoint."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write the freshly initialized checkpoint of SPEC: sharded safetensors, its config, and a record to repeat it.

    Memory holds one shard at a time. A run that was cut short continues when it is started again; DIR appears only when
    all of it is there.
    """
    from tritonparam.checkpoint import ProgressBar, check_target, parse_dtype, parse_size
    from tritonparam.cli.init import check_device, prepare, write_checkpoint

    check_target(out, overwrite)
    size = None if max_shard_size is None else parse_size(max_shard_size, "--max-shard-size")
    chosen = None if dtype is None else parse_dtype(dtype, "--dtype")
    place = check_device(device, backend)
    job = prepare(spec, seed=seed, dtype=chosen, max_shard_size=size)
    with ProgressBar("writing", job.nbytes, quiet=as_json) as progress:
        written = write_checkpoint(
            job, out, device=place, backend=backend, overwrite=overwrite, progress=progress.advance
        )
    _show_written(job, written, out, as_json)


@app.command(epilog=INSPECT_EXAMPLES)
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with safetensors.", show_default=False)],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw histograms against the expected densities.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare every tensor in DIR with what it should have been drawn from; exit 1 if any disagrees.

    Expectations come from DIR/tritonparam.json or, where there is none, from the model of DIR/config.json. All tests
    together raise a false alarm in at most one of 1e6 checkpoints.
    """
    from tritonparam.checkpoint import ProgressBar
    from tritonparam.cli.inspect import inspect_checkpoint, stored_bytes, to_json

    if plot is not None:
        from tritonparam.cli.inspect import check_plot, plot_inspection

        check_plot(plot)
    with ProgressBar("reading", stored_bytes(folder), quiet=as_json) as progress:
        inspection = inspect_checkpoint(folder, progress.advance)
    if as_json:
        typer.echo(to_json(inspection, folder))
    else:
        _show_inspection(inspection)
    if plot is not None:
        plot_inspection(inspection, plot, folder.resolve().name)
    if not inspection.ok:
        raise typer.Exit(1)


def _show_written(job: Job, written: Written, out: Path, as_json: bool) -> None:
    from tritonparam.checkpoint import format_size

    rate = written.nbytes / max(written.seconds, 1e-9) / 1e9
    if as_json:
        import json

        row = {
            "out": str(out),
            "parameters": written.parameters,
            "tensors": written.tensors,
            "bytes": written.nbytes,
            "seconds": round(written.seconds, 6),
            "gb_per_s": round(rate, 6),
            "digest": written.digest,
            "seed": job.seed,
            "dtype": job.settings["dtype"],
            "files": list(written.shards),
            "reused_files": written.reused,
        }
        typer.echo(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        numbers = f"{written.parameters:,} parameters, {format_size(written.nbytes)}, {written.seconds:.2f} s"
        typer.echo(f"{out}: {numbers}, {rate:.2f} GB/s, digest {written.digest}")
        return
    table = Table(box=None, show_header=False, pad_edge=False, title=str(out), title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("parameters", f"{written.parameters:,} in {written.tensors} tensors")
    table.add_row("bytes", f"{format_size(written.nbytes)} in {len(written.shards)} files ({written.reused} reused)")
    table.add_row("seconds", f"{written.seconds:.2f}")
    table.add_row("GB/s", f"{rate:.2f}")
    table.add_row("digest", written.digest)
    console.print(table)


def _show_inspection(inspection: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tritonparam.checkpoint import dtype_name

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


def main() -> None:
    """Run the command line: exit 0, or one line on standard error and exit 2 for a usage error, 1 for any other."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)
    except typer.Abort:
        _fail("aborted", 130)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> tuple[str, int]:
    """The message and the exit status of `error`."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        # Click's errors (those of the installed click or of a copy inside typer) put their message together here.
        message: Callable[[], str] = getattr(error, "format_message", error.__str__)
        return message(), code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    if isinstance(error, MemoryError):
        return "out of memory; a smaller --max-shard-size needs less", 1
    return f"{type(error).__name__}: {error}; --debug shows where", 1


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
