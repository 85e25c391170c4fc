"""The compiled loops meet the definition bit for bit: every law, dtype, box, stride and number of threads.

Outputs lie between guard bands; a failure prints index and bits.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam import Constant, Copy, Fill, Law, Normal, Plan, TruncatedNormal, Uniform, deferred_init, materialize
from tritonparam.plan import RANDOM_DTYPES
from tritonparam.plan.backends import cpu as backend
from tritonparam.stream import constant, float32_bounds
from tritonparam.stream.lowering import lower_truncated_normal

SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
LAWS: list[Law] = [
    Normal(mean=0.1, std=0.02),
    Normal(mean=0.0, std=1e-42),
    Uniform(low=-0.07, high=0.07),
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
    TruncatedNormal(mean=0.0, std=1.0, low=-9.0, high=math.inf),
    Constant(-1.625),
    Constant(-0.0),
]
FLOATS = sorted(RANDOM_DTYPES, key=str)
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64]
KEY = 0x9E3779B97F4A7C15
POISON = 0x5A
BAND = 4096  # bytes
ROOT = Path(__file__).parents[3]
Make = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def guarded(nbytes: int) -> torch.Tensor:
    return torch.full((BAND + nbytes + BAND,), POISON, dtype=torch.uint8)


def check(law: Law, dtype: torch.dtype, count: int, view: Make, key: int = KEY, **box: tuple[int, ...]) -> None:
    """Both backends fill a view of `count` elements between guard bands, and all bytes are equal."""
    memory = {}
    for name in ("numpy", "cpu"):
        memory[name] = guarded(count * dtype.itemsize)
        inner = memory[name][BAND : BAND + count * dtype.itemsize].view(dtype)
        Plan([Fill(view(inner), law, key, **box)], backend=name).run()
    differ = (memory["cpu"] != memory["numpy"]).nonzero().flatten()
    if len(differ):
        at = (int(differ[0]) - BAND) // dtype.itemsize
        bits = [memory[n][BAND:-BAND].view(SIGNED[dtype.itemsize])[at].item() & 2**64 - 1 for n in ("cpu", "numpy")]
        pytest.fail(f"{law}, {dtype}: at element {at} of memory got {bits[0]:#x}, want {bits[1]:#x}")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_whole_tensors(law: Law, dtype: torch.dtype) -> None:
    for size in (0, 1, 3, 4, 5, 1023, 1024, 1025, 5003):
        check(law, dtype, size, lambda x: x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_boxes_and_strides(law: Law, dtype: torch.dtype) -> None:
    whole = {"shape": (100, 101), "offsets": (3, 7)}
    check(law, dtype, 37 * 53, lambda x: x.view(53, 37).t())
    check(law, dtype, 37 * 53, lambda x: x.view(37, 53), **whole)
    check(law, dtype, 37 * 53, lambda x: x.view(53, 37).t(), **whole)
    check(law, dtype, 97, lambda x: x.view(97, 1), **whole)  # no run longer than one
    check(law, dtype, 2 * 97 * 3, lambda x: x.view(97, 3, 2)[..., 1], **whole)
    check(law, dtype, 480 * 9, lambda x: x.view(20, 3, 3, 24).permute(0, 3, 1, 2))  # channels_last
    check(law, dtype, 3 * 5 * 7 * 11, lambda x: x.view(3, 5, 7, 11), shape=(6, 10, 14, 22), offsets=(3, 5, 6, 10))
    check(law, dtype, 1, lambda x: x.view(()))
    check(law, dtype, 2000, lambda x: x, shape=(2**62,), offsets=(2**61 + 3,))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_constants_of_every_dtype(dtype: torch.dtype) -> None:
    for value in (0, 1, True):
        check(Constant(value), dtype, 5000, lambda x: x)
        check(Constant(value), dtype, 37 * 53, lambda x: x.view(37, 53)[::2, ::3])
    if dtype in FLOATS:
        check(Constant(math.inf), dtype, 100, lambda x: x)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """shape, offsets, sizes, and the order of the dimensions in memory."""
    rank = draw(st.integers(1, 5))
    sizes = tuple(draw(st.integers(1, 12)) for _ in range(rank))
    before = tuple(draw(st.integers(0, 9)) for _ in range(rank))
    after = tuple(draw(st.sampled_from((0, 0, 1, 5, 1000))) for _ in range(rank))
    shape = tuple(map(sum, zip(before, sizes, after, strict=True)))
    return shape, before, sizes, tuple(draw(st.permutations(range(rank))))


@settings(max_examples=300, deadline=None)
@given(
    law=st.sampled_from(LAWS),
    dtype=st.sampled_from(FLOATS),
    box=boxes(),
    step=st.integers(1, 3),
    key=st.integers(0, 2**64 - 1),
    threads=st.integers(1, 5),
    piece=st.sampled_from((4, 64, 1000, 2**19)),
)
def test_any_box_in_any_memory(
    law: Law, dtype: torch.dtype, box: tuple[tuple[int, ...], ...], step: int, key: int, threads: int, piece: int
) -> None:
    """The values depend on (law, key, index) and not on the box, its strides, the threads or their pieces."""
    shape, offsets, sizes, order = box

    def view(memory: torch.Tensor) -> torch.Tensor:
        in_order = [sizes[d] for d in order]
        spread = memory[::step].view(in_order)
        return spread.permute([order.index(d) for d in range(len(order))])

    before, pieces = torch.get_num_threads(), (backend._PIECE, backend._SMALL_PIECE)
    torch.set_num_threads(threads)
    backend._PIECE, backend._SMALL_PIECE = piece, min(piece, 4)
    try:
        check(law, dtype, math.prod(sizes) * step, view, key, shape=shape, offsets=offsets)
    finally:
        backend._PIECE, backend._SMALL_PIECE = pieces
        torch.set_num_threads(before)


def test_many_tensors_of_one_plan_in_pieces(two_threads: None) -> None:
    """Pieces begin and end anywhere: within a tensor, between tensors, over many small ones."""
    sizes = [0, 1, 5, 300_000, 0, 7, 40_000, 3, 2, 1, 90_001]
    results = []
    for name in ("numpy", "cpu"):
        outs = [torch.full((size,), 7.0) for size in sizes]
        Plan([Fill(out, LAWS[n % len(LAWS)], n) for n, out in enumerate(outs)], backend=name).run()
        results.append(outs)
    for want, got in zip(*results, strict=True):
        assert torch.equal(want.view(torch.int32), got.view(torch.int32))


def filled(seed: int, size: int = 300_000) -> torch.Tensor:
    out = torch.empty(size)
    Plan([Fill(out, Normal(), seed)], backend="cpu").run()
    return out


def test_many_callers_at_once(two_threads: None) -> None:
    want = {seed: filled(seed) for seed in range(8)}
    got: dict[int, list[bool]] = {seed: [] for seed in want}

    def call(seed: int) -> None:
        for _ in range(5):
            got[seed].append(torch.equal(filled(seed), want[seed]))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in want]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert got == {seed: [True] * 5 for seed in want}


def _equals(want: bytes, queue: multiprocessing.Queue[bool]) -> None:
    # Not by torch, whose own threads a fork loses.
    queue.put(filled(3).numpy().tobytes() == want)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(method: str, two_threads: None) -> None:
    """Also those that fork from one whose threads have worked, and in which none of them is left."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    want = filled(3).numpy().tobytes()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which is the point
        process = context.Process(target=_equals, args=(want, queue))
        process.start()
    assert queue.get(timeout=120)
    process.join(300)
    assert process.exitcode == 0


