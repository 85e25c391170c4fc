"""`warmup`: compiles beforehand what the first use would have to wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence

import typer

from tritonparam.checkpoint import UsageError
from tritonparam.plan import CompileStep, kernels_ahead, loops_ahead


def warm_up(architectures: Sequence[int]) -> None:
    """Compile the loops of this host, and the kernels for `architectures`, and say what there is then.

    Raises:
        ImportError: A package that compiles is not installed.
        UsageError: There is no such architecture, or kernels are interpreted here.
    """
    kernels = [(each, _kernels(each)) for each in dict.fromkeys(architectures)]
    _compile("loops for this host", loops_ahead())
    for architecture, steps in kernels:
        _compile(f"kernels for sm_{architecture}", steps)


def _kernels(architecture: int) -> list[CompileStep]:
    try:
        return kernels_ahead(architecture)
    except ValueError as error:
        raise UsageError(str(error).replace("architecture must", "--arch must")) from None


def _compile(what: str, steps: Sequence[CompileStep]) -> None:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    start = time.perf_counter()
    for _, act in track(steps, what, console=console, transient=True, disable=not console.is_terminal):
        act()
    typer.echo(f"{len(steps)} {what} ready, {time.perf_counter() - start:.1f} s")
