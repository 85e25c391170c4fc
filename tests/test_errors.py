"""Errors of the library have one root, and stay what they were: a caller may catch them by either."""

from __future__ import annotations

import copy
import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritonparam
from tritonparam import CheckpointError, CheckpointNotFoundError, Constant, Fill, Plan, TritonParamError
from tritonparam.checkpoint import UsageError
from tritonparam.plan import MissingDeviceError


def test_every_error_class_has_the_root() -> None:
    code = """
import importlib, inspect, json, pkgutil, tritonparam
found = {}
for module in pkgutil.walk_packages(tritonparam.__path__, "tritonparam."):
    if ".kernels" not in module.name and not module.name.endswith(("__main__", "backends.triton", "_table")):
        for each in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(each) or not issubclass(each, BaseException) or issubclass(each, Warning):
                continue
            if each.__module__.startswith("tritonparam"):
                found[each.__name__] = issubclass(each, tritonparam.TritonParamError)
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert {"CheckpointError", "MissingDeviceError", "ProcessesError", "ReplayError", "UsageError"} <= set(found)
    assert [name for name, has_root in found.items() if not has_root] == []


def test_bases_stay() -> None:
    assert issubclass(MissingDeviceError, ValueError)
    assert issubclass(UsageError, CheckpointError)
    assert not issubclass(CheckpointError, (OSError, ValueError, RuntimeError))
    assert tritonparam.CheckpointError is tritonparam.checkpoint.CheckpointError


def save_in_two_files(folder: Path) -> None:
    report = tritonparam.save(torch.nn.Linear(64, 64), folder, max_shard_size="16KB")
    assert len(report.files) == 2


def missing_path(folder: Path) -> Path:
    return folder / "nothing"


def missing_folder_contents(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def missing_shard(folder: Path) -> Path:
    save_in_two_files(folder / "model")
    (folder / "model" / "model-00002-of-00002.safetensors").unlink()
    return folder / "model"


@pytest.mark.parametrize("make", [missing_path, missing_folder_contents, missing_shard])
def test_a_missing_file_is_a_file_not_found_error(make, tmp_path: Path) -> None:
    """It says what is missing in the words that it had, and in the attributes of every OSError."""
    path = make(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        tritonparam.load(torch.nn.Linear(64, 64), path)
    error = caught.value
    assert isinstance(error, (CheckpointNotFoundError, TritonParamError))
    assert isinstance(error, CheckpointError)
    assert error.errno == errno.ENOENT
    assert str(error).startswith(error.filename)
    assert Path(error.filename).is_relative_to(path)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), again.filename) == (CheckpointNotFoundError, str(error), error.filename)


def test_a_damaged_file_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(CheckpointError, match="is not a whole safetensors file") as caught:
        tritonparam.load(torch.nn.Linear(2, 2), tmp_path)
    assert not isinstance(caught.value, OSError)


def test_bad_arguments_have_pythons_own_types() -> None:
    with pytest.raises(ValueError, match="backend must be one of") as caught:
        Plan([Fill(torch.empty(1), Constant(0))], "cupy")
    assert type(caught.value) is ValueError