def test_autograd_learns_of_the_write() -> None:
    x = torch.ones(3, requires_grad=True)
    version = x._version
    Plan([Fill(x, Normal(), 1)], backend="cpu").run()
    assert x._version == version + 1
    with torch.inference_mode():
        y = torch.empty(3)
        Plan([Fill(y, Normal(), 1)], backend="cpu").run()
    assert torch.equal(x.detach(), y)


@pytest.mark.parametrize("name", ["numpy", "cpu"])
def test_flushing_of_subnormal_numbers_changes_no_value(name: str) -> None:
    """What torch.set_flush_denormal says is for the user's arithmetic, and stays said."""

    def made(seed: int, unit: float) -> list[torch.Tensor]:
        """Of laws that nobody had before, so that nothing is remembered of them."""
        laws = [
            Normal(mean=0.0, std=3 * unit),
            Uniform(low=-5 * unit, high=9 * unit),
            TruncatedNormal(mean=0.0, std=2 * unit, low=-unit, high=unit),
            Constant(7 * unit),
        ]
        outs = [torch.zeros(5000) for _ in laws]
        Plan([Fill(out, law, seed) for out, law in zip(outs, laws, strict=True)], backend=name).run()
        return outs

    unit = 1e-41 if name == "cpu" else 1.1e-41
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot")
    try:
        flushed = made(1, unit)
        assert torch.tensor([2.0**-126]).div(2).item() == 0
    finally:
        torch.set_flush_denormal(False)
    for cached in (constant._tensor, float32_bounds, lower_truncated_normal):
        cached.cache_clear()
    for got, want in zip(flushed, made(1, unit), strict=True):
        assert 0 < want.abs().max() < 2.0**-126
        assert torch.equal(got.view(torch.int32), want.view(torch.int32))


