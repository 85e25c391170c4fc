"""The commands: `tritonparam init` writes a freshly initialized checkpoint, `tritonparam inspect` checks one.

Each has a folder; the record, which the one writes and the other reads, lies beside them. What a command does to files
that `load` and `save` do too is for `checkpoint`.
"""

from __future__ import annotations

from tritonparam._interrupt import quiet_interrupt

with quiet_interrupt():
    from tritonparam.cli.commands import app, main

__all__ = ["app", "main"]
