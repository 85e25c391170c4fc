"""Models as people shard them, small and of uneven sizes, and the meshes on which they do."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

WIDTH = 14
HIDDEN = 12  # of experts: fully_shard cuts other dimensions than the first evenly only


def columns():
    """Of uneven layers, whose outputs have to be whole for the next one."""
    return ColwiseParallel(output_layouts=Replicate())


def rows():
    """Of uneven layers, whose inputs are whole."""
    return RowwiseParallel(input_layouts=Replicate())


class LlamaBlock(nn.Module):
    """Attention without its softmax, a gated layer, and a rotary table that no checkpoint has."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.q, self.k = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 6, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 37, bias=False), nn.Linear(37, WIDTH, bias=False)
        for layer in (self.q, self.k, self.up):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.trunc_normal_(self.down.weight, std=0.02 / math.sqrt(8))
        turns = 1.0 / (10000.0 ** (torch.arange(0, WIDTH, 2).float() / WIDTH))
        self.register_buffer("inv_freq", turns, persistent=False)

    def forward(self, x):
        x = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.up(x + self.q(x))))


class Llama(nn.Module):
    """Its head is its own; `blocks` are alike."""

    tensor_parallel: ClassVar = {"q": columns, "k": columns, "up": columns, "down": rows}
    block = LlamaBlock

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(23, WIDTH)
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 23, bias=False)

    def forward(self, ids):
        x = self.emb(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class GPT2Block(nn.Module):
    """A weight that lies as [in, out], as transformers' Conv1D does, biases of zeros, and a mask."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.weight = nn.Parameter(torch.empty(WIDTH, 3 * WIDTH))
        self.bias = nn.Parameter(torch.zeros(3 * WIDTH))
        nn.init.normal_(self.weight, std=0.02)
        self.up, self.down = nn.Linear(3 * WIDTH, 31), nn.Linear(31, WIDTH)
        self.register_buffer("mask", torch.tril(torch.ones(5, 5, dtype=torch.bool)))

    def forward(self, x):
        h = torch.addmm(self.bias, self.norm(x).view(-1, WIDTH), self.weight).view(*x.shape[:-1], -1)
        return x + self.down(torch.nn.functional.gelu(self.up(h)))


class GPT2(Llama):
    """Its head is its embedding."""

    tensor_parallel: ClassVar = {"up": columns, "down": rows}
    block = GPT2Block

    def __init__(self):
        super().__init__()
        self.head.weight = self.emb.weight


class Experts(nn.Module):
    """Grouped experts, [experts, out, in], and a router."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, 6, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.w1 = nn.Parameter(torch.empty(6, HIDDEN, WIDTH))
        self.w2 = nn.Parameter(torch.empty(6, WIDTH, HIDDEN))
        nn.init.trunc_normal_(self.w1, std=0.02)
        for expert in self.w2:  # one by one: boxes with laws of their own
            nn.init.xavier_uniform_(expert)

    def forward(self, x):
        x = self.norm(x)
        chosen = self.router(x).softmax(-1)
        hidden = torch.einsum("...d,ehd->...eh", x, self.w1).relu()
        return x + torch.einsum("...eh,edh,...e->...d", hidden, self.w2, chosen)


class MoE(Llama):
    """A mixture of experts, whose second block is frozen."""

    tensor_parallel: ClassVar = {}
    block = Experts

    def __init__(self):
        super().__init__()
        self.blocks[1].requires_grad_(False)


class ConvNet(nn.Module):
    """Convolutions, batch statistics, a scalar, an odd head, and a matrix that has to be replayed."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 9, 3), nn.Conv2d(9, 5, 3, bias=False)])
        self.norm = nn.BatchNorm2d(5)
        self.scale = nn.Parameter(torch.tensor([0.5]))
        self.head = nn.Linear(5, 7)
        nn.init.orthogonal_(self.head.weight)
        nn.init.kaiming_normal_(self.blocks[0].weight, mode="fan_out")

    def forward(self, images):
        for block in self.blocks:
            images = block(images).relu()
        return self.head(self.norm(images).mean((2, 3)) * self.scale)


MODELS = {"llama": Llama, "gpt2": GPT2, "moe": MoE, "conv": ConvNet}


def batch_of(name):
    """What a model is run on."""
    torch.manual_seed(0)
    return torch.rand(4, 3, 8, 8) if name == "conv" else torch.randint(23, (4, 5))


def by_fsdp(model, mesh):
    """FSDP2 over a mesh of one dimension, HSDP over one of two."""
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def by_tp(model, mesh):
    """Tensor parallelism."""
    for block in model.blocks:
        parallelize_module(block, mesh, {name: style() for name, style in model.tensor_parallel.items()})


def by_fsdp_over_tp(model, mesh):
    """FSDP2 over the first dimension of a mesh, of what tensor parallelism over the last has left."""
    by_tp(model, mesh[mesh.mesh_dim_names[-1]])
    by_fsdp(model, mesh[mesh.mesh_dim_names[:-1]])


def by_experts(hidden):
    """Expert parallelism over the last dimension of a mesh, as torchtitan has it; FSDP2 over the first, of experts too.

    Args:
        hidden: Whether FSDP2 cuts the hidden dimension of experts, and not the experts of a process.
    """

    def shard(model, mesh):
        names = mesh.mesh_dim_names
        for block in model.blocks:
            for name in ("w1", "w2"):
                own = getattr(block, name)
                cut = distribute_tensor(own, mesh[names[-1]], [Shard(0)], src_data_rank=None)
                setattr(block, name, nn.Parameter(cut, requires_grad=own.requires_grad))
            fully_shard(block, mesh=mesh[names[0]], shard_placement_fn=placement)
        fully_shard(model, mesh=mesh[names[0]])

    def placement(tensor):
        return Shard(tuple(tensor.shape).index(HIDDEN) if hidden and tensor.ndim == 3 else 0)

    return shard


def by_module(model, mesh):
    """Everything on all processes."""
    distribute_module(model, mesh)


TRAINED = (by_fsdp, by_tp, by_fsdp_over_tp)  # with the others, a trainer has its own way of calling the model


def cases(world):
    """What is tried on `world` processes: a name, the sizes of a mesh, how to shard, and the models."""
    every = tuple(MODELS)
    yield "FSDP2", (world,), by_fsdp, every
    yield "replicas", (world,), by_module, ("conv", "gpt2")
    yield "TP", (world,), by_tp, ("llama", "gpt2")
    for outer in (each for each in range(2, world) if world % each == 0):
        sizes = outer, world // outer
        yield f"HSDP {sizes}", sizes, by_fsdp, every
        yield f"FSDP2 over TP {sizes}", sizes, by_fsdp_over_tp, ("llama", "gpt2")
        yield f"FSDP2 over EP, experts {sizes}", sizes, by_experts(hidden=False), ("moe",)
        yield f"FSDP2 over EP, hidden {sizes}", sizes, by_experts(hidden=True), ("moe",)
    if world == 8:
        yield "HSDP over TP", (2, 2, 2), by_fsdp_over_tp, ("llama",)


def mesh_of(sizes):
    """A mesh of all processes, its dimensions named."""
    return init_device_mesh("cpu", sizes, mesh_dim_names=("a", "b", "c")[: len(sizes)])


def tensors_of(model):
    """All parameters and buffers, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def local_of(tensor):
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
