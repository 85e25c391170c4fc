"""The small costs that a caller meets on the host: right as tests, timed by `pytest bench --benchmark-only`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import host
from tritonparam import Fill, Normal, Plan, derive_key

pytest.importorskip("pytest_benchmark")


@pytest.fixture(scope="module")
def tensors() -> list[torch.Tensor]:
    """As many as the largest models have."""
    return list(torch.empty(host.COUNT, 4).unbind())


def test_derive_key(benchmark: Any) -> None:
    assert benchmark(derive_key, 0, "model.layers.31.mlp.down_proj.weight") == 0x90C0B3C045F36947


def test_build_plan_of_many_tensors(benchmark: Any, tensors: list[torch.Tensor]) -> None:
    keys = host.keys(host.names())
    plan = benchmark(lambda: Plan(host.fills(tensors, keys), backend="cpu"))
    assert [fill.key for fill in plan.operations] == keys
    assert all(fill.out is tensor for fill, tensor in zip(plan.operations, tensors, strict=True))


def test_run_a_plan_again(benchmark: Any) -> None:
    """It writes the same values over whatever is there."""
    tensors = [torch.empty(4) for _ in range(100)]
    plan = Plan(host.fills(tensors, host.keys(host.names(100))), backend="cpu")
    plan.run()
    want = torch.stack(tensors)
    for tensor in tensors:
        tensor.fill_(torch.nan)
    benchmark(plan.run)
    assert torch.equal(torch.stack(tensors), want)


def test_small_fill(benchmark: Any) -> None:
    """From nothing to values: a fill, its plan, its run. They are the first of a longer tensor of the same key."""
    out, longer = torch.empty(64), torch.empty(1000)
    benchmark(lambda: Plan([Fill(out, Normal(), key=7)], backend="cpu").run())
    Plan([Fill(longer, Normal(), key=7)], backend="cpu").run()
    assert torch.equal(out, longer[:64])
