"""Several processes that write one checkpoint, as torchrun starts them: who they are, and that they have one job."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from tritonparam._meeting import ProcessesError
from tritonparam._processes import Processes, check_deadline
from tritonparam.checkpoint import CheckpointError, UsageError
from tritonparam.cli.init.job import Job


def started_processes(deadline: float) -> Processes:
    """The processes that were started with this one; one alone where there are no others.

    Raises:
        UsageError: The environment of a launcher is incomplete, or deadline is not above 0.
        CheckpointError: The others have not come.
    """
    try:
        return Processes.of_environment(os.environ, check_deadline("--deadline", deadline))
    except ValueError as error:
        raise UsageError(str(error)) from None
    except ProcessesError as error:
        raise CheckpointError(str(error)) from None


def own_device(name: str | None) -> str | None:
    """The device called `name` here: of several CUDA devices, the one that the launcher means by LOCAL_RANK."""
    local = os.environ.get("LOCAL_RANK", "")
    if name in (None, "cuda") and local.isdigit() and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return name


def agree(
    processes: Processes, make: Callable[[], tuple[Job, torch.device]], out: Path, overwrite: bool
) -> tuple[Job, torch.device]:
    """The job and the device that `make` gives, once it has given the same job in all processes.

    Raises:
        CheckpointError: Another process failed, did not come, or is to write something else; and what `make` raises.
    """
    given: list[tuple[Job, torch.device]] = []

    def made() -> bytes:
        given.append(make())
        said = {**given[0][0].identity(), "DIR": str(out), "--overwrite": overwrite}
        return json.dumps({key: _digest(value) for key, value in said.items()}).encode()

    try:
        told = [json.loads(message) for message in processes.exchange(made, f"init of {str(out)[-200:]}")]
    except ProcessesError as error:
        raise CheckpointError(str(error)) from None
    for rank, each in enumerate(told):
        other = sorted(key for key in each.keys() | told[0].keys() if each.get(key) != told[0].get(key))
        if other:
            what = ", ".join(other)
            raise CheckpointError(f"all processes must write one checkpoint, and process {rank} has another {what}")
    return given[0]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
