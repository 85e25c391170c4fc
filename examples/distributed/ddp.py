"""DDP, without its broadcast: torchrun --nproc-per-node 2 examples/distributed/ddp.py"""

import torch
from tiny_gpt import TinyGPT, begin, tell, train
from torch.nn.parallel import DistributedDataParallel

from tritonparam import check_replicas, deferred_init, materialize

device = begin()
with deferred_init():
    model = TinyGPT()
materialize(model, seed=0, device=device)
assert not check_replicas(model)
replica = DistributedDataParallel(model, init_sync=False)

tell(model)
train(replica)
torch.distributed.destroy_process_group()
