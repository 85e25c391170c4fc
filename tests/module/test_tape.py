"""The tape: what the elements of a view hold, by the writes that they come from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tritonparam import Constant, declarations, deferred_init, materialize
from tritonparam.module.covers import covers
from tritonparam.module.tape import History
from tritonparam.plan import Box, View


def parameter(write) -> nn.Module:
    with deferred_init():
        module = nn.Module()
        module.w = nn.Parameter(torch.zeros(6, 4))
        with torch.no_grad():
            write(module.w)
    return module


EMPTY_WRITES = {
    "rows": lambda w: w[2:2].fill_(9.0),
    "columns": lambda w: w[:, 1:1].fill_(9.0),
    "random": lambda w: w[3:3].normal_(),
    "copied": lambda w: w[2:2].copy_(torch.ones(0, 4)),
    "by a tensor": lambda w: w[2:2].add_(torch.arange(4.0)),
    "of one element": lambda w: w[5, 3:3].fill_(9.0),
}


@pytest.mark.parametrize("name", EMPTY_WRITES)
def test_a_write_to_no_elements_writes_nothing(name):
    """In the middle of a tensor, where its first element would be another's."""
    module = parameter(EMPTY_WRITES[name])
    (declared,) = declarations(module)
    assert [(each.offsets, each.sizes, each.law) for each in declared.laws] == [((0, 0), (6, 4), Constant(0.0))]
    assert torch.equal(materialize(module).w, torch.zeros(6, 4))


def test_a_write_to_no_elements_does_not_count_as_written():
    with deferred_init():
        module = nn.Module()
        module.w = nn.Parameter(torch.empty(6, 4))
        with torch.no_grad():
            module.w[:2].fill_(1.0)
            module.w[3:].fill_(1.0)
            module.w[2:2].fill_(1.0)
    with pytest.raises(ValueError, match="never written: w"):
        materialize(module)


def test_covers_are_the_last_writes_first_and_what_is_left_is_said():
    with deferred_init():
        w = torch.empty(6, 4)
        w[:4].fill_(1.0)
        w[2:5, :2].fill_(2.0)
    history = History.of(w)
    assert history is not None
    got = [
        (None if cover.version is None else cover.version.content.law, set(cover.boxes))
        for cover in covers(history.head, View.of(w))
    ]
    assert got == [
        (Constant(2.0), {Box((2, 0), (3, 2))}),
        (Constant(1.0), {Box((0, 0), (2, 4)), Box((2, 2), (2, 2))}),
        (None, {Box((5, 0), (1, 4)), Box((4, 2), (1, 2))}),
    ]
