"""What `plan` says: a table that is read at a glance, or JSON with all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tritonparam.checkpoint import dtype_name, format_size
from tritonparam.cli.plan.planning import Planned
from tritonparam.distributed import Family, MeshPlan

_MOST_FAMILIES = 16
_MOST_REASONS = 4
_INTEGERS = ("nbytes", "tensors", "boxes", "launches", "peak_nbytes")


def plan_text(planned: Planned) -> str:
    """A summary: the ranks' least, mean and most, who holds most and why, and how the tensors are cut."""
    plan = planned.plan
    rank = plan.most_loaded if planned.rank is None else planned.rank
    count = sum(len(family.layouts) for family in plan.families)
    dtype = "" if planned.dtype is None else f", {dtype_name(planned.dtype)}"
    lines = [
        f"{planned.spec}: {count:,} tensors, {format_size(plan.whole_nbytes)}{dtype}, on {plan.mesh}: "
        f"{plan.mesh.ranks:,} rank{'s' if plan.mesh.ranks > 1 else ''}",
        "",
        *_columns(planned),
        "",
        *_loaded(plan),
        f"plan of rank {planned.build.rank}: built here in {planned.build.seconds:.3f} s; {_launched(planned)}",
    ]
    empty = [family for family in plan.families if family.nbytes and not family.load.nbytes.all()]
    if empty:
        number = sum(len(family.layouts) for family in empty)
        are = "tensor has" if number == 1 else "tensors have"
        lines.append(
            f"{number:,} {are} no part for some ranks, such as {empty[0].name}: the mesh cuts finer than they are"
        )
    return "\n".join([*lines, "", *_families(plan, rank)])


def _columns(planned: Planned) -> list[str]:
    plan = planned.plan

    def plain(value: float) -> str:
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"

    longest = float(plan.seconds.max())
    scale, unit = (1.0, "s") if longest >= 1 else (1e3, "ms") if longest >= 1e-3 else (1e6, "us")

    def duration(value: float) -> str:
        return f"{value * scale:,.3g} {unit}"

    shown: list[tuple[str, Any, Callable[[float], str]]] = [
        ("bytes", plan.nbytes, format_size),
        ("memory peak", plan.peak_nbytes, format_size),
        ("tensors", plan.tensors, plain),
        ("boxes", plan.boxes, plain),
        ("launches", plan.launches, plain),
        (f"predicted at {plan.bandwidth:,.0f} GB/s", plan.seconds, duration),
    ]
    head = ["a rank", "least", "mean", "most"] + ([] if planned.rank is None else [f"rank {planned.rank}"])
    rows = [head]
    for name, column, form in shown:
        values = [column.min(), column.mean(), column.max()] + ([] if planned.rank is None else [column[planned.rank]])
        rows.append([name, *(form(float(value)) for value in values)])
    return _aligned(rows, "<" + ">" * (len(head) - 1))


def _loaded(plan: MeshPlan) -> list[str]:
    most, least = plan.most_loaded, plan.least_loaded
    more = int(plan.nbytes[most] - plan.nbytes[least])
    if not more:
        return [f"all ranks hold the same: {format_size(plan.nbytes[most])}"]
    reasons = plan.surplus()
    lines = [
        f"most loaded: rank {most} ({_where(plan, most)}) with {format_size(plan.nbytes[most])}, "
        f"{format_size(more)} more than rank {least} ({_where(plan, least)})"
    ]
    for each in reasons[:_MOST_REASONS]:
        lines.append(f"  {format_size(each.nbytes)} of {each.family.name}: {each.reason}")
    if len(reasons) > _MOST_REASONS:
        rest = sum(each.nbytes for each in reasons[_MOST_REASONS:])
        lines.append(f"  {format_size(rest)} of {len(reasons) - _MOST_REASONS} more")
    return lines


def _where(plan: MeshPlan, rank: int) -> str:
    sizes = plan.mesh.sizes()
    return ", ".join(f"{name} {at}" for name, at in plan.mesh.coordinate(rank).items() if sizes[name] > 1) or "alone"


def _launched(planned: Planned) -> str:
    launches = planned.build.launches
    if launches is None:
        return f"{planned.build.fills:,} fills; the table of the kernels is not in it, as triton is not installed"
    kernel = "launch" if launches.launches == 1 else "launches"
    return f"{launches.rows:,} rows for {launches.launches} {kernel}, a table of {format_size(launches.table_nbytes)}"


