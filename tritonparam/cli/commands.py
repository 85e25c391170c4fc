"""The command line: `init` writes a checkpoint, `inspect` checks one, `diff` compares two, `plan` looks ahead."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tritonparam._interrupt import EXIT_CODE, INTERRUPTED
from tritonparam._program import ending, imported
from tritonparam._version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LONGEST = 980  # characters of a message
_OUT_OF_MEMORY = re.compile("allocate memory|out of memory|Storage size calculation overflowed")
SPEC_HELP = (
    "A Hugging Face config.json (of any name), a folder with one, package.module:callable returning a torch.nn.Module, "
    "or the tritonparam.json of an earlier run, to repeat it exactly."
)
INIT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam init examples/gpt2.json --out gpt2-seed0

  tritonparam init llama/config.json --out llama --dtype bf16 --device cuda --seed 7

  tritonparam init mypackage.models:build --out model --max-shard-size 2GB

  tritonparam init gpt2-seed0/tritonparam.json --out the-same-again

  torchrun --nproc-per-node 8 -m tritonparam init llama/config.json --out llama
"""
INSPECT_EXAMPLES = """[bold]Examples[/bold]

  tritonparam inspect gpt2-seed0

  tritonparam inspect gpt2-seed0 --plot gpt2.png

  tritonparam inspect gpt2-seed0 --json | python -m json.tool
"""
PLAN_EXAMPLES = """[bold]Examples[/bold]

  tritonparam plan examples/llama-3.1-405b.json --mesh dp_shard=128,tp=8

  tritonparam plan examples/llama-3.1-405b.json --mesh pp=8,dp_shard=16,tp=8 --rank 512 --plot ranks.png

  tritonparam plan mypackage.models:build --mesh tp=4 --tp-plan tp.json --dtype bf16 --json
"""
DIFF_EXAMPLES = """[bold]Examples[/bold]

  tritonparam diff run1/step-1000 run2/step-1000

  tritonparam diff gpt2-seed0/tritonparam.json gpt2-copy

  tritonparam diff a.safetensors b.safetensors --json
"""
WARMUP_EXAMPLES = """[bold]Examples[/bold]

  tritonparam warmup

  tritonparam warmup --arch 80 90 100
"""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tritonparam {__version__}")
        raise typer.Exit


