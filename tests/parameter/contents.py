"""What a parameter holds, bit for bit, and what a plan draws, to hold it against."""

import copy

import torch

from tritonparam import Fill, Plan


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def drawn(law, key, shape):
    out = torch.full(shape, 7.0)
    Plan([Fill(out, law, key)]).run()
    return out


def state(parameter):
    """All that a call which raises must leave alone."""
    storage = parameter.torch
    bits = None if storage.is_meta else storage.detach().clone().reshape(-1).view(torch.uint8).tolist()
    attributes = {key: value for key, value in vars(parameter).items() if key != "_torch"}
    return str(parameter), bits, copy.copy(attributes), id(storage), storage._version
