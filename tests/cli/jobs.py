"""A small checkpoint to write: its entries and the job."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tritonparam import stream
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.writing import Written, write_checkpoint
from tritonparam.cli.record import Entry
from tritonparam.module import BoxLaw

CPU = torch.device("cpu")
NORMAL = stream.Normal(mean=0.0, std=0.02)


def entry(name: str, shape: tuple[int, ...], law: stream.Law = NORMAL, dtype: torch.dtype = torch.float32) -> Entry:
    return Entry(name, (), "parameter", dtype, shape, (BoxLaw((0,) * len(shape), shape, law),))


def job(max_shard_size: int = 10**9, seed: int = 0, scale: int = 1) -> Job:
    entries = (
        entry("wide.weight", (40 * scale, 30)),
        entry("half.weight", (33,), stream.Uniform(low=-1.0, high=1.0), torch.float16),
        entry("scalar", (), stream.Constant(2.5), torch.bfloat16),
        entry("steps", (3,), stream.Constant(7), torch.int64),
        entry("empty", (0, 4)),
        entry(
            "cut.weight", (50, 7), stream.TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=math.inf), torch.bfloat16
        ),
    )
    settings = {"spec": {"callable": "x:y"}, "seed": seed, "dtype": None, "max_shard_size": max_shard_size, "files": {}}
    return Job(entries, settings)


def started(*command: str, cwd: Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    """What a program of Python ends with: its status, output and errors."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def write(work: Job, out: Path, **options: Any) -> Written:
    return write_checkpoint(work, out, device=CPU, **options)
