"""What a module costs the host on the way to its values: so much for each tensor; and being fast changes no value."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from tests.module.deferred_models import deferred_model
from tests.uncollected import uncollected
from tritonparam import Fill, Plan, declarations, deferred_init, materialize
from tritonparam.module import Materialization, covers
from tritonparam.module.full_names import DrawSources
from tritonparam.module.recording import recording_paused
from tritonparam.module.walk import walk
from tritonparam.plan.backends.numpy import NumpyPlan
from tritonparam.stream import Generator

SIZES = 100, 1000, 3000


class Block(nn.Module):
    """Ten tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(3, 2) for _ in range(4))
        self.norm = nn.LayerNorm(2)


class Odd(nn.Module):
    """Tensors whose last write is not all there is to say, or is of an unusual view."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.randn(4, 3).T)
        self.copied = nn.Parameter(torch.randn(5, 2).T.clone())
        self.thin = nn.Parameter(torch.randn(1, 5, 1))
        self.one = nn.Parameter(torch.randn(1))
        self.scalar = nn.Parameter(torch.randn(()))
        self.empty = nn.Parameter(torch.randn(0, 3))
        self.scaled = nn.Parameter(torch.randn(4, 4) * 0.5)
        self.reshaped = nn.Parameter(torch.randn(6, 2).view(3, 4).contiguous())
        self.flattened = nn.Parameter(torch.randn(6, 2).reshape(12).clone())
        self.constant = nn.Parameter(torch.full((2, 1), -0.0))
        self.padded = nn.Embedding(4, 3, padding_idx=1)
        self.lower = nn.Parameter(torch.zeros(4, 3))
        self.cube = nn.Parameter(torch.randn(2, 2, 2).permute(1, 2, 0))
        self.square = nn.Parameter(torch.randn(3, 3).T)
        self.flat = nn.Parameter(torch.randn(6, 2).view(1, 12).clone())
        self.images = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        self.register_buffer("rows", torch.randn(3, 4))
        self.register_buffer("row", self.rows[1])
        self.register_buffer("order", torch.randperm(5))
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.padded.weight
        with torch.no_grad():
            self.lower[:2].normal_()


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with deferred_init():
        return build()


def many(tensors: int) -> nn.Module:
    return made(lambda: nn.Sequential(*(Block() for _ in range(tensors // 10))))


def steps(work: Callable[[], object]) -> int:
    """How many lines Python runs in `work`, one more for each time that it goes back to one in a loop."""
    count = 0

    def note(_: FrameType, event: str, __: Any) -> Any:
        nonlocal count
        count += event in ("call", "line")
        return note

    before = sys.gettrace()
    with uncollected():
        sys.settrace(note)
        try:
            work()
        finally:
            sys.settrace(before)
    return count


def test_each_tensor_costs_as_much_in_a_large_module_as_in_a_small_one(monkeypatch):
    """Counted in lines that run, which do not depend on the machine: for 30 times the tensors, 30 times as many."""
    monkeypatch.setattr(NumpyPlan, "run", lambda self: None)
    for work, most in ((declarations, 330), (materialize, 770)):
        each = [steps(functools.partial(work, module)) / size for size in SIZES for module in (many(size),)]
        assert each[2] <= each[1] * 1.01 <= each[0] * 1.02
        assert each[2] < most


def test_a_name_that_was_keyed_often_costs_no_more():
    generator = Generator(3)
    first = steps(lambda: generator.key("w"))
    for _ in range(1000):
        generator.key("w")
    assert steps(lambda: generator.key("w")) == first


def test_whole_tensors_become_no_objects_on_the_way_to_the_kernels(monkeypatch):
    """The triton backend has them as columns; only what is a box or a view is a Fill."""
    pytest.importorskip("triton")
    fills: list[Fill] = []
    init = Fill.__init__

    def noted(self, *arguments, **keywords):
        init(self, *arguments, **keywords)
        fills.append(self)

    monkeypatch.setattr(Fill, "__init__", noted)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    materialize(many(100), device=device, backend="triton")
    assert not fills
    materialize(made(lambda: nn.Embedding(4, 3, padding_idx=1)), device=device, backend="triton")
    assert len(fills) == 3


@pytest.mark.parametrize("build", [Odd, deferred_model, Block])
def test_what_was_written_last_is_recognized_as_by_the_whole_tape(build, monkeypatch):
    module = build() if build is deferred_model else made(build)
    with recording_paused():
        got = [(each.names, each.pieces) for each in walk(module)]
        monkeypatch.setattr(covers, "_just_written", lambda content, view: None)
        want = [(each.names, each.pieces) for each in walk(module)]
    assert got == want
    assert any(pieces for _, pieces in got)


@pytest.mark.parametrize("build", [Odd, deferred_model, Block])
def test_draws_of_whole_tensors_are_keyed_as_draws_of_boxes_are(build, monkeypatch):
    module = build() if build is deferred_model else made(build)

    def sources() -> list:
        return [(each.name, None if each.laws is None else each.piece_sources()) for each in declarations(module)]

    got = sources()
    monkeypatch.setattr(DrawSources, "_is_own", lambda *_: False)
    assert got == sources()


def test_odd_tensors_have_the_values_that_their_fills_write():
    """What `materialize` writes in columns, `Declaration.replay` computes one by one."""
    module = made(Odd)
    want = {each.name: each.replay(5) for each in declarations(module)}
    materialize(module, seed=5)
    for name, values in want.items():
        got = module.get_parameter(name) if name in dict(module.named_parameters()) else module.get_buffer(name)
        assert torch.equal(got.detach(), values), name
        assert str(got.detach()) == str(values)


def test_each_parameter_has_memory_of_its_own():
    """No more than it needs, so that saving one saves no other; and nothing counts as written to it since."""
    module = materialize(many(20))
    for tensor in module.parameters():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor._version == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in module.parameters()}) == 20


def test_a_source_with_a_seed_of_its_own_keeps_it():
    """Whatever the seed of `materialize` is."""
    (each,) = declarations(made(lambda: nn.Linear(4, 3, bias=False)))
    ((draw, source),) = each.sources.items()
    seeded = dataclasses.replace(each, sources={draw: dataclasses.replace(source, seed=9)})
    work = Materialization(nn.Module(), [seeded], None, None, None)
    work.write(5)
    ((_, _, _, got),) = work.outs([seeded])[0]
    want = torch.empty(3, 4)
    Plan(each.fills(want, 9)).run()
    assert torch.equal(got, want)
