"""What is written to the disk, whole or not at all: files, the folder beside a checkpoint, and where either may go.

`places` says what may be replaced, `writing` writes a file, `partial_folder` builds a folder that others cannot touch.
"""

from __future__ import annotations

from tritonparam.checkpoint.disk.partial_folder import SAVE, PartialFolder
from tritonparam.checkpoint.disk.places import as_path, check_target, shown
from tritonparam.checkpoint.disk.writing import close_locks, hold, is_at, lock, replace_file, write_file

__all__ = [
    "SAVE",
    "PartialFolder",
    "as_path",
    "check_target",
    "close_locks",
    "hold",
    "is_at",
    "lock",
    "replace_file",
    "shown",
    "write_file",
]
