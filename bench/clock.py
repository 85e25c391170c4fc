"""How a run is timed: peers in turn, each sample long enough to be measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Run = Callable[[], object]


class FreshRun:
    """A run with something to do before each time, which is not timed: it leaves no memory to use again."""

    def __init__(self, run: Run, before: Callable[[], object]) -> None:
        self._run = run
        self.before = before

    def __call__(self) -> None:
        """Run."""
        self._run()


Key = TypeVar("Key")
# Seconds that `repeats` runs, one right after the other, took.
Clock = Callable[[Run, int], float]

SAMPLE_SECONDS = 0.01


def host_clock(run: Run, repeats: int) -> float:
    """By the host's clock, for work that is done when the call returns."""
    if isinstance(run, FreshRun):
        return sum(_once(run) for _ in range(repeats))
    start = time.perf_counter_ns()
    for _ in range(repeats):
        run()
    return (time.perf_counter_ns() - start) * 1e-9


def _once(run: FreshRun) -> float:
    run.before()
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) * 1e-9


def cuda_clock(run: Run, repeats: int) -> float:
    """Between two events on the current stream, with the gaps that a slow host leaves."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e-3


def interleave(runs: Mapping[Key, Run], clock: Clock, rounds: int, budget: float) -> dict[Key, tuple[int, list[float]]]:
    """Time `runs`, warm already, in turn: A, B, C, A, B, C, ....

    A sample is as many runs as fill SAMPLE_SECONDS, and counts as seconds a run. Memory should be several times larger
    than the cache: then one run leaves little in it for the next to gain by.

    Args:
        runs: What to time, by key.
        clock: How.
        rounds: Samples of each at most.
        budget: Seconds for each, after which it drops out of the turns.

    Returns:
        For each key, the runs a sample and the seconds a run of each sample.
    """
    first = {key: clock(run, 1) for key, run in runs.items()}
    repeats = {key: max(1, min(1000, math.ceil(SAMPLE_SECONDS / max(once, 1e-9)))) for key, once in first.items()}
    samples = {key: [once] if repeats[key] == 1 else [] for key, once in first.items()}
    for _ in range(rounds):
        for key, run in runs.items():
            spent = sum(samples[key]) * repeats[key]
            if len(samples[key]) < rounds and (not samples[key] or spent * (1 + 1 / len(samples[key])) <= budget):
                samples[key].append(clock(run, repeats[key]) / repeats[key])
    return {key: (repeats[key], samples[key]) for key in runs}


def captured(run: Run) -> Run:
    """`run` as the replay of a CUDA graph, which leaves no gaps between launches.

    Raises:
        RuntimeError: It does something that a graph cannot hold.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
