"""`tritonparam init`: from what the user names as a model to the files of its checkpoint, without the model in memory.

`prepare` turns SPEC into the list of tensors to write; `write_checkpoint` streams them to sharded files, and beside
them a record of how they were made.
"""

from __future__ import annotations

from tritonparam.cli.init.job import Job, declared_entries, prepare
from tritonparam.cli.init.spec import Spec
from tritonparam.cli.init.writing import Written, check_device, write_checkpoint

__all__ = ["Job", "Spec", "Written", "check_device", "declared_entries", "prepare", "write_checkpoint"]
