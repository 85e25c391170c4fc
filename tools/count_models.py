"""Count the models that deferral builds as eager torch does: `make models` writes docs/models.md.

`python tools/count_models.py [FAMILY ...] [--every N]` prints the page instead. Each model is built twice by torch, and
once deferred and made real. All three must have the same names, kinds, dtypes, shapes, requires_grad, ties and entries
in the state dict. A tensor that torch makes twice alike must have those bits; one that it draws must come from the
same distribution, by the two-sample Kolmogorov-Smirnov test with one false alarm in 10**12 tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools.model_families import FAMILIES, Build, Choices, selection  # noqa: E402
from tritonparam import deferred_init, materialize  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
PROCESSES = 2
SECONDS = 60
MOST_ELEMENTS = 30_000_000
MOST_MEMORY = 10 * 2**30
LOOKED_AT = 50_000
FALSE_ALARM = 1e-12

AGREES, LEFT, UNWRITTEN = "agrees", "leaves tensors on meta", "has unwritten tensors"
DIFFERS, FAILS, SKIPPED = "differs", "raises", "not had small"
KINDS = (AGREES, LEFT, UNWRITTEN, DIFFERS, FAILS, SKIPPED)
PACKAGES = ("tritonparam", "torch", "transformers", "timm", "numpy")


class Outcome(NamedTuple):
    """How the deferral of one model went."""

    family: str
    name: str
    kind: str
    detail: str


def outcome(choices: Choices) -> tuple[str, str]:
    """What becomes of a model, and what is to be said of it."""
    why = "nothing to build"
    for build in choices():
        model, error = None, None
        try:
            with deferred_init():
                model = build()
        except Exception as caught:
            error = caught
        if error is not None and _raises_alike_on_meta(build, error):
            why = _line(error)
            continue
        if model is not None and _elements(model) > MOST_ELEMENTS:
            why = f"more than {MOST_ELEMENTS:,} elements"
            continue
        try:
            want = _seeded(build, 0)
        except Exception as caught:
            why = _line(caught)
            continue
        if model is None:
            return FAILS, _line(error)
        try:
            materialize(model, seed=0)
        except Exception as caught:
            return (UNWRITTEN if "uninitialized tensors" in str(caught) else FAILS), _line(caught)
        difference = _difference(model, want, _seeded(build, 1))
        left = left_on_meta(model)
        return (DIFFERS, difference) if difference else (LEFT, ", ".join(left)) if left else (AGREES, "")
    return SKIPPED, why


def _raises_alike_on_meta(build: Build, error: Exception) -> bool:
    """Whether torch raises the same without values, of a model that may be too large to be built with them."""
    try:
        with torch.device("meta"):
            build()
    except Exception as caught:
        return _line(caught) == _line(error) and "meta" not in str(error).lower()
    return False


def _seeded(build: Build, seed: int) -> torch.nn.Module:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    return build()


def _line(error: BaseException | None) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def _elements(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in _tensors(module).values() if not is_lazy(each))


def _difference(got: torch.nn.Module, want: torch.nn.Module, other: torch.nn.Module) -> str:
    """What tells a model made by deferral from two made by torch; nothing if they are alike."""
    gots, wants, others = _tensors(got), _tensors(want), _tensors(other)
    if list(gots) != list(wants):
        return f"names: got {sorted(set(gots) - set(wants))[:3]} and lacks {sorted(set(wants) - set(gots))[:3]}"
    if list(got.state_dict()) != list(want.state_dict()):
        return "names of the state dict"
    if _ties(gots) != _ties(wants):
        return f"ties: got {_ties(gots)[:3]}, want {_ties(wants)[:3]}"
    for name, left in wants.items():
        right = gots[name]
        if is_lazy(left):
            continue
        for attribute in ("dtype", "shape", "requires_grad", "device", "layout"):
            if getattr(left, attribute) != getattr(right, attribute):
                return f"{attribute} of {name}: got {getattr(right, attribute)}, want {getattr(left, attribute)}"
        if type(left) is not type(right):
            return f"class of {name}: got {type(right).__name__}, want {type(left).__name__}"
        if _same(left, others[name]):
            if not _same(left, right):
                return f"values of {name}: got {_shown(right)}, want {_shown(left)}"
        elif not _alike(_sample(right), np.concatenate([_sample(left), _sample(others[name])])):
            return f"distribution of {name}: got {_moments(right)}, want {_moments(left)}"
    return ""


def _ties(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """The names of those that share memory."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if not is_lazy(tensor) and tensor.layout == torch.strided and tensor.numel():
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return sorted(names for names in groups.values() if len(names) > 1)


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    left, right = left.detach(), right.detach()
    if left.layout != torch.strided:
        left, right = left.to_dense(), right.to_dense()
    if left.is_complex() and right.is_complex():
        left, right = (torch.view_as_real(each.resolve_conj().resolve_neg()) for each in (left, right))
    if left.shape != right.shape or not left.is_floating_point():
        return torch.equal(left, right)
    nan = left.isnan()
    if not torch.equal(nan, right.isnan()):
        return False
    left, right = left.masked_fill(nan, 0), right.masked_fill(nan, 0)
    return torch.equal(left, right) and torch.equal(left.signbit(), right.signbit())


