"""What can go wrong with a checkpoint, each with the exit status that the command line gives it."""

from __future__ import annotations

from typing import ClassVar


class CheckpointError(Exception):
    """The work could not be done: no space, no permission, a missing package, other bytes than promised.

    Examples:
        >>> CheckpointError("the disk is full").exit_code
        1
    """

    exit_code: ClassVar[int] = 1


class UsageError(CheckpointError):
    """What was asked for is not possible as written: nothing was done.

    Examples:
        >>> UsageError("no such file").exit_code
        2
    """

    exit_code: ClassVar[int] = 2