def test_a_deferred_tensor_has_the_write_noted() -> None:
    want = torch.empty(2, 3)
    Plan([Fill(want, Normal(), 5)], backend="cpu").run()

    class Filled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(2, 3))
            Plan([Fill(self.weight.detach(), Normal(), 5)], backend="cpu").run()

    with deferred_init():
        model = Filled()
    materialize(model, seed=0)
    assert torch.equal(model.weight.detach(), want)


RESIZES = {
    "shared": lambda x: x.share_memory_(),
    "larger": lambda x: x.resize_(90_000),
    "freed": lambda x: x.untyped_storage().resize_(0),
}


@pytest.mark.parametrize("how", RESIZES)
def test_memory_that_is_no_longer_there_is_not_written(how: str) -> None:
    """Neither since the plan was built nor since the Fill was."""
    x, law = torch.zeros(50_000), Normal()
    plan = Plan([Fill(x, law, 1)], backend="cpu")
    RESIZES[how](x)
    with pytest.raises(RuntimeError, match="was resized, moved or freed since its plan was built: build the plan anew"):
        plan.run()
    y = torch.zeros(50_000)
    fill = Fill(y, law, 1)
    y.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="out must have its memory"):
        Plan([fill], backend="cpu")


def test_flushing_changes_no_copy_either() -> None:
    tiny = torch.tensor([1e-40, -3e-41, 1e-310], dtype=torch.float64)
    want = {name: torch.empty(3, dtype=dtype) for name, dtype in (("a", torch.float32), ("b", torch.bfloat16))}
    got = {name: torch.empty_like(out) for name, out in want.items()}
    Plan([Copy(out, tiny) for out in want.values()], backend="cpu").run()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot")
    try:
        Plan([Copy(out, tiny) for out in got.values()], backend="cpu").run()
    finally:
        torch.set_flush_denormal(False)
    assert want["a"].count_nonzero() == 2
    for name, out in want.items():
        assert torch.equal(out.view(torch.int16), got[name].view(torch.int16))


ALONE = """
import logging, sys, torch
from tritonparam import Copy, Fill, Normal, Plan
logging.basicConfig(format="%(message)s")
out = torch.empty(5)
Plan([Copy(out, torch.ones(5))]).run()
assert sys.modules.get("numba") is None
Plan([Fill(out, Normal(), 7)]).run()
print(out.tolist())
"""


@pytest.mark.parametrize("how", ["broken", "forbidden", "disabled"])
def test_where_numba_cannot_compile_the_definition_writes(how: str, tmp_path: Path) -> None:
    """And one line says so; a plan of copies asks for no compiler."""
    want = torch.empty(5)
    Plan([Fill(want, Normal(), 7)], backend="numpy").run()
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code, said = ALONE, "NumPy makes the values, which is slow: Numba cannot compile (ImportError: of another release)"
    if how == "broken":
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('of another release')\n")
    elif how == "disabled":
        environment["NUMBA_DISABLE_JIT"] = "1"
        said = "NumPy makes the values, which is slow: Numba cannot compile (AttributeError: "
    else:
        said = ""
        code = "import sys\nsys.modules['numba'] = None\n" + ALONE
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{want.tolist()}\n"
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)


def test_writes_to_the_cpu_only() -> None:
    with pytest.raises(ValueError, match="backend 'cpu' writes to the cpu only, got device 'cuda:0'"):
        backend.check_device(torch.device("cuda:0"))
