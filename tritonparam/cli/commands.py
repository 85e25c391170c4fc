"""The command line: `init` writes a checkpoint, `inspect` checks one, `diff` compares two, `plan` looks ahead."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tritonparam._interrupt import EXIT_CODE, PROGRAM, keeping, stopped
from tritonparam._program import ending, imported
from tritonparam._version import __version__
from tritonparam.cli.examples import (
    DIFF_EXAMPLES,
    INIT_EXAMPLES,
    INSPECT_EXAMPLES,
    PLAN_EXAMPLES,
    PLAN_SPEC_HELP,
    SPEC_HELP,
    WARMUP_EXAMPLES,
)
from tritonparam.cli.options import all_of, new_folder, number, path, size, whole
from tritonparam.cli.usage import Command, Group, explain, fail, naming, show_help_alone

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NOTHING = "; nothing was written"
_ARCH = whole("--arch", "a compute capability such as 80, 90 or 100")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tritonparam {__version__}")
        raise typer.Exit


@app.callback(epilog="Run 'tritonparam COMMAND --help' for examples.")
def _app(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Make checkpoints of freshly initialized models, with the same bits on every device; check and compare them."""
    show_help_alone(context)


@app.command(cls=Command, epilog=INIT_EXAMPLES)
def init(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP, show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=new_folder("--out"), metavar="DIR", help="The folder to make.", show_default=False
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            "--callable",
            metavar="NAME",
            help="To repeat a record of package.module:callable with tensors without laws: its name, to let it run.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=whole("--seed", "an int in [0, 2**64)", 0, 2**64),
            metavar="N",
            help="The seed of every value, from 0 to 2**64 - 1. \\[default: 0]",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="Of parameters and buffers that name none: bf16, fp16, fp32, fp64, float8_e4m3fn or float8_e5m2. "
            "\\[default: the config's, else fp32]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="cuda or cpu; changes no value. \\[default: cuda where there is one]"),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="triton, cpu or numpy; changes no value.")
    ] = None,
    max_shard_size: Annotated[
        int | None,
        typer.Option(parser=size, metavar="SIZE", help="The most bytes in one file, such as 2GB. \\[default: 5GB]"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace DIR and all in it, once the new one is whole, if it is a checkpoint."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print the law and key of every tensor, and the memory and time it took.")
    ] = False,
    deadline: Annotated[
        float,
        typer.Option(
            parser=number("--deadline", "a number of seconds above 0"),
            metavar="SECONDS",
            help="How long to wait for other processes that give no sign of life.",
        ),
    ] = 300.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write the freshly initialized checkpoint of SPEC: sharded safetensors, its config, and a record to repeat it.

    Memory holds some tens of megabytes at a time; only tensors that have to be replayed are held whole, one after the
    other. A run that was cut short continues when it is started again; DIR appears only when all of it is there.

    Started by torchrun, the processes divide the files among them, which are the same as those of one process.
    """
    from tritonparam.checkpoint import ProgressBar, check_target, parse_dtype
    from tritonparam.cli.init import (
        agree,
        check_device,
        kept,
        own_device,
        prepare,
        print_report,
        print_written,
        read_spec,
        share,
        started_processes,
        write_checkpoint,
        written_json,
    )

    processes = started_processes(deadline)

    def prepared() -> Any:
        source, _, chosen, where = all_of(
            lambda: read_spec(spec),
            lambda: check_target(out, overwrite),
            lambda: None if dtype is None else parse_dtype(dtype, "--dtype"),
            lambda: check_device(own_device(device), backend),
        )
        job = prepare(spec, source=source, target=target, seed=seed, dtype=chosen, max_shard_size=max_shard_size)
        return job, where

    job, where = agree(processes, prepared, out, overwrite)
    imported()
    mine = sum(shard.nbytes for shard in share(job, processes))
    silent = quiet or as_json or processes.rank > 0
    with keeping(lambda: kept(job, out)), naming(out), ProgressBar("writing", mine, quiet=silent) as progress:
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
    elif not quiet:
        print_written(written, out)
        if report:
            print_report(job, written)


@app.command(cls=Command, epilog=INSPECT_EXAMPLES)
def inspect(
    folder: Annotated[
        Path,
        typer.Argument(parser=path("DIR"), metavar="DIR", help="A folder with safetensors.", show_default=False),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(parser=path("--plot"), metavar="FILE.png", help="Draw histograms against the expected densities."),
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="What DIR should hold, as for init. \\[default: what DIR itself says]"),
    ] = None,
    only_failures: Annotated[
        bool, typer.Option("--only-failures", help="List only the tensors that disagree.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors; the exit status says whether all is well.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare every tensor in DIR with what it should have been drawn from; exit 1 if any disagrees.

    Expectations come from --spec, DIR/tritonparam.json or, where there is neither, the model of DIR/config.json. A
    folder that `save` wrote in Python has neither: its statistics are shown, and compared where --spec names its model.
    All tests together raise a false alarm in at most one of 1e6 checkpoints.

    On a terminal the table has its width, where some columns may be left out; elsewhere it has all of them.
    """
    from tritonparam.checkpoint import ProgressBar
    from tritonparam.cli.inspect import inspect_checkpoint, inspection_json, print_inspection, stored_bytes

    if plot is not None:
        from tritonparam.cli.inspect import check_plot

        check_plot(plot)
    with keeping(_NOTHING):
        nbytes = stored_bytes(folder)
        imported()
        with ProgressBar("reading", nbytes, quiet=quiet or as_json) as progress:
            inspection = inspect_checkpoint(folder, progress.advance, spec, must_compare=quiet)
        if as_json:
            typer.echo(inspection_json(inspection, folder, only_failures=only_failures))
        elif not quiet:
            print_inspection(inspection, only_failures=only_failures)
        if plot is not None:
            from tritonparam.cli.inspect import plot_inspection

            plot_inspection(inspection, plot, folder.resolve().name)
    if not inspection.ok:
        raise typer.Exit(1)


