"""Worlds of real processes, over gloo, each of which runs one script."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

START = """
import sys
import torch
rank, world, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
"""
END = """
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def run_world(script: str, world: int, folder: Path) -> list[str]:
    """What each process prints; an error in one is an error here.

    In the script are `rank`, `world`, `folder`, `sys` and `torch`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START + script + END, str(rank), str(world), str(port), str(folder)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        told = [each.communicate(timeout=300) for each in work]
    finally:
        for each in work:
            each.kill()
    errors = [error for each, (_, error) in zip(work, told, strict=True) if each.returncode]
    assert not errors, "\n".join(errors)
    return [out for out, _ in told]
