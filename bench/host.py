"""What a plan costs on the host: 10,000 small tensors, from names to launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec

import torch

from bench.cases import Case
from bench.clock import Run, host_clock, interleave
from bench.memory import Memory
from bench.rows import Environment, Row
from bench.run import line, row
from tritonparam import Copy, Fill, Normal, Plan, derive_key

COUNT = 10_000
BACKENDS = {"cpu": "cpu", "cuda": "triton"}


def names(count: int = COUNT) -> list[str]:
    """Names such as a model has."""
    return [f"model.layers.{i // 10}.part{i % 10}.weight" for i in range(count)]


def keys(names: Iterable[str]) -> list[int]:
    """A key for each name."""
    return [derive_key(0, name) for name in names]


def fills(tensors: Iterable[torch.Tensor], keys: Iterable[int]) -> list[Fill]:
    """A fill for each tensor."""
    law = Normal(mean=0.0, std=0.02)
    return [Fill(tensor, law, key) for tensor, key in zip(tensors, keys, strict=True)]


def copies(outs: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> list[Copy]:
    """A copy for each pair of tensors."""
    return [Copy(out, source) for out, source in zip(outs, sources, strict=True)]


def measure_host(
    device: str,
    environment: Environment,
    count: int = COUNT,
    rounds: int = 15,
    budget: float = 2.0,
    report: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Time each step on the host: keys, fills, plan (of it the table), and the run, up to where the call returns.

    And of as many copies: the Copy objects, the plan (of it the table) and the run. On a CPU a run includes the values.
    """
    backend = BACKENDS[device]
    shapes = ((64,),) * count
    tensors = Memory(Case("normal", backend, "", shapes, "float32", 1), device).tensors
    all_names = names(count)
    all_keys = keys(all_names)
    all_fills = fills(tensors, all_keys)
    sources = Memory(Case("normal", backend, "", shapes, "float32", 1), device).tensors
    all_copies = copies(tensors, sources)
    plan, copy_plan = Plan(all_fills, backend), Plan(all_copies, backend)
    steps: dict[tuple[str, str], Run] = {
        ("keys", "tritonparam"): lambda: keys(all_names),
        ("fills", "tritonparam"): lambda: fills(tensors, all_keys),
        ("plan", f"tritonparam {backend}"): lambda: Plan(all_fills, backend),
        ("run", f"tritonparam {backend}"): plan.run,
        ("copies", "tritonparam"): lambda: copies(tensors, sources),
        ("plan of copies", f"tritonparam {backend}"): lambda: Plan(all_copies, backend),
        ("run of copies", f"tritonparam {backend}"): copy_plan.run,
        ("run of copies", "torch foreach"): lambda: torch._foreach_copy_(tensors, sources),
    }
    if find_spec("triton") is not None:
        # Laying out the tables needs no GPU.
        build_fill_table = import_module("tritonparam.plan.backends.fill_table").build_fill_table
        steps["table", "tritonparam triton"] = lambda: build_fill_table(all_fills)
        build_copy_table = import_module("tritonparam.plan.backends.copy_table").build_copy_table
        steps["table of copies", "tritonparam triton"] = lambda: build_copy_table(all_copies)

    def clock(act: Run, repeats: int) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return host_clock(act, repeats)

    for act in steps.values():
        act()
    rows = []
    for (step, provider), (repeats, measured) in interleave(steps, clock, rounds, budget).items():
        case = Case(step, provider, f"{count:,} tensors of 64", shapes, "float32", torch.get_num_threads())
        rows.append(row(environment, case, "host", repeats, measured, ceiling=0.0))
        report(line(rows[-1]))
    return rows