@app.command(cls=Command, epilog=PLAN_EXAMPLES)
def plan(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=PLAN_SPEC_HELP, show_default=False)],
    mesh: Annotated[
        str,
        typer.Option(
            metavar="NAME=N,...",
            help="Sizes of pp, dp_replicate, dp_shard, cp and tp; 1 where left out.",
            show_default=False,
        ),
    ],
    dtype: Annotated[str | None, typer.Option(metavar="DTYPE", help="As for init.")] = None,
    tp_plan: Annotated[
        Path | None,
        typer.Option(
            "--tp-plan",
            parser=path("--tp-plan"),
            metavar="FILE.json",
            help="What tp cuts: an object of module names, with * for numbers, and styles (colwise, rowwise, replicate "
            "and the others of transformers). \\[default: the plan that transformers has for the model]",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            parser=whole("--rank", "a rank of the mesh: an int from 0 on"),
            metavar="R",
            help="Show this rank too, and build its plan. \\[default: the most loaded]",
        ),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            parser=number("--bandwidth", "a positive number of GB/s"),
            metavar="GB/S",
            help="Of GPU memory, for the prediction. \\[default: 3240, measured on an H100]",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(parser=path("--plot"), metavar="FILE.png", help="Draw the bytes of every rank."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Say what every rank of a mesh would hold of SPEC, and make: bytes, boxes, launches, time, and who holds most.

    Nothing is allocated, and no process group is needed. Seconds of writing are predicted; those of building one
    rank's plan are measured on this host.
    """
    from tritonparam.checkpoint import parse_dtype
    from tritonparam.cli.plan import checked_mesh, plan_json, plan_spec, plan_text, read_tp_plan

    shape = checked_mesh(mesh, rank)
    chosen = None if dtype is None else parse_dtype(dtype, "--dtype")
    rules = read_tp_plan(tp_plan)
    if plot is not None:
        from tritonparam.cli.inspect import check_plot

        check_plot(plot)
    imported()
    with keeping(_NOTHING):
        planned = plan_spec(spec, shape, dtype=chosen, tp_plan=rules, bandwidth=bandwidth, rank=rank)
        typer.echo(plan_json(planned) if as_json else plan_text(planned))
        if plot is not None:
            from tritonparam.cli.plan import plot_plan

            plot_plan(planned, plot)


@app.command(cls=Command, epilog=DIFF_EXAMPLES)
def diff(
    first: Annotated[
        Path, typer.Argument(parser=path("A"), metavar="A", help="A checkpoint, or a record.", show_default=False)
    ],
    second: Annotated[Path, typer.Argument(parser=path("B"), metavar="B", help="Another one.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Name the tensors that A and B do not have alike, and say by how much their elements differ; exit 1 if there are.

    A checkpoint is a safetensors file, an index, or a folder with either or with shards of any cut. A record is the
    tritonparam.json that init writes, which holds fingerprints: with one, only which tensors differ is said.
    """
    from tritonparam.cli.diff import differences, differences_json, print_differences

    imported()
    with keeping(_NOTHING):
        found = differences(first, second, quiet=as_json)
    if as_json:
        typer.echo(differences_json(found, first, second))
    else:
        print_differences(found)
    if found:
        raise typer.Exit(1)


@app.command(cls=Command, epilog=WARMUP_EXAMPLES)
def warmup(
    arch: Annotated[
        list[int] | None,
        typer.Option(
            "--arch",
            parser=_ARCH,
            metavar="N ...",
            help="Also the GPU kernels, for CUDA devices of these compute capabilities; none of them need be here.",
            show_default=False,
        ),
    ] = None,
    more: Annotated[list[int] | None, typer.Argument(parser=_ARCH, metavar="", hidden=True)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compile beforehand what the first use would wait for: the loops of this host, and GPU kernels if asked.

    Loops are kept in the user's cache folder for this version and this CPU, kernels in Triton's own.
    """
    from tritonparam.checkpoint import UsageError
    from tritonparam.cli.warmup import warm_up

    if more and not arch:
        raise UsageError(f"warmup takes compute capabilities after --arch only, got {more[0]} without it")
    imported()
    with keeping("; what is compiled is kept, and the same command goes on from there"):
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
        code = app(prog_name=PROGRAM, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        fail(*stopped())
    except Exception as error:
        if debug:
            raise
        text, status = explain(error)
        fail(f"error: {text}", status)
    if code == EXIT_CODE:  # typer makes this of an interrupt
        fail(*stopped())
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
