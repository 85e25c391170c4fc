"""What torch itself makes of a model on a mesh: the local tensors of each rank, in a fake process."""

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.fake_mesh import new_mesh_of

STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


class Block(torch.nn.Module):
    """Two linear layers, a norm, and a buffer of its own dtype."""

    def __init__(self, width, hidden):
        super().__init__()
        self.up = torch.nn.Linear(width, hidden)
        self.down = torch.nn.Linear(hidden, width)
        self.norm = torch.nn.LayerNorm(width)
        self.register_buffer("steps", torch.arange(width))


class Small(torch.nn.Module):
    """An embedding with a row of zeros, tied to the head if asked, and blocks."""

    def __init__(self, width=6, hidden=10, rows=11, depth=2, tied=False):
        super().__init__()
        self.emb = torch.nn.Embedding(rows, width, padding_idx=0)
        self.layers = torch.nn.ModuleList(Block(width, hidden) for _ in range(depth))
        self.head = torch.nn.Linear(width, rows, bias=False)
        if tied:
            self.head.weight = self.emb.weight


def named_mesh(sizes, rank):
    """A mesh with names, as one of its processes has it; no other process exists."""
    return new_mesh_of(tuple(sizes.values()), rank, tuple(sizes))


def shard(model, mesh, blocks):
    """fully_shard over what the mesh has of dp_replicate and dp_shard: HSDP where it has both."""
    names = tuple(name for name in mesh.mesh_dim_names if name.startswith("dp"))
    if names:
        part = mesh[names if len(names) > 1 else names[0]]
        for block in blocks:
            fully_shard(block, mesh=part)
        fully_shard(model, mesh=part)


def parallelize(module, mesh, plan):
    """Apply styles of torch to the modules that a plan names; each process cuts its own copy."""
    parallelize_module(module, mesh, {name: STYLES[style]() for name, style in plan.items()}, src_data_rank=None)


def local_tensors(model):
    """The local tensors of all parameters and buffers, by their first names."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: each.to_local() if isinstance(each, DTensor) else each for name, each in named}
