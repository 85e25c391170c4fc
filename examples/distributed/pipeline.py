"""A pipeline of two stages: torchrun --nproc-per-node 2 examples/distributed/pipeline.py"""

import os
import tempfile
from pathlib import Path

import torch
from tiny_gpt import TinyGPT, begin
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.functional import cross_entropy

from tritonparam import deferred_init, fingerprint, materialize, save

device = begin()
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
with deferred_init():
    model = TinyGPT()
for number in range(4):
    if number * world // 4 != rank:
        del model.blocks[str(number)]
if rank > 0:
    model.embedding = None
if rank < world - 1:
    model.norm = model.head = None
materialize(model, seed=0, device=device)

folder = Path(tempfile.gettempdir()) / f"tiny-gpt-{os.environ['MASTER_PORT']}"
save(model, folder, overwrite=True)
if rank == 0:
    here = len(list(model.parameters()))
    print(f"{world} processes, {here} tensors in the first, fingerprint {fingerprint(folder)}", flush=True)

stage = PipelineStage(model, rank, world, torch.device(device))
schedule = ScheduleGPipe(stage, 2, loss_fn=lambda got, want: cross_entropy(got.flatten(0, 1), want.flatten()))
ids, losses = torch.arange(64, device=device).view(2, 32), []
if rank == 0:
    schedule.step(ids)
else:
    schedule.step(target=ids + 1, losses=losses)
    print(f"loss {torch.stack(losses).mean().item():.4f}")
torch.distributed.destroy_process_group()
