"""HSDP, two replicas: torchrun --nproc-per-node 4 examples/distributed/hsdp.py"""

import torch
from tiny_gpt import TinyGPT, begin, tell, train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tritonparam import check_replicas, deferred_init, materialize

mesh = init_device_mesh(begin(), (2, torch.distributed.get_world_size() // 2), mesh_dim_names=("replica", "shard"))
with deferred_init():
    model = TinyGPT()
for block in model.blocks.values():
    fully_shard(block, mesh=mesh)
fully_shard(model, mesh=mesh)
materialize(model, seed=0)

tell(model)
train(model)
assert not check_replicas(model), "the replicas have drifted apart"
torch.distributed.destroy_process_group()
