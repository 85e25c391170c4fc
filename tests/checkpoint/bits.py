"""The bits of tensors, so that NaN equals itself and 0.0 not -0.0."""

import torch


def bits(tensor):
    """The bytes of a tensor, so that NaN equals itself and 0.0 not -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
