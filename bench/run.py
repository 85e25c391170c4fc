"""The runner: checks each maker against the reference, refuses to time a wrong one, times the others in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import torch

from bench.cases import Case
from bench.clock import FreshRun, Run, captured, cuda_clock, host_clock, interleave
from bench.copies import MOVERS, CopyCase, CopyMemory
from bench.fingerprints import READERS, FingerprintCase
from bench.memory import Memory, give_back
from bench.providers import PROVIDERS, Provider
from bench.rows import Environment, Row


@dataclass
class Outcome:
    """What a run of the bench gives.

    Attributes:
        rows: Measured.
        refused: Cases that were not timed since their values were wrong, and what was wrong.
        notes: What else the reader of the rows must know.
    """

    rows: list[Row] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take up what another run gave."""
        self.rows += other.rows
        self.refused += other.refused
        self.notes += other.notes


def measure(
    cases: Sequence[Case],
    device: str,
    environment: Environment,
    providers: Mapping[str, Provider] | None = None,
    rounds: int = 15,
    budget: float = 2.0,
    report: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Check and time cases; those of one job, which must be neighbours, side by side.

    Args:
        cases: What to measure.
        device: "cpu" or "cuda".
        environment: Of this process.
        providers: Who makes or moves the values, by name; None for all there are.
        rounds: Samples of each case at most.
        budget: Seconds of timing for each case.
        report: Is told of each row and each refusal.
    """
    outcome = Outcome()
    threads = torch.get_num_threads()
    try:
        for group in (list(group) for _, group in groupby(cases, lambda case: case.job)):
            known = providers or _providers(group[0])
            _measure_job(group, device, environment, known, rounds, budget, report, outcome)
    finally:
        torch.set_num_threads(threads)
    return outcome


def _providers(case: Case) -> Mapping[str, Provider]:
    if isinstance(case, FingerprintCase):
        return READERS
    return MOVERS if isinstance(case, CopyCase) else PROVIDERS


def _measure_job(
    cases: list[Case],
    device: str,
    environment: Environment,
    providers: Mapping[str, Provider],
    rounds: int,
    budget: float,
    report: Callable[[str], None],
    outcome: Outcome,
) -> None:
    torch.set_num_threads(cases[0].threads)
    torch.manual_seed(0)
    first = cases[0]
    memory = CopyMemory(first, device) if isinstance(first, CopyCase) else Memory(first, device)
    if device == "cuda" and memory.block.numel() < 4 * torch.cuda.get_device_properties(0).L2_cache_size:
        outcome.notes.append(
            f"{cases[0].workload}, {cases[0].dtype}: under four times the L2 cache, which it may gain by"
        )
    ready = checked(cases, device, providers, memory, report, outcome)
    modes: dict[str, dict[Case, Run]] = {"eager": ready}
    if device == "cpu" and not isinstance(first, CopyCase):
        modes["fresh"] = {case: _in_fresh_memory(case, providers[case.provider]) for case in ready}
    if device == "cuda":
        modes["graph"] = {}
        for case, run in ready.items():
            if case.op in providers[case.provider].ungraphable:
                continue
            try:
                modes["graph"][case] = captured(run)
            except RuntimeError as error:
                outcome.notes.append(f"{case}: no graph, {str(error).splitlines()[0]}")
                report(outcome.notes[-1])
    clock = cuda_clock if device == "cuda" else host_clock
    timed = {mode: interleave(runs, clock, rounds, budget) for mode, runs in modes.items()}
    keep(timed, environment, report, outcome)


def _in_fresh_memory(case: Case, provider: Provider) -> Run:
    """A run that takes the memory that it writes from the system."""

    def run() -> None:
        provider.prepare(case, Memory(case, "cpu"))()

    return FreshRun(run, give_back)


class Poisonable(Protocol):
    """What the makers of one job write to."""

    def poison(self) -> None:
        """Make every value a NaN, so that one that is not written shows."""


def checked(
    cases: Sequence[Case],
    device: str,
    providers: Mapping[str, Provider],
    memory: Poisonable,
    report: Callable[[str], None],
    outcome: Outcome,
) -> dict[Case, Run]:
    """What to time of one job's cases: those whose values are right, run once; the others are refused."""
    ready: dict[Case, Run] = {}
    for case in cases:
        provider = providers[case.provider]
        memory.poison()
        run = provider.prepare(case, memory)
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        fault = provider.fault(case, memory)
        if fault is None:
            ready[case] = run
        else:
            outcome.refused.append(f"{case}: {fault}")
            report(f"WRONG, not timed: {outcome.refused[-1]}")
    return ready


def keep(
    timed: Mapping[str, Mapping[Case, tuple[int, list[float]]]],
    environment: Environment,
    report: Callable[[str], None],
    outcome: Outcome,
) -> None:
    """Make rows of one job: by mode and case the runs a sample and the seconds a run of each sample."""
    # The fastest, called or replayed: a copy in a graph is made by another part of the driver, and slower on an H100.
    plain = [
        float(np.median(samples))
        for runs in timed.values()
        for case, (_, samples) in runs.items()
        if case.provider == case.ceiling
    ]
    for mode, measured in timed.items():
        for case, (repeats, samples) in measured.items():
            outcome.rows.append(row(environment, case, mode, repeats, samples, min(plain, default=0.0)))
            report(line(outcome.rows[-1]))


def row(environment: Environment, case: Case, mode: str, repeats: int, samples: list[float], ceiling: float) -> Row:
    """The row of a case.

    Args:
        environment, case, mode, repeats: What was measured; in mode "host" nothing is moved.
        samples: Seconds a run.
        ceiling: Median seconds of the plain fill, or copy, of the same bytes; 0 if there is none.
    """
    moved, elements = (0, 0) if mode == "host" else (case.moved, case.elements)
    p20, median, p80 = (float(value) for value in np.percentile(samples, (20, 50, 80)))
    return Row(
        **asdict(environment),
        op=case.op,
        provider=case.provider,
        workload=case.workload,
        dtype=case.dtype,
        threads=case.threads,
        mode=mode,
        tensors=len(case.shapes),
        elements=case.elements,
        bytes=moved,
        repeats=repeats,
        rounds=len(samples),
        median_s=median,
        p20_s=p20,
        p80_s=p80,
        gb_per_s=moved / median * 1e-9,
        elements_per_s=elements / median,
        fraction_of_ceiling=ceiling / median,
    )


def line(row: Row) -> str:
    """A row for a person who watches."""
    job = f"{row.op:26}{row.dtype:20} {row.workload:33} {row.threads:3} {row.provider:35}{row.mode:6}"
    figures = f"{row.median_s * 1e3:10.3f} ms x{row.rounds:<3}"
    if row.mode == "host":
        return job + figures
    return f"{job}{figures}{row.gb_per_s:9.2f} GB/s{row.fraction_of_ceiling:7.3f} of plain"
