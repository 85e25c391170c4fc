"""FSDP2: torchrun --nproc-per-node 4 examples/distributed/fsdp2.py"""

import torch
from tiny_gpt import TinyGPT, begin, tell, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tritonparam import deferred_init, materialize

mesh = init_device_mesh(begin(), (torch.distributed.get_world_size(),))
with deferred_init():
    model = TinyGPT()
for block in model.blocks.values():
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
materialize(model, seed=0)

tell(model)
train(model)
torch.distributed.destroy_process_group()
