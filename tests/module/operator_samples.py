"""torch's own samples of its operators, deferred against eager: a script, as torch.testing changes its process.

`python -m tests.module.operator_samples OUT [--part K/N] [--samples S] [NAME ...]` writes a line of JSON a call into
OUT, and prints how many there were of each kind, with a line for each operator that did not agree.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tritonparam import deferred_init, materialize

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.complex64, torch.bool)
SEEDS = (0, 1, 2)
AGREES, BOTH_RAISE, OTHER_STRIDES, NOTHING = "agrees", "both raise", "other strides", "nothing to compare"
WRONG, RAISES, ONLY_EAGER_RAISES, ONE_FOR_ALL = "wrong", "raises", "only eager raises", "one value for all seeds"
UNSTABLE, RAISES_LATE = "eager differs from itself", "both raise, deferred when it is materialized"
ORDINARY = (AGREES, BOTH_RAISE, RAISES_LATE, OTHER_STRIDES, NOTHING, UNSTABLE)
_SHIFTS = range(1, 33)  # elements by which tensors are moved in memory, to see whether eager results depend on it
_LONGEST = 300


class Row(NamedTuple):
    """How a call went, deferred; `detail` is the error or what differs, `arguments` what it was called with."""

    op: str
    dtype: str
    variant: str
    kind: str
    detail: str
    arguments: str


class NothingToCompare(Exception):
    """A variant does not exist for a sample."""


class Copies:
    """Copies of a call's tensors, with their strides, offsets and shared storages; deferred ones inside the block.

    Args:
        shift: By how many elements to move each in memory.
        grad: Whether floating-point ones require a gradient.
    """

    def __init__(self, shift: int = 0, *, grad: bool = False) -> None:
        self.tensors: list[torch.Tensor] = []
        self._shift = shift
        self._grad = grad
        self._storages: dict[tuple[int, torch.dtype], torch.Tensor] = {}

    def of(self, values: Any) -> Any:
        return tree_map(self._copy, values)

    def _copy(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        made = self._strided(value) if _is_plain(value) else value.clone()
        if self._grad and (made.is_floating_point() or made.is_complex()):
            made = made.detach().requires_grad_()
        self.tensors.append(made)
        return made

    def _strided(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not storage.nbytes():
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        key = storage.data_ptr(), tensor.dtype
        if key not in self._storages:
            flat = _flat(tensor)
            memory = torch.empty(self._shift + len(flat), dtype=tensor.dtype)
            memory[self._shift :].copy_(flat)
            self._storages[key] = memory[self._shift :] if self._shift else memory
        made = self._storages[key].as_strided(tensor.shape, tensor.stride(), self._shift + tensor.storage_offset())
        made = made.conj() if tensor.is_conj() else made
        return torch._neg_view(made) if tensor.is_neg() else made


def _is_plain(value: object) -> bool:
    """Whether deferral can follow what a tensor is made of."""
    if not isinstance(value, torch.Tensor):
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_nested


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """All elements of a tensor's storage, as they are in memory."""
    plain = tensor.detach()
    plain = torch._neg_view(plain) if plain.is_neg() else plain
    plain = plain.conj() if plain.is_conj() else plain
    return plain.as_strided((tensor.untyped_storage().nbytes() // tensor.dtype.itemsize,), (1,), 0)


class Holder(torch.nn.Module):
    """A module with some tensors as its buffers."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        for n, tensor in enumerate(tensors):
            self.register_buffer(f"t{n}", tensor)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether something was drawn."""

    drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drew = self.drew or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def calls(op: Any, dtype: torch.dtype, limit: int | None) -> Iterator[tuple[str, Call]]:
    """What to call with what: the variants of an operator with samples of a dtype."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    for n, sample in enumerate(itertools.islice(op.sample_inputs("cpu", dtype), limit)):
        args, kwargs = (sample.input, *sample.args), sample.kwargs
        yield "function", Call(op.op, args, kwargs)
        if op.inplace_variant is not None:
            yield "in place", Call(op.inplace_variant, args, kwargs)
        if n == 0 and op.method_variant is not None:
            yield "method", Call(op.method_variant, args, kwargs)
        if n < 2 and op.supports_out:
            yield "out", Call(op.op, args, kwargs, with_out=True)
        if n < 2 and dtype == torch.float32 and op.supports_autograd:
            yield "gradients", Call(op.op, args, kwargs, grad=True)


class Call(NamedTuple):
    """A call of an operator, to be made with copies of its tensors."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    with_out: bool = False
    grad: bool = False

    def now(self, shift: int = 0) -> list[Any]:
        """The results, then the tensors that it was called with, as they are afterwards."""
        copies = Copies(shift, grad=self.grad)
        args, kwargs = copies.of(self.args), copies.of(self.kwargs)
        if self.with_out:
            kwargs = {**kwargs, "out": _outs(self.func(*args, **kwargs))}
        return [*tree_flatten(self.func(*args, **kwargs))[0], *copies.tensors]

    def later(self) -> list[Any]:
        """The same, deferred."""
        with deferred_init():
            return self.now()

    def deferred(self, seed: int) -> list[Any]:
        """The same, deferred and made real."""
        values = self.later()
        materialize(Holder([each for each in values if isinstance(each, torch.Tensor)]), seed=seed)
        return values


def outcome(call: Call) -> tuple[str, str]:
    """How a call goes, deferred, and what is to be said of it."""
    wants, watch, error = [], Watch(), None
    try:
        torch.manual_seed(SEEDS[0])
        with watch:
            wants.append(call.now())
        for seed in SEEDS[1:] if watch.drew else ():
            torch.manual_seed(seed)
            wants.append(call.now())
    except NothingToCompare as why:
        return NOTHING, str(why)
    except Exception as why:
        error = why
    try:
        gots = [call.deferred(seed) for seed in (SEEDS if watch.drew and not error else SEEDS[:1])]
    except Exception as why:
        kind = RAISES if not error else BOTH_RAISE if _raises(call.later) else RAISES_LATE
        return kind, f"{type(why).__name__}: {why}"
    if error:
        return ONLY_EAGER_RAISES, f"{type(error).__name__}: {error}"
    want, got = wants[0], gots[0]
    difference = next((text for other in gots if (text := _difference(want, other, values=not watch.drew))), "")
    if difference and not watch.drew and any(_difference(want, call.now(shift), values=True) for shift in _SHIFTS):
        return UNSTABLE, difference
    if difference:
        return WRONG, difference
    if watch.drew:
        if _difference(got, call.deferred(SEEDS[0]), values=True):
            return WRONG, "two runs with one seed differ"
        if _vary(wants) and not _vary(gots):
            return ONE_FOR_ALL, ""
    strides = [[tuple(each.stride()) for each in values if _is_plain(each)] for values in (got, want)]
    return (AGREES, "") if strides[0] == strides[1] else (OTHER_STRIDES, f"got {strides[0]}, want {strides[1]}")


def _raises(make: Callable[[], object]) -> bool:
    try:
        make()
    except Exception:
        return True
    return False


def _vary(many: list[list[Any]]) -> bool:
    return any(_difference(many[0], other, values=True) for other in many[1:])


def _outs(results: Any) -> Any:
    """Tensors to write results into, with something in them."""
    leaves = tree_flatten(results)[0]
    if not leaves or not all(_is_plain(each) for each in leaves):
        raise NothingToCompare("no tensors to give as out")
    return tree_map(lambda each: torch.ones(each.shape, dtype=each.dtype), results)


def _difference(want: list[Any], got: list[Any], *, values: bool) -> str:
    """What tells two lists of results apart; nothing if they are the same."""
    if len(want) != len(got):
        return f"{len(got)} results for {len(want)}"
    for n, (left, right) in enumerate(zip(want, got, strict=True)):
        if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
            if type(left) is not type(right) or (values and left != right and not (left != left and right != right)):
                return f"result {n}: got {right!r}, want {left!r}"
            continue
        # Those that were computed from what requires a gradient are leaves once they are real, without a history.
        for attribute in ("dtype", "shape", "layout", "device", *(("requires_grad",) if left.is_leaf else ())):
            if getattr(left, attribute) != getattr(right, attribute):
                return f"{attribute} of {n}: got {getattr(right, attribute)}, want {getattr(left, attribute)}"
        if values and not _same(left, right):
            return f"values of {n} {_described(left)}: got {_shown(right)}, want {_shown(left)}"
    return ""


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same bits, or NaN both."""
    left, right = _numbers(left), _numbers(right)
    if left.is_floating_point():
        nan = left.isnan()
        if not torch.equal(nan, right.isnan()):
            return False
        left, right = left.masked_fill(nan, 0), right.masked_fill(nan, 0)
        return torch.equal(left, right) and torch.equal(left.signbit(), right.signbit())
    return torch.equal(left, right)


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.is_nested:
        tensor = tensor.values()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_described, value))}]"
    return repr(value)


def _shown(tensor: torch.Tensor) -> str:
    return repr(_numbers(tensor).flatten()[:6].tolist())


def run(out: Path, part: tuple[int, int], limit: int | None, names: list[str]) -> list[Row]:
    """Make every call, and write each row as soon as it is known."""
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    ops = [op for op in op_db if op.name in names] if names else op_db[part[0] :: part[1]]
    rows = []
    with out.open("w") as file:
        for op in ops:
            name = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
            for dtype in (each for each in DTYPES if each in op.dtypes):
                for variant, call in calls(op, dtype, limit):
                    kind, detail = outcome(call)
                    arguments = "" if kind == AGREES else _described([*call.args, *call.kwargs.items()])
                    short = str(dtype).removeprefix("torch.")
                    rows.append(Row(name, short, variant, kind, detail[:_LONGEST], arguments[:_LONGEST]))
                    file.write(json.dumps(rows[-1]) + "\n")
                    file.flush()
    return rows


def table(rows: list[Row], *, but: tuple[str, ...] = ORDINARY) -> str:
    """How many rows there are of each kind, and a line for every operator and kind, those of `but` left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.kind not in but:
            groups.setdefault((row.op, row.kind), []).append(row)
    lines = [", ".join(f"{count:,} {kind}" for kind, count in Counter(row.kind for row in rows).most_common())]
    for (op, kind), them in groups.items():
        first = them[0]
        variants, dtypes = dict.fromkeys(row.variant for row in them), dict.fromkeys(row.dtype for row in them)
        where = f"{', '.join(variants)}; {', '.join(dtypes)}"
        lines.append(f"{op}: {len(them)} {kind} ({where}), such as {first.arguments}: {first.detail}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="0/1", type=lambda text: tuple(map(int, text.split("/"))))
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_intermixed_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = run(arguments.out, arguments.part, arguments.samples, arguments.names)
    sys.stdout.write(table(rows, but=(AGREES, BOTH_RAISE, NOTHING)))


if __name__ == "__main__":
    main()
