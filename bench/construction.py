"""Who builds a model: from a constructor to tensors that are ready, as users have it, with transformers' own models.

A run makes one model, where none was before, and ends when the device is at rest; the host's clock times it. There are
three jobs: the whole way and its halves, which are to record (or to build on the meta device) and to materialize.
"""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import torch

import tritonparam
from bench.cases import DTYPES, PLAIN_FILL, Case, Shapes, gpt2_shapes, llama_shapes
from bench.check import other_bits, unlike
from bench.clock import FreshRun, Run, host_clock, interleave
from bench.copies import OURS
from bench.memory import give_back
from bench.providers import Provider, not_filled, plain_fill
from bench.rows import Environment
from bench.run import Outcome, checked, keep
from tritonparam import Fill, Plan
from tritonparam.module import Declaration, declarations

CONSTRUCTION, RECORD, MATERIALIZE = "construction", "construction: record", "construction: materialize"
OPS = (CONSTRUCTION, RECORD, MATERIALIZE)
BY_META = "torch by meta"
ROUNDS = 5  # samples at most: a model of 7e9 parameters takes its time
SEED = 0
WINDOW = 4096  # elements

Options = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ConstructionCase(Case):
    """One builder, one job; `shapes` are those of the model's parameters, in its order.

    Attributes:
        config: The model's config class in transformers.
        options: What is not as the class has it by default.
    """

    config: str
    options: Options


class Models:
    """What the builders of one job make, one model at a time.

    Attributes:
        device: Where the model is to be.
        declared: What its tensors are to hold, as a deferred model says.
        made: The model that was made last, or the first half of it; of the plain fill, its block.
        fresh: Whether also torch's own cache of CUDA memory is given back before each run.
    """

    def __init__(self, case: ConstructionCase, device: str) -> None:
        transformers = import_module("transformers")
        self.device = torch.device(device)
        self.made: Any = None
        self.fresh = False
        self._bytes = case.moved
        self._dtype = DTYPES[case.dtype]
        self._config = getattr(transformers, case.config)(**dict(case.options))
        self._from_config = transformers.AutoModelForCausalLM.from_config
        with tritonparam.deferred_init():
            model = self.build()
        self.declared = declarations(model)

    def build(self) -> torch.nn.Module:
        """Run the constructor."""
        model: torch.nn.Module = self._from_config(self._config, dtype=self._dtype)
        return model

    def block(self) -> torch.Tensor:
        """As many bytes as the parameters have."""
        return torch.empty(self._bytes, dtype=torch.uint8, device=self.device)

    def release(self) -> None:
        """Let go of what was made: on a host the system has the memory again, on CUDA torch keeps it if not `fresh`."""
        self.made = None
        if self.device.type == "cpu":
            give_back()
        elif self.fresh:
            torch.cuda.empty_cache()

    def rest(self) -> None:
        """Wait until the device has nothing to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def poison(self) -> None:
        """Leave NaNs in the memory that torch hands out next; a host's comes from the system, which clears it."""
        self.release()
        if self.device.type == "cuda":
            self.block().fill_(0xFF)


Half = Callable[[Models, Any], Any]


def _in_halves(record: Half, finish: Half) -> Callable[[ConstructionCase, Models], Run]:
    """A builder by what it does first, for which it has nothing, and what it makes of that."""

    def prepare(case: ConstructionCase, models: Models) -> Run:
        def before() -> None:
            models.release()
            if case.op == MATERIALIZE:
                models.made = record(models, None)
            models.rest()

        def run() -> None:
            if case.op != MATERIALIZE:
                models.made = record(models, None)
            if case.op != RECORD:
                models.made = finish(models, models.made)
            models.rest()

        before()
        return FreshRun(run, before)

    return prepare


def _record(models: Models, _: None) -> torch.nn.Module:
    with tritonparam.deferred_init():
        return models.build()


def _materialize(backend: str) -> Half:
    def materialize(models: Models, model: torch.nn.Module) -> torch.nn.Module:
        return tritonparam.materialize(model, seed=SEED, device=models.device, backend=backend)

    return materialize


def _on_meta(models: Models, _: None) -> torch.nn.Module:
    with torch.device("meta"):
        return models.build()