@app.callback(epilog="Run 'tritonparam COMMAND --help' for examples.")
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
    target: Annotated[
        str | None,
        typer.Option(
            "--callable",
            metavar="NAME",
            help="Only to repeat a record of package.module:callable: the same name again, which allows it to be run.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="The seed of every value. \\[default: 0]", metavar="N")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of parameters and buffers that name none: bf16, fp16, fp32, fp64, float8_e4m3fn or float8_e5m2. "
            "\\[default: the config's, else fp32]"
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; changes no value. \\[default: cuda where there is one]")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="triton, cpu or numpy; changes no value.")] = None,
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
    report: Annotated[
        bool, typer.Option("--report", help="Print the law and key of every tensor, and the memory and time it took.")
    ] = False,
    deadline: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for other processes that give no sign of life.")
    ] = 300.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write the freshly initialized checkpoint of SPEC: sharded safetensors, its config, and a record to repeat it.

    Memory holds some tens of megabytes at a time; only tensors that have to be replayed are held whole, one after the
    other. A run that was cut short continues when it is started again; DIR appears only when all of it is there.

    Started by torchrun, the processes divide the files among them, which are the same as those of one process.
    """
    from tritonparam.checkpoint import ProgressBar, check_target, parse_dtype, parse_size
    from tritonparam.cli.init import (
        agree,
        check_device,
        own_device,
        prepare,
        print_report,
        print_written,
        share,
        started_processes,
        write_checkpoint,
        written_json,
    )

    processes = started_processes(deadline)

    def prepared() -> Any:
        check_target(out, overwrite)
        size = None if max_shard_size is None else parse_size(max_shard_size, "--max-shard-size")
        chosen = None if dtype is None else parse_dtype(dtype, "--dtype")
        where = check_device(own_device(device), backend)
        return prepare(spec, target=target, seed=seed, dtype=chosen, max_shard_size=size), where

    job, where = agree(processes, prepared, out, overwrite)
    imported()
    mine = sum(shard.nbytes for shard in share(job, processes))
    with ProgressBar("writing", mine, quiet=as_json or processes.rank > 0) as progress:
        written = write_checkpoint(
            job,
            out,
            device=where,
            backend=backend,
            overwrite=overwrite,
            progress=progress.advance,
            processes=processes,
        )
    if processes.rank > 0:
        return
    if as_json:
        typer.echo(written_json(job, written, out, report=report))
    else:
        print_written(written, out)
        if report:
            print_report(job, written)


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
    from tritonparam.cli.inspect import inspect_checkpoint, inspection_json, print_inspection, stored_bytes

    if plot is not None:
        from tritonparam.cli.inspect import check_plot, plot_inspection

        check_plot(plot)
    imported()
    with ProgressBar("reading", stored_bytes(folder), quiet=as_json) as progress:
        inspection = inspect_checkpoint(folder, progress.advance)
    if as_json:
        typer.echo(inspection_json(inspection, folder))
    else:
        print_inspection(inspection)
    if plot is not None:
        plot_inspection(inspection, plot, folder.resolve().name)
    if not inspection.ok:
        raise typer.Exit(1)


@app.command(epilog=PLAN_EXAMPLES)
def plan(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP, show_default=False)],
    mesh: Annotated[
        str,
        typer.Option(
            metavar="NAME=N,...",
            help="Sizes of pp, dp_replicate, dp_shard, cp and tp; 1 where left out.",
            show_default=False,
        ),
    ],
    dtype: Annotated[str | None, typer.Option(help="As for init.")] = None,
    tp_plan: Annotated[
        Path | None,
        typer.Option(
            "--tp-plan",
            metavar="FILE.json",
            help="What tp cuts: an object of module names, with * for numbers, and styles (colwise, rowwise, replicate "
            "and the others of transformers). \\[default: the plan that transformers has for the model]",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", help="Show this rank too, and build its plan. \\[default: the most loaded]"),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(metavar="GB/S", help="Of GPU memory, for the prediction. \\[default: 3240, measured on an H100]"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the bytes of every rank.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what every rank of a mesh would hold of SPEC, and make: bytes, boxes, launches, time, and who holds most.

    Nothing is allocated, and no process group is needed. Seconds of writing are predicted; those of building one
    rank's plan are measured on this host.
    """
    from tritonparam.checkpoint import parse_dtype
    from tritonparam.cli.plan import checked_bandwidth, checked_mesh, plan_json, plan_spec, plan_text, read_tp_plan

    shape = checked_mesh(mesh, rank)
    chosen = None if dtype is None else parse_dtype(dtype, "--dtype")
    rules, speed = read_tp_plan(tp_plan), checked_bandwidth(bandwidth)
    if plot is not None:
        from tritonparam.cli.inspect import check_plot

        check_plot(plot)
    imported()
    planned = plan_spec(spec, shape, dtype=chosen, tp_plan=rules, bandwidth=speed, rank=rank)
    typer.echo(plan_json(planned) if as_json else plan_text(planned))
    if plot is not None:
        from tritonparam.cli.plan import plot_plan

        plot_plan(planned, plot)


@app.command(epilog=DIFF_EXAMPLES)
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint, or a record.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Name the tensors that A and B do not have alike, and say by how much their elements differ; exit 1 if there are.

    A checkpoint is a safetensors file, an index, or a folder with either or with shards of any cut. A record is the
    tritonparam.json that init writes, which holds fingerprints: with one, only which tensors differ is said.
    """
    from tritonparam.cli.diff import differences, differences_json, print_differences

    imported()
    found = differences(first, second, quiet=as_json)
    if as_json:
        typer.echo(differences_json(found, first, second))
    else:
        print_differences(found)
    if found:
        raise typer.Exit(1)


@app.command(epilog=WARMUP_EXAMPLES)
def warmup(
    arch: Annotated[
        list[int] | None,
        typer.Option(
            "--arch",
            metavar="N ...",
            help="Also the GPU kernels, for CUDA devices of these compute capabilities; none of them need be here.",
            show_default=False,
        ),
    ] = None,
    more: Annotated[list[int] | None, typer.Argument(hidden=True)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compile beforehand what the first use would wait for: the loops of this host, and GPU kernels if asked.

    Loops are kept in the user's cache folder for this version and this CPU, kernels in Triton's own.
    """
    from tritonparam.cli.warmup import warm_up

    if more and not arch:
        raise typer.BadParameter(f"got {more[0]}; compute capabilities stand after --arch")
    imported()
    warm_up([*(arch or ()), *(more or ())])


def main() -> None:
    """Run the command line: exit 0, or one line on standard error and exit 2 for a usage error, 1 for any other."""
    try:
        _run()
    except SystemExit as error:
        if isinstance(error.code, int):
            ending(error.code)
        raise


def _run() -> None:
    debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, EXIT_CODE)
    except typer.Abort:
        _fail("aborted", EXIT_CODE)
    except Exception as error:
        if debug:
            raise
        _fail(*_explain(error))
    if code == EXIT_CODE:  # typer makes this of an interrupt
        _fail(INTERRUPTED, EXIT_CODE)
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
    # torch has no type of its own for the memory of a host.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return "out of memory; tensors that have to be replayed are held whole, one after the other", 1
    return f"{type(error).__name__}: {error}; --debug shows where", 1


def _fail(message: str, code: int) -> None:
    """Write one line that no terminal takes for more than text, and exit."""
    line = " ".join(message.split())
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    sys.stderr.write(f"error: {line}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