def _families(plan: MeshPlan, rank: int) -> list[str]:
    stage = plan.mesh.coordinate(rank)["pp"]
    local = {each.layout: each.local_shape for each in plan.tensors_of(rank)}
    ordered = sorted(plan.families, key=lambda family: -family.nbytes)
    rows = [["tensors", "count", "shape", "cut", f"on rank {rank}"]]
    for family in ordered[:_MOST_FAMILIES]:
        layout = next((each for each in family.layouts if stage in each.stages), None)
        here = "nothing" if layout is None else f"{family.stages[stage]:,} of {_shape(local[layout])}"
        first = family.layouts[0]
        rows.append(
            [family.name, f"{len(family.layouts):,}", _shape(first.declaration.shape), _cut(family, plan), here]
        )
    lines = _aligned(rows, "<><<<")
    if len(ordered) > _MOST_FAMILIES:
        rest = ordered[_MOST_FAMILIES:]
        lines.append(f"and {sum(len(family.layouts) for family in rest):,} smaller; --json has all")
    return lines


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _cut(family: Family, plan: MeshPlan) -> str:
    found = [f"{each['over']}: dim {each['dim']}" for each in _cuts(family, plan)]
    whole = "; made whole first" if family.layouts[0].is_made_whole and found else ""
    return (", ".join(found) or "whole") + whole


def _cuts(family: Family, plan: MeshPlan) -> list[dict[str, Any]]:
    over = ("tp", "dp_shard, cp" if plan.mesh.cp > 1 else "dp_shard")
    return [
        {"over": name, "dim": cut.dim, "split": cut.split}
        for name, cut in zip(over, family.layouts[0].cuts, strict=True)
        if cut is not None
    ]


def _aligned(rows: list[list[str]], sides: str) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def plan_json(planned: Planned) -> str:
    """All of it as one line of JSON; docs/distributed.md says what its keys mean."""
    plan, build = planned.plan, planned.build
    values: dict[str, Any] = {
        "spec": planned.spec,
        "dtype": None if planned.dtype is None else dtype_name(planned.dtype),
        "mesh": plan.mesh.sizes(),
        "ranks": plan.mesh.ranks,
        "whole_bytes": plan.whole_nbytes,
        "bandwidth_gb_per_s": plan.bandwidth,
        "most_loaded": _rank(plan, plan.most_loaded),
        "least_loaded": _rank(plan, plan.least_loaded),
        "surplus": [{"name": each.family.name, "bytes": each.nbytes, "reason": each.reason} for each in plan.surplus()],
        "plan": {
            "rank": build.rank,
            "seconds": round(build.seconds, 6),
            "fills": build.fills,
            **({} if build.launches is None else build.launches._asdict()),
        },
        "loads": _loads(plan),
        "bytes_by_rank": plan.nbytes.tolist(),
        "tensors": [_family(family, plan) for family in plan.families],
    }
    if planned.rank is not None:
        values["rank"] = _rank(plan, planned.rank) | {
            "tensors": [
                {
                    "name": each.layout.declaration.name,
                    "dtype": dtype_name(each.layout.dtype),
                    "local_shape": each.local_shape,
                    "boxes": [{"offsets": box.offsets, "sizes": box.sizes} for box, _ in each.held],
                }
                for each in plan.tensors_of(planned.rank)
            ]
        }
    return json.dumps(values)


def _rank(plan: MeshPlan, rank: int) -> dict[str, Any]:
    return {"rank": rank, "coordinate": plan.mesh.coordinate(rank), **_row(plan, rank)}


def _row(plan: MeshPlan, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {name.replace("nbytes", "bytes"): int(getattr(plan, name)[rank]) for name in _INTEGERS}
    return found | {"predicted_seconds": float(plan.seconds[rank])}


def _loads(plan: MeshPlan) -> list[dict[str, Any]]:
    """The different rows that ranks have, with how many have each, most bytes first."""
    columns = np.stack([getattr(plan, name) for name in _INTEGERS], axis=1)
    _, first, counts = np.unique(columns, axis=0, return_index=True, return_counts=True)
    order = np.argsort(-plan.nbytes[first], kind="stable")
    return [{"ranks": int(counts[n]), "first_rank": int(first[n]), **_row(plan, int(first[n]))} for n in order]


def _family(family: Family, plan: MeshPlan) -> dict[str, Any]:
    first = family.layouts[0]
    return {
        "name": family.name,
        "tensors": len(family.layouts),
        "kind": first.declaration.kind,
        "shape": first.declaration.shape,
        "dtype": dtype_name(first.dtype),
        "bytes": family.nbytes,
        "cuts": _cuts(family, plan),
        "made_whole": first.is_made_whole and math.prod((plan.mesh.tp, plan.mesh.shards)) > 1 and any(first.cuts),
        "by_stage": family.stages.tolist(),
    }