def _init_weights(models: Models, model: Any) -> torch.nn.Module:
    made: torch.nn.Module = model.to_empty(device=models.device)
    model.init_weights()
    return made


def _on_device(models: Models, _: None) -> torch.nn.Module:
    with models.device:
        return models.build()


def _as_it_is(_: Models, model: torch.nn.Module) -> torch.nn.Module:
    return model


def _nothing(_: Models, __: None) -> None:
    return None


def _filled(models: Models, _: None) -> torch.Tensor:
    block = models.block()
    plain_fill(block)()
    return block


def _not_declared(case: ConstructionCase, models: Models) -> str | None:
    """The tensors are those of the case, and hold what the deferred model declares: in the windows bit for bit."""
    return _fault(case, models, ours=True)


def _not_plausible(case: ConstructionCase, models: Models) -> str | None:
    """The tensors are those of the case; their values have the laws that a deferred model declares."""
    return _fault(case, models, ours=False)


def _fault(case: ConstructionCase, models: Models, ours: bool) -> str | None:
    model: torch.nn.Module = models.made
    shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
    if shapes != case.shapes:
        return f"the model has {len(shapes)} parameters that are not the {len(case.shapes)} of the case"
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if case.op == RECORD:
        if ours and [(each.name, each.laws) for each in declarations(model)] != [
            (each.name, each.laws) for each in models.declared
        ]:
            return "it declares something else than another model of the same config"
        return next((f"{name} is real" for name, tensor in tensors.items() if not tensor.is_meta), None)
    return fault_of(tensors, models.declared, models.device, ours)


def fault_of(
    tensors: Mapping[str, torch.Tensor], declared: Sequence[Declaration], device: torch.device, ours: bool
) -> str | None:
    """What is wrong with tensors that hold what a deferred model declares, or None.

    Args:
        tensors: By name.
        declared: By the deferred model.
        device: Where they are to be.
        ours: Whether they were made with the seed SEED, so that they have the bits that the NumPy definition gives, and
            not only values of the same laws.
    """
    for each in declared:
        tensor = tensors[each.name].detach()
        if tensor.device.type != device.type or tensor.dtype != each.dtype:
            return f"{each.name} has {tensor.dtype} on {tensor.device}, not {each.dtype} on {device}"
        fault = _implausible(each, tensor) or (_other_values(each, tensor) if ours else None)
        if fault is not None:
            return f"{each.name}: {fault}"
    return None


def _implausible(declared: Declaration, tensor: torch.Tensor) -> str | None:
    """All elements look like those of their laws; what is computed, as rotary frequencies are, is near."""
    if declared.laws is None:
        near = torch.allclose(tensor.cpu(), declared.replay(SEED), rtol=1e-5, atol=0)
        return None if near else "is not what the constructor computes"
    for box in declared.laws:
        part = tensor[tuple(slice(start, start + size) for start, size in zip(box.offsets, box.sizes, strict=True))]
        fault = unlike(box.law, [part])
        if fault is not None:
            return fault
    return None


def _other_values(declared: Declaration, tensor: torch.Tensor) -> str | None:
    """Where a tensor has other bits than the NumPy definition gives, in windows of rows of each box."""
    if declared.laws is None:
        return other_bits(tensor.cpu(), declared.replay(SEED))
    want = torch.empty(declared.shape, dtype=declared.dtype)  # takes memory where it is written: in the windows
    windows = [
        Fill(whole.out[start:stop], whole.law, whole.key, whole.shape, (whole.offsets[0] + start, *whole.offsets[1:]))
        for whole in declared.fills(want, SEED)
        for start, stop in _windows(declared.name, whole.out)
    ]
    Plan(windows, backend="numpy").run()
    flat = tensor.contiguous()
    for window in windows:
        out, first = window.out, int(window.out.storage_offset())
        got = flat.as_strided(out.shape, out.stride(), flat.storage_offset() + first)
        fault = other_bits(got.cpu(), out, first)
        if fault is not None:
            return fault
    return None


