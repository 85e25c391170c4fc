"""Meshes of processes that do not exist, to see what each of them holds."""

import contextlib
import math

import pytest
import torch

fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
_used = 0  # ranks that meshes had


@contextlib.contextmanager
def mesh_of(sizes, rank=0, world=None):
    """The mesh of the first processes of `world`, as process `rank` has it; no other process exists."""
    count = math.prod(sizes)
    torch.distributed.init_process_group("fake", store=fake.FakeStore(), rank=rank, world_size=world or count)
    try:
        yield torch.distributed.device_mesh.DeviceMesh("cpu", torch.arange(count).view(*sizes))
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def new_mesh_of(sizes, rank=0, names=None, device="cpu"):
    """A mesh as process `rank` of it has it, of ranks that no mesh had before: torch keeps what it has seen of one."""
    global _used
    count = math.prod(sizes)
    first, _used = _used, _used + count
    store = fake.FakeStore()
    torch.distributed.init_process_group("fake", store=store, rank=first + rank, world_size=first + count)
    try:
        ranks = torch.arange(first, first + count).view(*sizes)
        yield torch.distributed.device_mesh.DeviceMesh(device, ranks, mesh_dim_names=names)
    finally:
        torch.distributed.destroy_process_group()
