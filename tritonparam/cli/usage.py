"""How the commands show themselves: help that says what stands where, and errors in the voice of the library."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from tritonparam._interrupt import PROGRAM

_LONGEST = 980  # characters of a message
_OUT_OF_MEMORY = re.compile("allocate memory|out of memory|Storage size calculation overflowed")
_NAMES = re.compile(r"\(([^()]*)\)$")


class Command(TyperCommand):
    """A command whose usage line has its arguments and all that it cannot do without."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = _unwrapped(self.help)

    def get_params(self, ctx: Any) -> list[Any]:
        """Those of typer, without types."""
        return [_plain_type(each) for each in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As `SPEC --out DIR [OPTIONS]`."""
        return usage(self)


class Group(TyperGroup):
    """The commands together; by itself it shows its help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Those of typer, without types."""
        return [_plain_type(each) for each in super().get_params(ctx)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called.

        Raises:
            UsageError: There is none of that name.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            from tritonparam._arguments import did_you_mean, shown
            from tritonparam.checkpoint import UsageError

            hint = did_you_mean(args[0], self.commands)
            raise UsageError(f"COMMAND must be one of {', '.join(self.commands)}, got {shown(args[0])}{hint}")
        return super().resolve_command(ctx, args)


def _plain_type(parameter: Any) -> Any:
    """`parameter`, of which help names no Python type: a flag takes nothing, and an argument's name says enough."""
    is_flag = getattr(parameter, "is_flag", False) or parameter.name in ("show_completion", "install_completion")
    if is_flag and parameter.metavar is None:
        parameter.metavar = ""
    elif parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: ""
    return parameter


def _unwrapped(text: str | None) -> str | None:
    """Each paragraph as one line, which the terminal wraps."""
    return text and "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n"))


def usage(command: Any) -> list[str]:
    """What stands after the name of a command: arguments, the options that it needs, and that there are others."""
    needed = [each for each in command.params if each.required]
    arguments = [str(each.metavar) for each in needed if each.param_type_name == "argument"]
    options = [f"{each.opts[-1]} {each.metavar}" for each in needed if each.param_type_name == "option"]
    return [*arguments, *options, "[OPTIONS]"]


def message(error: Any) -> str:
    """What is wrong with a command line, of an error of click's.

    Those of the installed click, or of a copy inside typer, are told apart by name.
    """
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    called = PROGRAM if context is None else context.command_path
    needed = " ".join(usage(context.command)) if context is not None else ""
    if kind == "MissingParameter" and error.param is not None:
        parameter = error.param
        name = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[-1]
        return f"{name} is missing: {called} {needed}"
    if kind == "NoSuchOption":
        close = f"; did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"{called} has no option {error.option_name}{close or f'; {called} --help lists them'}"
    if kind == "BadOptionUsage":
        takes = "takes no value, got one" if "not take" in error.message else "must have a value, got none"
        return f"{error.option_name} {takes}"
    if "extra argument" in error.message:
        names = _NAMES.search(error.message)
        return f"{called} takes no more than {needed}, got also {names[1] if names else 'others'}"
    return str(error.format_message())


def show_help_alone(context: typer.Context) -> None:
    """Show the help of the group where no command is named, and end as for any other usage error."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@contextlib.contextmanager
def naming(out: Path) -> Iterator[None]:
    """Have an error of the system inside name `out`, as the user wrote it, and not only the file that it is about.

    Raises:
        CheckpointError: There is one.
    """
    try:
        yield
    except OSError as error:
        from tritonparam.checkpoint import CheckpointError

        about = "" if error.filename in (None, str(out)) else f" ({error.filename})"
        raise CheckpointError(f"{out} cannot be written: {error.strerror or error}{about}") from error


def explain(error: Exception) -> tuple[str, int]:
    """The message and the exit status of `error`."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return message(error) if hasattr(error, "format_message") else str(error), code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    # torch has no type of its own for the memory of a host.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return "out of memory; tensors that have to be replayed are held whole, one after the other", 1
    return f"{type(error).__name__}: {error}; --debug shows where", 1


def fail(text: str, code: int) -> NoReturn:
    """Write one line that no terminal takes for more than text, and exit."""
    line = " ".join(text.split())
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
    sys.stderr.write(f"{line}\n")
    sys.exit(code)
