"""A model of all that sharding may meet, ways to shard it, and what every process then has to hold."""

import pytest
import torch
from torch import nn

from tritonparam import deferred_init
from tritonparam.tensor import mesh_boxes

distributed = pytest.importorskip("torch.distributed.tensor")
parallel = pytest.importorskip("torch.distributed.tensor.parallel")
fsdp = pytest.importorskip("torch.distributed.fsdp")
DTensor = distributed.DTensor


class Block(nn.Module):
    """Uneven sizes; two boxes with laws; a law that survives arithmetic; a replayed tensor; buffers of two kinds."""

    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width + 1), nn.Linear(2 * width + 1, width)
        self.norm = nn.LayerNorm(width)
        self.turn = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.flat = nn.Parameter(torch.randn(2 * width).view(2, width))
        self.register_buffer("steps", torch.arange(width).float())
        self.register_buffer("scratch", torch.rand(width), persistent=False)
        with torch.no_grad():
            self.down.weight[:3].zero_()
            self.up.bias.copy_(self.up.bias * 2)


class Model(nn.Module):
    """A head tied to an embedding, and a frozen block."""

    def __init__(self, width=7):
        super().__init__()
        self.emb = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.emb.weight
        self.blocks[1].requires_grad_(False)


def built():
    with deferred_init():
        return Model()


def named(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def by_rows(model, mesh):
    for block in model.blocks:
        fsdp.fully_shard(block, mesh=mesh)
    fsdp.fully_shard(model, mesh=mesh)


def by_tensors(model, mesh):
    plan = {"up": parallel.ColwiseParallel(), "down": parallel.RowwiseParallel()}
    for block in model.blocks:
        parallel.parallelize_module(block, mesh, plan)


def all_of_it(model, mesh):
    distributed.distribute_module(model, mesh)


def check(model, whole, lean=True):
    """Every tensor, and every box of a DTensor, is what the whole has; and, if `lean`, nothing has more memory."""
    assert named(model).keys() - {"head.weight"} == whole.keys()  # distribute_module and the like sever ties
    cut = 0
    whole = {**whole, "head.weight": whole["emb.weight"]} if "emb.weight" in whole else whole
    for name, got in named(model).items():
        want = whole[name].detach()
        assert (got.shape, got.dtype, got.requires_grad) == (want.shape, want.dtype, whole[name].requires_grad), name
        if not isinstance(got, DTensor):
            assert torch.equal(got, want), name
            continue
        local = got.to_local().detach()
        layout = got.device_mesh, tuple(got.placements)
        for each in mesh_boxes(layout, tuple(got.shape), local=tuple(local.shape)):
            assert torch.equal(each.place.of(local), each.box.of(want)), name
        assert not lean or local.untyped_storage().nbytes() == local.numel() * local.itemsize, name
        cut += 1
    return cut
