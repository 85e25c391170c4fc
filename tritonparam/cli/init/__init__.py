"""`tritonparam init`: from what the user names as a model to the files of its checkpoint, without the model in memory.

`prepare` turns SPEC into the list of tensors to write; `write_checkpoint` streams them to sharded files, and beside
them a record of how they were made.
"""

from __future__ import annotations

from tritonparam.cli.init.job import declared_entries, prepare
from tritonparam.cli.init.printing import kept, print_report, print_written, written_json
from tritonparam.cli.init.processes import agree, own_device, started_processes
from tritonparam.cli.init.spec import Spec, model_of, read_spec
from tritonparam.cli.init.writing import check_device, share, write_checkpoint

__all__ = [
    "Spec",
    "agree",
    "check_device",
    "declared_entries",
    "kept",
    "model_of",
    "own_device",
    "prepare",
    "print_report",
    "print_written",
    "read_spec",
    "share",
    "started_processes",
    "write_checkpoint",
    "written_json",
]
