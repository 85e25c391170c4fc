"""What can go wrong with a checkpoint, each with the exit status that the command line gives it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar

from tritonparam._errors import TritonParamError


class CheckpointError(TritonParamError):
    """The work could not be done: no space, no permission, a missing package, other bytes than promised.

    Examples:
        >>> CheckpointError("the disk is full").exit_code
        1
    """

    exit_code: ClassVar[int] = 1


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no file where one was looked for: a `FileNotFoundError` too, as of `open`.

    Args:
        message: The error in words.
        path: What is not there.

    Examples:
        >>> error = CheckpointNotFoundError("model.safetensors does not exist", Path("model.safetensors"))
        >>> str(error), error.filename, error.errno == errno.ENOENT, isinstance(error, OSError)
        ('model.safetensors does not exist', 'model.safetensors', True, True)
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(errno.ENOENT, message, str(path))

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[type[CheckpointNotFoundError], tuple[str, Path]]:
        return type(self), (str(self.strerror), Path(self.filename))


class UsageError(CheckpointError):
    """What was asked for is not possible as written: nothing was done.

    Examples:
        >>> UsageError("no such file").exit_code
        2
    """

    exit_code: ClassVar[int] = 2
