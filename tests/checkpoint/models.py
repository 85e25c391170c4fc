"""A module and a parameter to load and to save, real and deferred, and what is in them."""

import torch
from torch import nn

from tritonparam import Generator, Parameter, deferred_init
from tritonparam.initializer import initializer


class Net(nn.Module):
    """Parameters with laws, one that is replayed, a tied one, and buffers of both kinds."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.odd = nn.Parameter(torch.randn(3, 5).cumsum(0))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("table", torch.arange(6.0) / 7, persistent=False)


def deferred(build=Net):
    with deferred_init():
        return build()


def trained(seed=3):
    """A real Net with other values than any that is initialized here."""
    net = Net()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            tensor.copy_(values * 100)
    return net


def contents(net):
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items() if name != "head.weight"}


def declare(init="normal", shape=(4, 6), name="w", dtype="float32"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), name)
