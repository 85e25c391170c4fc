"""What a constructor writes piece by piece costs what the pieces are, not their square."""

from __future__ import annotations

import cProfile

import pytest
import torch
from torch import nn

from tritonparam import deferred_init, materialize


def rows(n):
    module = nn.Module()
    module.w = nn.Parameter(torch.empty(n, 4))
    for row in module.w.data:
        nn.init.normal_(row)
    return module


def columns(n):
    module = nn.Module()
    module.w = nn.Parameter(torch.empty(4, n))
    for column in module.w.data.t():
        nn.init.uniform_(column)
    return module


def rows_twice(n):
    module = rows(n)
    for row in module.w.data:
        nn.init.normal_(row, std=2)
    return module


def every_other_row(n):
    module = nn.Module()
    module.w = nn.Parameter(torch.randn(n, 4))
    for row in module.w.data[::2]:
        row.zero_()
    return module


def rows_assigned(n):
    module = nn.Module()
    w = torch.empty(n, 4)
    for k in range(n):
        w[k] = torch.randn(4)
    module.w = nn.Parameter(w)
    return module


def a_column_over_rows(n):
    module = rows(n)
    with torch.no_grad():
        module.w[:, 0].zero_()
    return module


def a_list(n):
    return nn.ParameterList([torch.randn(2) for _ in range(n)])


def steps(n):
    module, x = nn.Module(), torch.zeros(4)
    for k in range(n):
        x = x + k
    module.w = nn.Parameter(x)
    return module


def calls(build, n: int) -> int:
    """How many functions are called to build a model of `n` pieces, and to make it real."""
    profile = cProfile.Profile()
    with profile:
        with deferred_init():
            module = build(n)
        materialize(module)
    return sum(each.callcount for each in profile.getstats())


BUILDS = [rows, columns, rows_twice, every_other_row, rows_assigned, a_column_over_rows, a_list, steps]


@pytest.mark.parametrize("build", BUILDS)
def test_twice_the_pieces_are_twice_the_calls(build):
    calls(build, 10)
    once, twice = calls(build, 100), calls(build, 200)
    assert twice < 2.3 * once, (once, twice)


@pytest.mark.parametrize("build", BUILDS)
def test_the_values_are_those_of_one_write(build):
    """Where draws lie in a tensor decides about their numbers, not how many there are."""
    with deferred_init():
        module = build(40)
    module = materialize(module, seed=2)
    if build in (rows, columns, rows_twice):
        assert module.w.unique().numel() == module.w.numel()
    if build is a_column_over_rows:
        assert not module.w[:, 0].any()
        assert module.w[:, 1:].all()
    if build is every_other_row:
        assert not module.w[::2].any()
        assert module.w[1::2].all()
