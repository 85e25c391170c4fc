"""What a reader is to see first, made from the rows: seconds of what people call, and one large tensor on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import end_to_end, rows, table
from bench.cases import LAWS, PLAIN_FILL
from bench.copies import OURS
from bench.rows import Row
from bench.table import job_of, markdown, significant, versions
from bench.ways import CONSTRUCT, LOAD

END_TO_END = "end-to-end"  # the folder of the rows of whole ways, beside those of single calls
DEVICES = {"NVIDIA H100 80GB HBM3": "H100", "AMD EPYC, 2 threads": "CPU, 2 cores"}  # what the README speaks of
NOT_MEASURED = "not measured"
MODELS = {"gpt2": "GPT-2", "llama-3.2-1b": "Llama 3.2 1B", "llama-2-7b": "Llama 2 7B"}
OWN = ("tritonparam triton", "tritonparam cpu")
TITLES = {
    CONSTRUCT: "from constructor to ready tensors: `deferred_init` + `materialize` / `from_config`",
    end_to_end.INIT: "from config to checkpoint: `tritonparam init` / `from_config` + `save_pretrained`",
    LOAD: "from checkpoint to a new model: `deferred_init` + `load` / `from_pretrained`",
}


class Call(NamedTuple):
    """One kind of call in rows of single calls: who makes it on which device, ours and torch's."""

    title: str
    op: str
    model: str
    dtype: str
    workload: str
    ours: Sequence[str]


BUILT = ("tritonparam triton, plan built too",)
CALLS = (
    Call("from checkpoint into tensors: `load` / `load_file` + copies", "load", "GPT-2", "float32", "GPT-2 124M", OWN),
    Call("ones into tensors: `Plan(fills).run()` / `fill_`", "ones", "GPT-2", "float32", "GPT-2 124M", BUILT),
    Call("normals into tensors: `Plan(fills).run()` / `normal_`", "normal", "GPT-2", "float32", "GPT-2 124M", BUILT),
    Call("the same", "normal", "Llama 2 7B", "bfloat16", "Llama 2 7B", BUILT),
)


def summary(results: Path) -> str:
    """The README's table: seconds of what people call, by us and by others, on the devices that it speaks of."""
    ways = _ways(results)
    calls = [row for path in sorted(results.glob("*.csv")) for row in rows.read(path)]
    lines = [("seconds: ours / others", "model", *DEVICES.values()), ("---", "---", *("--:" for _ in DEVICES))]
    for op, title in TITLES.items():
        for model in ("gpt2", "llama-2-7b"):
            found = [row for row in ways if (row.op, row.workload) == (op, model)]
            dtype = next(job.dtype for job in end_to_end.jobs() if job.name == model)
            cells = [_cell(*(_least(found, device, ours) for ours in (True, False))) for device in DEVICES]
            lines.append((title if model == "gpt2" else "the same", f"{MODELS[model]}, {dtype}", *cells))
    for call in CALLS:
        cells = [_cell(*(_median(calls, call, device, by) for by in (call.ours, ("torch",)))) for device in DEVICES]
        lines.append((call.title, f"{call.model}, {call.dtype}", *cells))
    return markdown(lines)


def _cell(ours: str, others: str) -> str:
    """Both, or that ours is not measured: a peer alone says nothing."""
    return NOT_MEASURED if ours == NOT_MEASURED else f"{ours} / {others}"


def _ways(results: Path) -> list[end_to_end.Row]:
    return [row for path in sorted((results / END_TO_END).glob("*.csv")) for row in rows.read_as(end_to_end.Row, path)]


def _least(found: Sequence[end_to_end.Row], device: str, ours: bool) -> str:
    of = [row for row in found if row.device == device and row.provider.startswith("tritonparam") == ours]
    return significant(of[0].least_s, 2) if of else NOT_MEASURED


