"""FSDP1: torchrun --nproc-per-node 2 examples/distributed/fsdp1.py"""

from functools import partial

import torch
from tiny_gpt import Block, TinyGPT, begin, tell, train
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from tritonparam import deferred_init, param_init_fn

device = torch.device(begin())
with deferred_init():
    model = TinyGPT()
sharded = FullyShardedDataParallel(
    model,
    auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls={Block}),
    device_id=device,
    param_init_fn=param_init_fn(model, seed=0, device=device),
)

tell(sharded)
train(sharded)
torch.distributed.destroy_process_group()