def _windows(name: str, out: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Start and stop of the rows that are compared: both ends and some in between, or all."""
    rows = out.shape[0]
    count = max(1, WINDOW * rows // out.numel())
    if rows <= 3 * count:
        yield 0, rows
        return
    middle = random.Random(name).randrange(count, rows - 2 * count)
    for start in (0, middle, rows - count):
        yield start, start + count


BUILDERS = {
    OURS["cpu"]: Provider(_in_halves(_record, _materialize("cpu")), _not_declared),
    OURS["cuda"]: Provider(_in_halves(_record, _materialize("triton")), _not_declared),
    "torch": Provider(_in_halves(_on_device, _as_it_is), _not_plausible),
    BY_META: Provider(_in_halves(_on_meta, _init_weights), _not_plausible),
    PLAIN_FILL: Provider(_in_halves(_nothing, _filled), lambda _, models: not_filled(models.made)),
}


def construction_cases(device: str, quick: bool = False) -> list[ConstructionCase]:
    """All cases of a device, none without transformers; those that are compared side by side are neighbours.

    The workload names the release of transformers: another one's constructor is another job.

    Args:
        device: "cpu" or "cuda".
        quick: Small models of the same kinds, to see that all runs; nothing to publish.
    """
    if find_spec("transformers") is None:
        return []
    ours = OURS[device]
    builders = {
        CONSTRUCTION: (ours, "torch", BY_META, PLAIN_FILL),
        RECORD: (ours, BY_META),
        MATERIALIZE: (ours, BY_META, PLAIN_FILL),
    }
    release = importlib.metadata.version("transformers")
    return [
        ConstructionCase(
            op, builder, f"{name}, transformers {release}", shapes, dtype, torch.get_num_threads(), config, options
        )
        for name, config, options, shapes in _models(device, quick)
        for dtype in DTYPES
        for op in OPS
        for builder in builders[op]
    ]


def _models(device: str, quick: bool) -> list[tuple[str, str, Options, Shapes]]:
    if quick:
        known = [("GPT-2 cut down", *small_gpt2()), ("Llama cut down", *small_llama())]
    else:
        known = [("GPT-2 124M", "GPT2Config", (), gpt2_shapes()), ("Llama 2 7B", "LlamaConfig", (), llama_shapes())]
    return known if device == "cuda" else known[:1]


def small_gpt2() -> tuple[str, Options, Shapes]:
    """Config class, options and shapes."""
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 1000, "n_positions": 128}
    options = tuple((sizes | {"bos_token_id": 0, "eos_token_id": 0}).items())
    return "GPT2Config", options, gpt2_shapes(2, 64, 1000, 128)


def small_llama() -> tuple[str, Options, Shapes]:
    """Config class, options and shapes."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 172, "vocab_size": 1000}
    return "LlamaConfig", tuple((sizes | {"num_attention_heads": 4}).items()), llama_shapes(2, 64, 172, 1000)


def measure_construction(
    cases: Sequence[ConstructionCase],
    device: str,
    environment: Environment,
    providers: Mapping[str, Provider] = BUILDERS,
    rounds: int = ROUNDS,
    budget: float = 2.0,
    report: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Check and time cases; those of one job, which must be neighbours, side by side.

    On CUDA twice: in memory that torch has kept ("eager"), and in memory from the driver ("fresh"), as in a process
    that has just begun. On a host memory comes from the system.

    Args:
        cases: What to measure.
        device: "cpu" or "cuda".
        environment: Of this process.
        providers: Who builds, by name.
        rounds: Samples of each case at most; no more than ROUNDS are taken.
        budget: Seconds of timing for each case.
        report: Is told of each row and each refusal.
    """
    outcome = Outcome()
    for group in (list(group) for _, group in groupby(cases, lambda case: case.job)):
        if device == "cuda":
            torch.cuda.empty_cache()
        torch.manual_seed(0)
        models = Models(group[0], device)
        ready = checked(group, device, providers, models, report, outcome)
        modes = ("host",) if group[0].op == RECORD else ("eager", "fresh") if device == "cuda" else ("eager",)
        timed = {}
        for mode in modes:
            models.fresh = mode == "fresh"
            timed[mode] = interleave(ready, host_clock, min(rounds, ROUNDS), budget)
        keep(timed, environment, report, outcome)
        models.release()
    return outcome
