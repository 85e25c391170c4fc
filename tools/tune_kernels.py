"""Sweep the launch constants of kernels/fill.py and kernels/copy.py: which serve which job best, on this device.

    PYTHONPATH=. python tools/tune_kernels.py --out DIR      everything (bench/results/tuning has what came of it)
    PYTHONPATH=. python tools/tune_kernels.py --only normal  the jobs of this path, or with this in their names
    PYTHONPATH=. python tools/tune_kernels.py --quick        small tensors, two variants a job, also interpreted

A variant is a copy of kernels/ with other constants, under a name of its own. All are compiled side by side first, on
tiny tensors; then, job by job, each has to write the bits that the constants of this tree write, and is timed in turn
with the others and with a memset, or a plain copy, of as many bytes. What path a copy takes stays as it is: the table's
`_LONG_RUN` does not follow TILE here.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tune_jobs import FULL, JOBS, QUICK, TINY, Job, Scale, Variant, Work, codes_of, prepare, write_package

from bench.cases import PLAIN_FILL
from bench.clock import captured, cuda_clock, host_clock, interleave
from bench.copies import MOVERS, PLAIN_COPY
from bench.providers import PROVIDERS
from bench.rows import environment, path_of
from tritonparam import Fill
from tritonparam.kernels.fill import is_interpreted

CEILINGS = ("called", "replayed")  # the faster one counts, as in bench/run.py
SHOWN = 8

_lost = False


def start_worker(folder: str) -> None:
    """In a new process: find the packages."""
    sys.path.insert(0, folder)
    torch.set_num_threads(1)


def compile_one(job_name: str, variant: Variant, device: str) -> str | None:
    """Run it on tiny tensors, which leaves it in Triton's cache; what went wrong, or "again" in a broken process."""
    global _lost
    if _lost:
        return "again"
    try:
        work = JOBS[job_name].make(device, TINY)  # held until the launch is done: the tables have addresses alone
        prepare(work, variant)()
        if device == "cuda":
            torch.cuda.synchronize()
    except Exception as error:
        try:
            torch.zeros(1, device=device).sum().item()
        except Exception:
            _lost = True
        return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """The error in 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def compile_all(tasks: list[tuple[str, Variant]], folder: str, device: str, workers: int) -> dict[int, str]:
    """Compile the tasks side by side; what went wrong, by the task's number."""
    left, failed = list(range(len(tasks))), dict[int, str]()
    start = time.perf_counter()
    for _ in range(3):
        again = []
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(left)), context, start_worker, (folder,)) as pool:
            futures = {}
            for n in left:
                try:
                    futures[pool.submit(compile_one, *tasks[n], device)] = n
                except BrokenProcessPool:
                    again.append(n)
            for done, future in enumerate(as_completed(futures), 1):
                n = futures[future]
                try:
                    fault = future.result()
                except BrokenProcessPool:
                    fault = "again"
                if fault == "again":
                    again.append(n)
                elif fault:
                    failed[n] = fault
                    print(f"DROPPED {tasks[n][0]}: {tasks[n][1]}: {fault}", flush=True)
                if done % 50 == 0 or done == len(futures):
                    print(
                        f"compiled or dropped {done} of {len(futures)}, {time.perf_counter() - start:.0f} s", flush=True
                    )
        # Those in flight when a process died may have killed it: they go last.
        again.sort()
        left = again[workers:] + again[:workers]
        if not left:
            break
    return failed | dict.fromkeys(left, "its process died")


def ceiling(work: Work) -> Callable[[], object]:
    """As many bytes by the driver, as the bench has it: a memset of the block, or a copy of half of what is moved."""
    plain = PROVIDERS[PLAIN_FILL] if isinstance(work.operations[0], Fill) else MOVERS[PLAIN_COPY]
    return plain.prepare(work, work)


