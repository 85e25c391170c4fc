"""Safetensors files of tensors, whole or in shards of any cut: `load`, `save`, and what the commands share with them.

What a checkpoint is to hold before there is a model, and whether it holds that, is for `cli`.
"""

from __future__ import annotations

from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import (
    INDEX_NAME,
    RECORD_NAME,
    Extent,
    encode_header,
    hash_tensor,
    lay_out,
    read_chunks,
    read_header,
    write_file,
)
from tritonparam.checkpoint.loading import LoadReport, load
from tritonparam.checkpoint.partial_folder import PartialFolder, check_target, lock
from tritonparam.checkpoint.progress import ProgressBar
from tritonparam.checkpoint.saving import SaveReport, save
from tritonparam.checkpoint.shards import in_groups, index_text, shard_names
from tritonparam.checkpoint.units import dtype_name, format_size, parse_dtype, parse_size

__all__ = [
    "INDEX_NAME",
    "RECORD_NAME",
    "CheckpointError",
    "Extent",
    "LoadReport",
    "PartialFolder",
    "ProgressBar",
    "SaveReport",
    "UsageError",
    "check_target",
    "dtype_name",
    "encode_header",
    "format_size",
    "hash_tensor",
    "in_groups",
    "index_text",
    "lay_out",
    "load",
    "lock",
    "parse_dtype",
    "parse_size",
    "read_chunks",
    "read_header",
    "save",
    "shard_names",
    "write_file",
]