def _median(found: Sequence[Row], call: Call, device: str, makers: Sequence[str]) -> str:
    wanted = (call.op, call.workload, call.dtype, "eager", device)
    of = [row for row in found if (row.op, row.workload, row.dtype, row.mode, row.device) == wanted]
    seconds = [row.median_s for row in of if row.provider in makers]
    return significant(seconds[0], 2) if seconds else NOT_MEASURED


def ways(results: Path) -> str:
    """Every row of end_to_end, one table a device, those of GPUs first; of a way the makers are neighbours."""
    found = _ways(results)
    parts = []
    for device in sorted(dict.fromkeys(row.device for row in found), key=lambda name: name.endswith("threads")):
        own = [row for row in found if row.device == device]
        own.sort(key=lambda row: ([*TITLES].index(row.op), [*MODELS, row.workload].index(row.workload)))
        lines: list[tuple[str, ...]] = [
            ("way", "model", "dtype", "by", "least, s", "median, s", "runs", "most memory, MB"),
            ("---", "---", "---", "---", "--:", "--:", "--:", "--:"),
        ]
        for row in own:
            figures = (significant(row.least_s), significant(row.median_s), str(row.rounds))
            model = MODELS.get(row.workload, row.workload)
            lines.append((row.op, model, row.dtype, row.provider, *figures, f"{row.peak_bytes / 1e6:,.0f}"))
        parts.append(f"**{device}**\n\n{markdown(lines)}\n\nFrom whole processes. {versions(own)}.")
    return "\n\n".join(parts)


def one_tensor(results: Path) -> str:
    """One large tensor on each device, in memory that was written before."""
    lines: list[tuple[str, ...]] = [
        ("GB/s written", "device", "tritonparam", "torch", "plain fill"),
        ("---", "---", "--:", "--:", "--:"),
    ]
    for panel in panels(results):
        for op, fill in panel.fills.items():
            cells = [significant(value) if value else "" for value in (fill.ours, fill.torch, fill.plain)]
            lines.append((f"{op.replace('_', ' ')}, {panel.dtype}", panel.where, *cells))
    return markdown(lines)


class Speeds(NamedTuple):
    """GB/s of one op; 0 where none was measured."""

    ours: float
    torch: float
    plain: float


class Panel(NamedTuple):
    """One large tensor of one dtype, on one device with so many threads of its host.

    Attributes:
        device, threads, dtype: Which.
        where: The device; of a host with as many of its threads as were used.
        workload: The tensor.
        fills: Of each op.
        rows: What all is from.
    """

    device: str
    threads: int
    dtype: str
    where: str
    workload: str
    fills: dict[str, Speeds]
    rows: Sequence[Row]

    @property
    def ceiling(self) -> float:
        """GB/s of the fastest plain fill: they do the same whatever the op, and differ by what else the host does."""
        return max(each.plain for each in self.fills.values())


def panels(results: Path) -> Iterator[Panel]:
    """What was measured of one large tensor, by a prebuilt plan called from Python; devices as in the tables."""
    every = [rows.read(path) for path in sorted(results.glob("*.csv"))]
    for found in sorted(every, key=table.is_of_a_host):
        ones = [
            row for row in found if row.workload.startswith("one tensor") and row.mode == "eager" and row.op in LAWS
        ]
        for dtype, threads in dict.fromkeys((row.dtype, row.threads) for row in ones):
            own = [row for row in ones if (row.dtype, row.threads) == (dtype, threads)]
            speeds = {(row.op, row.provider): row.gb_per_s for row in own}
            maker = next((row.provider for row in own if row.provider in OWN), None)
            if maker is None:
                continue
            fills = {
                op: Speeds(*(speeds.get((op, by), 0.0) for by in (maker, "torch", PLAIN_FILL)))
                for op in dict.fromkeys(job_of(row)[0].replace(" ", "_") for row in own)
            }
            device = own[0].device
            where = device
            if maker != OURS["cuda"]:
                where = f"{device.partition(',')[0]}, {threads} thread{'s' * (threads > 1)}"
            yield Panel(device, threads, dtype, where, own[0].workload, fills, own)