def measure(job: Job, faults: dict[Variant, str], device: str, scale: Scale, rounds: int) -> list[dict[str, Any]]:
    """A row for each variant, the fastest first; the first of them, without a fault, says what is right."""
    if fault := next(iter(faults.values())):
        raise RuntimeError(f"the constants of this tree were dropped: {fault}")
    work = job.make(device, scale)
    rows, runs, want = [], dict[Any, Callable[[], Any]](), None
    held = list[Callable[[], Any]]()
    for number, variant in enumerate(faults):
        row: dict[str, Any] = {"job": job.name, "path": job.path, "constants": str(variant), "baseline": number == 0}
        row |= dict.fromkeys(("status", "gb_per_s", "fraction", "median_s", "min_s", "registers", "spills"), "")
        rows.append(row)
        if faults[variant]:
            row["status"] = faults[variant]
            continue
        work.block.fill_(0xFF)
        try:
            run = prepare(work, variant)
            compiled = run()
            if want is None:
                want = work.block.clone()
                work.block.zero_()
                run()
                if (kept := int((want != work.block).sum())) > 16:  # the guards
                    raise RuntimeError(f"{kept} bytes were not written")
                work.block.fill_(0xFF)
                run()
            row["registers"] = getattr(compiled, "n_regs", "")
            row["spills"] = getattr(compiled, "n_spills", "")
            if not torch.equal(work.block.view(torch.int64), want.view(torch.int64)):
                row["status"] = "WRONG"
                continue
            held.append(run)  # a graph keeps no table alive
            runs[number] = captured(run) if device == "cuda" else run
        except Exception as error:
            if number == 0:
                raise
            row["status"] = one_line(error)
    plain = ceiling(work)
    plain()
    runs[CEILINGS[0]] = plain
    if device == "cuda":
        runs[CEILINGS[1]] = captured(plain)
    clock = cuda_clock if device == "cuda" else host_clock
    samples = {key: each for key, (_, each) in interleave(runs, clock, rounds, 0.2).items()}
    limit = min(statistics.median(samples.pop(key)) for key in CEILINGS if key in samples)
    print(f"\n{job.name} ({job.path}): ceiling {work.moved / limit * 1e-9:.0f} GB/s", flush=True)
    for number, seconds in samples.items():
        median = statistics.median(seconds)
        rows[number] |= {"status": "ok", "median_s": median, "min_s": min(seconds), "fraction": limit / median}
        rows[number]["gb_per_s"] = work.moved / median * 1e-9
    return sorted(rows, key=lambda row: row["median_s"] or math.inf)


def show(rows: list[dict[str, Any]]) -> None:
    """The best, and the baseline wherever it is; then what could not be timed."""
    for rank, row in enumerate(rows, 1):
        if row["status"] != "ok":
            print(f"  {row['status']}: {row['constants']}")
        elif rank <= SHOWN or row["baseline"]:
            figures = f"{row['gb_per_s']:8.1f} GB/s {row['fraction']:7.1%}  regs {row['registers']!s:>3}"
            mark = "  <- now" if row["baseline"] else ""
            print(f"{rank:3} of {len(rows)}  {figures} spills {row['spills']!s:>2}  {row['constants']}{mark}")
    sys.stdout.flush()


def summarize(rows: list[dict[str, Any]]) -> Iterator[str]:
    """For each path its constants over all of its jobs, the best first."""
    timed = [row for row in rows if row["status"] == "ok"]
    now = {row["job"]: row["fraction"] for row in timed if row["baseline"]}
    for path in dict.fromkeys(row["path"] for row in timed):
        by_constants = defaultdict(list)
        for row in timed:
            if row["path"] == path:
                by_constants[row["constants"]].append((row["fraction"], row["fraction"] / now[row["job"]]))
        jobs = max(map(len, by_constants.values()))
        yield f"\n{path}: geometric means over the jobs; those timed in fewer than all {jobs} come last"
        lines = []
        for constants, pairs in by_constants.items():
            fraction, gain = (statistics.geometric_mean(each) for each in zip(*pairs, strict=True))
            worst = min(pair[1] for pair in pairs)
            text = (
                f"{fraction:7.1%} of the ceiling, {gain:.3f} of now (worst {worst:.3f}), {len(pairs)} jobs  {constants}"
            )
            lines.append(((-len(pairs), -gain), text))
        yield from (text for _, text in sorted(lines))


