"""Memory that was never written: what depends on it is named, and what only passes by it is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.module.eager import buffers, check_like_eager
from tritonparam import deferred_init, materialize

UNWRITTEN = {
    "empty": lambda: torch.empty(3),
    "every other element": lambda: torch.empty(8).index_fill_(0, torch.tensor([0, 2]), 1.0),
    "a mask that leaves some": lambda: torch.empty(4).masked_fill_(torch.tensor([True, False, True, True]), 1.0),
    "a scatter that leaves some": lambda: torch.empty(4).scatter_(0, torch.tensor([0, 1]), torch.ones(2)),
    "an index that leaves some": lambda: torch.empty(4).index_put_((torch.tensor([0, 3]),), torch.ones(2)),
    "a strided write of a large one": lambda: torch.empty(2**26 + 4096).narrow(0, 0, 2**26 + 4096)[::2].fill_(1.0),
    "a sum": lambda: torch.empty(3) + 1,
    "a product by zero": lambda: torch.empty(3) * 0,
    "a choice": lambda: torch.where(torch.tensor([True, False]), torch.ones(2), torch.empty(2)),
    "a part": lambda: torch.cat([torch.ones(2), torch.empty(1)]),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_depends_on_unwritten_memory_is_named(name):
    """Some of them counted as written: all of what an operation may write to, and whatever was above 256 MiB."""

    def build():
        made = UNWRITTEN[name]()
        return buffers(made._base if made._base is not None else made)

    with deferred_init():
        module = build()
    with pytest.raises(ValueError, match="never written: b0"):
        materialize(module)


def _copied_within():
    x = torch.empty(6)
    x[:3] = torch.arange(3.0)
    x[3:].copy_(x[:3])
    return x


WRITTEN = {
    "by all indices": lambda: torch.empty(3).index_fill_(0, torch.tensor([2, 0, 1]), 1.0),
    "by a mask of all": lambda: torch.empty(3).masked_fill_(torch.ones(3, dtype=torch.bool), 2.0),
    "by a scatter": lambda: torch.empty(3).scatter_(0, torch.tensor([2, 0, 1]), torch.arange(3.0)),
    "in two steps": lambda: (
        torch.empty(4).index_fill_(0, torch.tensor([0, 2]), 1.0).index_fill_(0, torch.tensor([1, 3]), 2.0)
    ),
    "where it was not chosen": lambda: torch.where(torch.tensor([True, True]), torch.arange(2.0), torch.empty(2)),
    "cut away": lambda: torch.cat([torch.arange(2.0), torch.empty(3)])[:2] * 1,
    "circular": lambda: F.pad(torch.arange(4.0).view(1, 1, 4), (1, 2), mode="circular"),
    "circular, 2d": lambda: F.pad(torch.arange(12.0).view(1, 1, 3, 4), (1, 2, 2, 1), mode="circular"),
    "copied within": _copied_within,
    "the shape only": lambda: torch.randint_like(torch.empty(3), 1),
    "zeros of the shape": lambda: torch.zeros_like(torch.empty(2, 3)),
    "rrelu": lambda: F.rrelu(torch.arange(3.0), training=False),
    "out": lambda: torch.add(torch.ones(3), 1, out=torch.empty(3)),
    "nothing": lambda: torch.empty(0),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_does_not_depend_on_it_has_its_values(name):
    check_like_eager(lambda: buffers(WRITTEN[name]()))


@pytest.mark.filterwarnings("ignore:the constructor looks at random values")
def test_distributions_that_start_from_empty_memory():
    with deferred_init():
        module = buffers(torch.distributions.VonMises(torch.tensor(0.0), torch.tensor(1.0)).sample((5,)))
    assert materialize(module).b0.abs().max() <= torch.pi


def test_values_asked_of_what_depends_on_it_are_an_error():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            (torch.empty(3) + 1).sum().item()

    with deferred_init(), pytest.raises(RuntimeError, match="were asked for before any were written, in Net"):
        Net()
