"""A safetensors file that is not whole is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.jobs import job, write
from tritonparam.checkpoint import files
from tritonparam.checkpoint.errors import CheckpointError


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:5], lambda data: b"\xff" * 64])
def test_a_damaged_file_is_not_read(tmp_path: Path, damage: Any) -> None:
    write(job(), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a whole safetensors file"):
        files.read_header(path)