def _sample(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    flat = tensor.resolve_conj().flatten()[:LOOKED_AT]
    return (torch.view_as_real(flat).flatten() if flat.is_complex() else flat).double().numpy()


def _alike(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two samples may have one distribution: the two-sample Kolmogorov-Smirnov test."""
    points = np.concatenate([left, right])
    shares = [np.searchsorted(np.sort(each), points, side="right") / len(each) for each in (left, right)]
    bound = math.sqrt(-math.log(FALSE_ALARM / 2) / 2 * (1 / len(left) + 1 / len(right)))
    return bool(np.abs(shares[0] - shares[1]).max() <= bound)


def _shown(tensor: torch.Tensor) -> str:
    return str(tensor.detach().flatten()[:4].tolist())


def _moments(tensor: torch.Tensor) -> str:
    sample = _sample(tensor)
    return f"mean {sample.mean():.3g} and std {sample.std():.3g}"


def left_on_meta(module: torch.nn.Module) -> list[str]:
    """The tensors that a module holds outside its parameters and buffers, and that are still on the meta device."""
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, owner in module.named_modules()
        for name, value in vars(owner).items()
        if name not in ("_parameters", "_buffers", "_modules") and _holds_meta(value)
    ]


def _holds_meta(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_meta
    if isinstance(value, (list, tuple)):
        return any(_holds_meta(each, depth + 1) for each in value[:50])
    if isinstance(value, torch.nn.Module):
        return False
    inner = value if isinstance(value, dict) else getattr(value, "__dict__", {}) if depth < 2 else {}
    return any(_holds_meta(each, depth + 1) for each in list(inner.values())[:50])


def count(family: str, every: int = 1) -> Iterator[Outcome]:
    """How it went with every nth model of a family, as they are done: each in a process of its own."""
    models = selection(family, every)
    with deferred_init():
        materialize(torch.nn.Bilinear(2, 2, 2))  # torch imports a lot at its first operation on the meta device
    context = multiprocessing.get_context("fork")  # what is imported here is imported there
    waiting = list(models)[::-1]
    running: dict[Connection, tuple[ForkProcess, str, float]] = {}
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            name = waiting.pop()
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(models[name], theirs))
            process.start()
            theirs.close()
            running[mine] = process, name, time.monotonic() + SECONDS
        ready = multiprocessing.connection.wait(list(running), timeout=0.5)
        for pipe, (process, name, deadline) in list(running.items()):
            if pipe in ready:
                try:
                    kind, detail = pipe.recv()
                except EOFError:
                    process.join()
                    kind, detail = FAILS, f"the process ended with status {process.exitcode}"
            elif time.monotonic() > deadline:
                kind, detail = FAILS, f"took more than {SECONDS} s"
            else:
                continue
            process.kill()
            process.join()
            del running[pipe]
            yield Outcome(family, name, kind, detail)


def _work(choices: Choices, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        pipe.send(outcome(choices))


def page(outcomes: list[Outcome], seconds: float, every: int = 1) -> str:
    """The page: a table by family, and each model that does not simply agree, by name."""
    lines = [
        "# Models",
        "",
        "`make models` builds each model twice with torch, and once with `deferred_init` and `materialize`. It",
        "compares names, kinds, dtypes, shapes, `requires_grad`, ties, entries of the state dict, and all values: to",
        "the bit those that are not random, and by their distribution those that are (two-sample Kolmogorov-Smirnov",
        "test, one false alarm in 10<sup>12</sup> tensors). No weights are loaded: configs are made small. Of timm,",
        "one model of each file is built. A part of all this is in the tests.",
        "",
        f"| models | {' | '.join(KINDS)} |",
        f"|---|{'---:|' * len(KINDS)}",
    ]
    for family in dict.fromkeys(each.family for each in outcomes):
        kinds = Counter(each.kind for each in outcomes if each.family == family)
        lines.append(f"| {FAMILIES[family].title} | {' | '.join(f'{kinds[kind]:,}' for kind in KINDS)} |")
    lines += [
        f"| not counted: {FAMILIES[name].title}, not installed |" for name in FAMILIES if FAMILIES[name].missing()
    ]
    lines += [
        "",
        f"{len(outcomes):,} models{f', every {every}th' if every > 1 else ''}, in {seconds / 60:.0f} minutes on "
        f"{PROCESSES} processes; {', '.join(_versions())}; {time.strftime('%Y-%m-%d')}.",
    ]
    meaning = {
        FAILS: "Deferral raises, and torch does not",
        DIFFERS: "Something is not what torch makes of it",
        UNWRITTEN: "The model never writes some tensors: torch leaves in them what was in memory, deferral refuses",
        LEFT: "Right, but tensors that are neither parameters nor buffers stay on the meta device",
        SKIPPED: "Torch itself does not build it with a small config, or it needs other packages",
    }
    for kind, text in meaning.items():
        them = [each for each in outcomes if each.kind == kind]
        if them:
            lines += ["", f"## {text} ({len(them)})", ""]
            lines += [f"- {each.family} `{each.name}`: {each.detail}" for each in them]
    return "\n".join(lines) + "\n"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    yield f"python {sys.version.split()[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []])
    parser.add_argument("--every", type=int, default=1, help="only every nth model")
    parser.add_argument("--write", action="store_true", help="write docs/models.md")
    parser.add_argument("--rows", type=Path, help="where to write a line of JSON for each model")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # also as forks have no other threads
    began, outcomes = time.monotonic(), []
    for family in arguments.families or FAMILIES:
        missing = FAMILIES[family].missing()
        if missing:
            print(f"{family} is not counted: {', '.join(missing)} not installed", file=sys.stderr)
            continue
        for done in count(family, arguments.every):
            outcomes.append(done)
            print(f"{len(outcomes)}: {' '.join(done)}", file=sys.stderr)
    order = {family: n for n, family in enumerate(FAMILIES)}
    outcomes.sort(key=lambda each: (order[each.family], each.name))
    if arguments.rows:
        arguments.rows.write_text("".join(f"{json.dumps(each)}\n" for each in outcomes))
    text = page(outcomes, time.monotonic() - began, arguments.every)
    if arguments.write:
        PAGE.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
