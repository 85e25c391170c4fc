"""The progress bar of long work, on standard error."""

from __future__ import annotations

from typing import Any

from tritonparam._arguments import shown

LONG = 1_000_000_000  # bytes


class ProgressBar:
    """A bar that counts bytes, on the terminal of standard error; nothing where there is none.

    Args:
        verb: What is being done.
        total: How many bytes there are.
        quiet: Show nothing.
        always: Show it where there is no terminal too.
    """

    def __init__(self, verb: str, total: int, *, quiet: bool = False, always: bool = False) -> None:
        self._bar: Any = None
        if quiet:
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        console = Console(stderr=True)
        columns = (TextColumn(verb), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        disabled = not (always or console.is_terminal)
        self._bar = Progress(*columns, console=console, transient=not always, disable=disabled)
        self._task = self._bar.add_task(verb, total=total)

    @classmethod
    def of(cls, verb: str, total: int, progress: bool | None) -> ProgressBar:
        """The bar for the argument `progress` of `load` and `save`: None shows it where there is much to do.

        Raises:
            TypeError: progress is no bool and not None.
        """
        check_progress(progress)
        return cls(verb, total, quiet=progress is False or (progress is None and total <= LONG), always=bool(progress))

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count `count` more bytes."""
        if self._bar is not None:
            self._bar.advance(self._task, count)


def check_progress(progress: object) -> None:
    """Refuse what is neither a bool nor None.

    Raises:
        TypeError: It is something else.
    """
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, got {shown(progress)}")
