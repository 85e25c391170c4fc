"""Modules of odd tensors, deferred and real, what is in them, and what a plan would draw for it."""

import torch
from torch import nn

from tritonparam import Fill, Plan, deferred_init, derive_key, materialize


class Holder(nn.Module):
    """A module with the tensors that `make` returns: buffers under names with "buffer", parameters under the others."""

    def __init__(self, make):
        super().__init__()
        for name, tensor in make().items():
            if "buffer" in name:
                self.register_buffer(name, tensor, persistent="scratch" not in name)
            else:
                self.register_parameter(name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))


def deferred(make):
    with deferred_init():
        return Holder(make)


def real(make, **options):
    return materialize(deferred(make), **options)


def drawn(law, name, shape, seed=0, occurrence=0, dtype=torch.float32):
    """What a plan writes for (law, key, shape)."""
    out = torch.full(shape, 7, dtype=dtype)
    Plan([Fill(out, law, derive_key(seed, name, occurrence))]).run()
    return out


def model():
    """Laws, boxes, replayed and computed tensors, integers, ties."""
    net = nn.Sequential(
        nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 20), nn.GRU(4, 4)
    )
    net[3].weight = net[0].weight
    nn.init.orthogonal_(net[1].weight)
    net[1].register_buffer("mask", torch.bernoulli(torch.full((30,), 0.5)).bool(), persistent=False)
    net[1].register_buffer("table", torch.arange(8.0) / 7)
    return net


def deferred_model():
    with deferred_init():
        return model()


def tensors(module):
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def same(left, right):
    left, right = tensors(left), tensors(right)
    assert list(left) == list(right)
    different = [name for name in left if not torch.equal(left[name], right[name])]
    return different == []
