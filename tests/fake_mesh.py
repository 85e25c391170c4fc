"""Meshes of processes that do not exist, to see what each of them holds."""

import contextlib
import math

import pytest
import torch

fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")


@contextlib.contextmanager
def mesh_of(sizes, rank=0, world=None):
    """The mesh of the first processes of `world`, as process `rank` has it; no other process exists."""
    count = math.prod(sizes)
    torch.distributed.init_process_group("fake", store=fake.FakeStore(), rank=rank, world_size=world or count)
    try:
        yield torch.distributed.device_mesh.DeviceMesh("cpu", torch.arange(count).view(*sizes))
    finally:
        torch.distributed.destroy_process_group()
