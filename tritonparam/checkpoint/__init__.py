"""Safetensors files of tensors, whole or in shards of any cut: `load`, `save`, and what the commands share with them.

What a checkpoint is to hold before there is a model, and whether it holds that, is for `cli`.
"""

from __future__ import annotations

from tritonparam._lazy import public_names
from tritonparam.checkpoint.disk import (
    PartialFolder,
    as_path,
    check_target,
    close_locks,
    hold,
    replace_file,
    write_file,
)
from tritonparam.checkpoint.errors import CheckpointError, CheckpointNotFoundError, UsageError
from tritonparam.checkpoint.files import (
    INDEX_NAME,
    RECORD_NAME,
    TORCH_ENDINGS,
    Extent,
    encode_header,
    hash_tensor,
    lay_out,
    read_chunks,
    read_header,
)
from tritonparam.checkpoint.format import METADATA_KEY
from tritonparam.checkpoint.json_files import first_repeated, parse_json_object, read_json_object
from tritonparam.checkpoint.loading import load
from tritonparam.checkpoint.matching import LoadReport
from tritonparam.checkpoint.progress import ProgressBar, check_progress
from tritonparam.checkpoint.saving import SaveReport, save
from tritonparam.checkpoint.shards import find_files, in_groups, index_text, not_fetched, shard_names
from tritonparam.checkpoint.stored import Checkpoint, StoredTensor, whole_box
from tritonparam.checkpoint.targets import Slot, Target, listed, slots_of
from tritonparam.checkpoint.units import dtype_name, format_size, parse_dtype, parse_size

__all__ = [
    "INDEX_NAME",
    "METADATA_KEY",
    "RECORD_NAME",
    "TORCH_ENDINGS",
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Extent",
    "LoadReport",
    "PartialFolder",
    "ProgressBar",
    "SaveReport",
    "Slot",
    "StoredTensor",
    "Target",
    "UsageError",
    "as_path",
    "check_progress",
    "check_target",
    "close_locks",
    "dtype_name",
    "encode_header",
    "find_files",
    "first_repeated",
    "format_size",
    "hash_tensor",
    "hold",
    "in_groups",
    "index_text",
    "lay_out",
    "listed",
    "load",
    "not_fetched",
    "parse_dtype",
    "parse_json_object",
    "parse_size",
    "read_chunks",
    "read_header",
    "read_json_object",
    "replace_file",
    "save",
    "shard_names",
    "slots_of",
    "whole_box",
    "write_file",
]

__dir__ = public_names(__name__)
