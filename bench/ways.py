"""The ways to a model that bench.end_to_end times, each in a process of its own: what people write, and what it made.

A process times one way some times over, the first of which does not count: it compiles, and fills caches. Before each
time the model of the last one is gone, and its memory given back. In the end the last model is checked.

    python -m bench.ways construct|load MAKER CONFIG CHECKPOINT DTYPE DEVICE TIMES OUT.json
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

import tritonparam
from bench.construction import SEED, fault_of
from bench.memory import give_back
from tritonparam._program import peak_bytes
from tritonparam.module import declarations

CONSTRUCT, LOAD = "construct", "load"
OURS, TORCH, TRANSFORMERS = "tritonparam", "torch", "transformers"


class Asked(NamedTuple):
    """What a way is given: a config, a checkpoint of it, and what to make where."""

    config: Any
    checkpoint: str
    dtype: torch.dtype
    device: torch.device

    def built(self) -> Any:
        """Run the constructor."""
        return import_module("transformers").AutoModelForCausalLM.from_config(self.config, dtype=self.dtype)


@dataclass(frozen=True)
class Told:
    """What a process says of its way.

    Attributes:
        seconds: From the call to a model that is ready, of each time that counts.
        peak_bytes: The most memory that the process had until then.
        fingerprint: Of the last model.
        fault: What is wrong with the last model; empty if nothing is.
    """

    seconds: list[float]
    peak_bytes: int
    fingerprint: str
    fault: str


def _materialized(asked: Asked) -> Any:
    with tritonparam.deferred_init():
        model = asked.built()
    return tritonparam.materialize(model, seed=SEED, device=asked.device)


def _constructed(asked: Asked) -> Any:
    if asked.device.type == "cpu":
        return asked.built()
    with asked.device:
        return asked.built()


def _loaded(asked: Asked) -> Any:
    with tritonparam.deferred_init():
        model = asked.built()
    tritonparam.load(model, asked.checkpoint, device=asked.device)
    return model


def _from_pretrained(asked: Asked) -> Any:
    auto = import_module("transformers").AutoModelForCausalLM
    return auto.from_pretrained(asked.checkpoint, dtype=asked.dtype).to(asked.device)


WAYS: dict[tuple[str, str], Callable[[Asked], Any]] = {
    (CONSTRUCT, OURS): _materialized,
    (CONSTRUCT, TORCH): _constructed,
    (LOAD, OURS): _loaded,
    (LOAD, TRANSFORMERS): _from_pretrained,
}


def take(way: Callable[[Asked], Any], asked: Asked, times: int, ours: bool) -> Told:
    """Time a way, so many times and one more, and check what it made.

    Args:
        way: What is timed.
        asked: What it is given.
        times: How many count.
        ours: Whether the values must have the bits of tritonparam's definition, or only follow the same laws.
    """
    seconds: list[float] = []
    model: Any = None
    for _ in range(times + 1):
        model = None
        _release(asked.device)
        begin = time.perf_counter()
        model = way(asked)
        _rest(asked.device)
        seconds.append(time.perf_counter() - begin)
    peak = peak_bytes() or 0
    with tritonparam.deferred_init():
        declared = declarations(asked.built())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    fault = fault_of(tensors, declared, asked.device, ours)
    return Told(seconds[1:], peak, tritonparam.fingerprint(model).total, fault or "")


def _rest(device: torch.device) -> None:
    """Wait until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def _release(device: torch.device) -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    give_back()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    _rest(device)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    op, maker, config, checkpoint, dtype, device, times, out = sys.argv[1:] if words is None else words
    known = import_module("transformers").AutoConfig.from_pretrained(config)
    asked = Asked(known, checkpoint, getattr(torch, dtype), torch.device(device))
    told = take(WAYS[op, maker], asked, int(times), ours=maker == OURS)
    Path(out).write_text(json.dumps(asdict(told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
