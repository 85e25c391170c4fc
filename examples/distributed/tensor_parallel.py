"""FSDP2 over tensor parallelism: torchrun --nproc-per-node 4 examples/distributed/tensor_parallel.py"""

import torch
from tiny_gpt import TinyGPT, begin, tell, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tritonparam import deferred_init, materialize

mesh = init_device_mesh(begin(), (torch.distributed.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
with deferred_init():
    model = TinyGPT()
columns, rows = ("q", "k", "v", "up"), ("o", "down")
for block in model.blocks.values():
    styles = {name: ColwiseParallel() for name in columns} | {name: RowwiseParallel() for name in rows}
    parallelize_module(block, mesh["tp"], styles)
    fully_shard(block, mesh=mesh["dp"])
fully_shard(model, mesh=mesh["dp"])
materialize(model, seed=0)

tell(model)
train(model)
torch.distributed.destroy_process_group()