def main() -> None:
    """Sweep, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs of the path TEXT, or with TEXT in their name")
    parser.add_argument("--quick", action="store_true", help="small tensors, two variants a job, to see that all runs")
    parser.add_argument(
        "--out", type=Path, default=Path("."), metavar="DIR", help="where DEVICE.csv goes, by default here"
    )
    parser.add_argument("--commit", help="the commit to name in the rows, where git cannot say")
    # Each has a CUDA context of its own, and in a container the count may be that of the whole host.
    cores = min(16, len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=max(1, cores - 2), help="processes that compile (%(default)s)")
    arguments = parser.parse_args()
    device = "cpu" if is_interpreted() else "cuda"
    if device == "cpu" and not arguments.quick:
        parser.error("TRITON_INTERPRET=1 times nothing: it goes with --quick only")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: on a host only TRITON_INTERPRET=1 with --quick runs")
    named = [job for job in JOBS.values() if arguments.only in job.name]
    jobs = [job for job in JOBS.values() if arguments.only == job.path] or named
    if not jobs:
        parser.error(f"--only {arguments.only!r} is in none of {list(JOBS)}")
    variants = {job: job.variants() for job in jobs}
    if arguments.quick:
        variants = {job: [each[0], each[-1]] for job, each in variants.items()}
    scale, rounds = (FULL, 5) if not arguments.quick else (QUICK if device == "cuda" else TINY, 2)

    where = asdict(environment(device, arguments.commit))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = path_of(arguments.out, where["device"])
    done, failed = sweep(variants, device, scale, rounds, arguments.workers, path.with_suffix(".part"), where)
    keep(path, done)
    path.with_suffix(".part").unlink(missing_ok=True)
    print("\n".join(summarize(done)), flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def sweep(
    variants: dict[Job, list[Variant]],
    device: str,
    scale: Scale,
    rounds: int,
    workers: int,
    draft: Path,
    where: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of all jobs, which also go to `draft` as they are measured, and the names of jobs that failed."""
    done, lost = list[dict[str, Any]](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for variant in {each for own in variants.values() for each in own}:
            write_package(variant, Path(folder))
        sys.path.insert(0, folder)
        codes = {job: codes_of(job) for job in variants}
        shared = {(codes[job], each): (job.name, each) for job in variants for each in variants[job]}
        failed = compile_all(list(shared.values()), folder, device, workers)
        dropped = {key: failed[n] for n, key in enumerate(shared) if n in failed}
        for job in variants:
            start = time.perf_counter()
            try:
                faults = {each: dropped.get((codes[job], each), "") for each in variants[job]}
                rows = measure(job, faults, device, scale, rounds)
            except Exception as error:
                print(f"\n{job.name}: FAILED: {one_line(error)}", flush=True)
                lost.append(job.name)
                continue
            show(rows)
            done += [row | where for row in rows]
            write(draft, done)
            print(f"  {time.perf_counter() - start:.1f} s", flush=True)
    return done, lost


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, in the order of their jobs."""
    order = list(JOBS)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: order.index(row["job"])))


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows into a file in the place of earlier ones of the same jobs; those of other jobs stay."""
    new = {row["job"] for row in rows}
    if path.exists():
        with path.open(newline="") as file:
            rows = [*rows, *(old for old in csv.DictReader(file) if old["job"] not in new and old["job"] in JOBS)]
    if rows:
        write(path, rows)


if __name__ == "__main__":
    main()
