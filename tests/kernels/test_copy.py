"""The copy kernel moves and casts bit for bit as the definition does, in one launch, and nothing else.

On the host it is interpreted; on a CUDA device it is compiled.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam import Box, Constant, Copy, Fill, Plan
from tritonparam.stream.reference.cast import FLOATS, INTEGERS

pytest.importorskip("triton")

from tests.kernels.copies import BAND, BF16, CHUNK, F32, LANES, TILE, UNITS, Place, check, random_tensor, run
from tritonparam.kernels import copy as kernel
from tritonparam.kernels.dtypes import DTYPES as CODES
from tritonparam.kernels.fill import is_interpreted
from tritonparam.plan.backends import copy_table as _copy_table
from tritonparam.plan.backends.copy_table import build_copy_table

pytestmark = [
    pytest.mark.kernels,
    # The interpreter's arithmetic is NumPy's, which warns of infinities where a GPU does not.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


@pytest.mark.parametrize("dtypes", [(F32, F32), (F32, BF16), (torch.int8, torch.int64)], ids=str)
def test_every_size(dtypes: tuple[torch.dtype, torch.dtype], device: torch.device) -> None:
    """Side by side and scattered, in one launch: none, one, around every power of two that the kernel knows, primes."""
    sizes = [0, 1, 7, LANES - 1, LANES, LANES + 1, 5 * UNITS + 1, 4099, TILE - 1, TILE, TILE + 1, 3 * CHUNK + 1]
    source = random_tensor(2 * max(sizes), dtypes[0], device)
    places = [Place((size,), dtypes[1], device) for size in sizes for _ in range(2)]
    steps = itertools.cycle((1, 2))
    copies = [Copy(place.tensor, source[:: next(steps)][: len(place.tensor)]) for place in places]
    run(*copies)
    for place, copy in zip(places, copies, strict=True):
        check(copy)
        if len(place.tensor):
            place.check_rest()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels in the order of their launches."""
    from tritonparam.plan.backends import triton as _triton

    names: list[str] = []

    class Counted:
        def __init__(self, name: str, original: Any) -> None:
            self.name, self.original = name, original

        def __getitem__(self, grid: Any) -> Any:
            names.append(self.name)
            return self.original[grid]

    monkeypatch.setattr(kernel, "_copy_kernel", Counted("copy", kernel._copy_kernel))
    from tritonparam.kernels import fill

    monkeypatch.setattr(fill, "_fill_kernel", Counted("fill", fill._fill_kernel))
    assert _triton.copy is kernel.copy
    return names


@pytest.mark.parametrize(
    ("rows", "warps"),
    [
        ([("run", True, "int32", "int32")], 8),
        ([("run", True, "float32", "bfloat16"), ("gather", False, "int8", "int8")], 8),
        ([("run", True, "float32", "float8_e4m3fn")], 8),
        ([("run", True, "bfloat16", "float8_e4m3fn")], 4),
        ([("run", False, "bfloat16", "float8_e4m3fn")], 8),
        ([("transpose", False, "int32", "int32")], 4),
        ([("run", True, "int32", "int32"), ("transpose", False, "int16", "int16")], 4),
    ],
)
def test_programs_have_the_warps_that_were_found_fastest(rows, warps, monkeypatch, launch_recorder) -> None:
    monkeypatch.setattr(kernel, "_copy_kernel", launch_recorder)
    codes = tuple(kernel.code_of(path, wide, CODES[source], CODES[out]) for path, wide, source, out in rows)
    kernel.copy(None, 1, 3, codes)
    assert launch_recorder.asked == [((3,), warps)]


def test_all_in_one_launch(device: torch.device, launches: list[str]) -> None:
    """Hundreds of boxes of mixed dtypes and paths, scalars and empty ones too: one launch, one more for fills."""
    seeded = random.Random(3)
    places, copies = [], []
    for n in range(300):
        source_dtype, out_dtype = (getattr(torch, seeded.choice(("float32", "bfloat16", "int32"))) for _ in range(2))
        sizes = seeded.choice([(), (5,), (3, 0), (64,), (20, 17), (3, 4, 5)])
        source = random_tensor(4 * math.prod(sizes), source_dtype, device, n).view(*sizes, 4)[..., n % 4]
        if n % 3 == 0 and len(sizes) == 2 and sizes[1]:
            source = source.clone().t().contiguous().t()
        place = Place(sizes, out_dtype, device, shift=n % 5)
        places.append(place)
        copies.append(Copy(place.tensor, source if n % 2 else source.contiguous()))
    filled = torch.empty(10, device=device)
    Plan([*copies, Fill(filled, Constant(2.0))], "triton").run()
    assert launches == ["fill", "copy"]
    assert (filled == 2).all()
    for place, copy in zip(places, copies, strict=True):
        check(copy)
        if copy.out.numel():
            place.check_rest()


def test_nothing_to_copy_is_no_launch(device: torch.device, launches: list[str]) -> None:
    run(Copy(torch.empty(0, 3, device=device), torch.empty(0, 3, device=device)))
    assert launches == []


def test_boxes(device: torch.device) -> None:
    """The same box out of many tensors into places of one: rows of one geometry differ by their addresses only."""
    sources = [random_tensor(35, F32, device, n).view(5, 7) for n in range(10)]
    place = Place((10, 6, 8), BF16, device)
    copies = [
        Copy(place.tensor[n], source, Box((n % 3, 1), (3, 4)), Box((2, n % 4), (3, 4)))
        for n, source in enumerate(sources)
    ]
    run(*copies)
    for copy in copies:
        check(copy)


@st.composite
def views(draw: st.DrawFn, sizes: tuple[int, ...], dtype: torch.dtype, is_out: bool) -> tuple[tuple[int, ...], int]:
    """Strides that do not overlap, in any order, with gaps; or, of a source, broadcast ones. And a shift."""
    strides = [0] * len(sizes)
    stride = draw(st.sampled_from([1, 1, 1, 2, 3]))
    for d in draw(st.permutations(range(len(sizes)))):
        strides[d] = stride
        stride *= sizes[d]
        stride += draw(st.sampled_from([0, 0, 1, 8, 16 - stride % 16]))
    if not is_out and sizes and draw(st.integers(0, 4)) == 0:
        strides[draw(st.integers(0, len(sizes) - 1))] = 0
    return tuple(strides), draw(st.sampled_from([0, 0, 1, 8]))


SIZES = st.one_of(
    st.lists(st.sampled_from([1, 2, 3, 5, 8, 16]), max_size=5).map(tuple),
    st.tuples(st.integers(1, 3), st.integers(16, 70), st.integers(16, 70)),
)
DTYPES = st.sampled_from([getattr(torch, each) for each in (*FLOATS, *INTEGERS)])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_view_into_any_view(data: st.DataObject) -> None:
    """Several copies of any shapes, strides, dtypes and addresses in one plan."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    places, copies = [], []
    for n in range(data.draw(st.integers(1, 3))):
        sizes, source_dtype = data.draw(SIZES), data.draw(DTYPES)
        out_dtype = data.draw(st.one_of(st.just(source_dtype), DTYPES))
        strides, shift = data.draw(views(sizes, source_dtype, False))
        span = shift + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        source = random_tensor(span, source_dtype, device, n).as_strided(sizes, strides, shift)
        strides, shift = data.draw(views(sizes, out_dtype, True))
        places.append(Place(sizes, out_dtype, device, strides, shift))
        copies.append(Copy(places[-1].tensor, source))
    run(*copies)
    for place, copy in zip(places, copies, strict=True):
        check(copy)
        place.check_rest()


def test_the_check_can_fail(device: torch.device) -> None:
    """One wrong bit is found and printed, and so is a byte written beside."""
    place = Place((10, 10), F32, device)
    copy = Copy(place.tensor, torch.arange(100.0, device=device).view(10, 10))
    run(copy)
    check(copy)
    place.tensor.view(torch.int32)[3, 7] ^= 1
    message = r"float32 -> float32: 1 of 100 differ, first at index \(3, 7\): input 42140000 got 42140001 want 42140000"
    with pytest.raises(pytest.fail.Exception, match=message):
        check(copy)
    place.memory[BAND - 1] = 0
    with pytest.raises(AssertionError, match="byte -1 from the tensor's start was written"):
        place.check_rest()


def test_a_plan_keeps_what_it_reads(device: torch.device) -> None:
    """Also where nobody else does, and the memory of a source might have been used again."""
    from tritonparam.plan.backends import triton as _triton

    source, out = torch.arange(100_000.0, device=device), torch.empty(100_000, device=device)
    plan = _triton.prepare([], [Copy(out, source)])
    del source
    junk = [torch.full((100_000,), -1.0, device=device) for _ in range(4)]
    plan.run()
    assert torch.equal(out, torch.arange(100_000.0, device=device))
    assert len(junk) == 4


@pytest.mark.skipif(not is_interpreted(), reason="a compiled kernel has its constants built in")
@pytest.mark.parametrize("block", [128, 1024])
def test_block_size_changes_no_bit(block: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton.language as tl

    for constant, value in (("TILE", 2 * block), ("CHUNK", 4 * block), ("LANES", block), ("UNITS", 2 * block)):
        monkeypatch.setattr(kernel, f"_{constant}", tl.constexpr(value))
        monkeypatch.setattr(_copy_table, constant, value, raising=False)
    source = random_tensor(9000, F32, device)
    copies = [
        Copy(torch.empty(4099, dtype=dtype, device=device), source[::step][:4099])
        for step in (1, 2)
        for dtype in (F32, torch.int16)
    ]
    run(*copies)
    for copy in copies:
        check(copy)


def test_split_rows_write_what_one_would(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_table, "MAX_PLACES", 50)
    source = random_tensor(64 * 66, F32, device).view(64, 66)
    for view in (source[:, ::2], source[:40].t(), source[:, :5], source[::3, ::5], source.flatten()[::3]):
        for dtype in (F32, BF16):
            place = Place(tuple(view.shape), dtype, device)
            copy = Copy(place.tensor, view)
            assert build_copy_table([copy]).rows > 1
            run(copy)
            check(copy)
            place.check_rest()


def test_strides_and_addresses_have_64_bits(device: torch.device) -> None:
    """Elements more than 2**32 bytes apart, of memory that a host gives only where it is touched."""
    memory = torch.from_numpy(np.zeros(2**33, np.int8)).to(device)
    source = memory.as_strided((2, 2, 2), (2**31 + 3, 2**32 + 64, 1))
    source.copy_(torch.arange(8).view(2, 2, 2))
    for dtype in (F32, BF16):
        copy = Copy(Place((2, 2, 2), dtype, device).tensor, source)
        run(copy)
        check(copy)
    back = Copy(memory.as_strided((2, 2, 2), (2**31 + 3, 2**32 + 64, 1), 8), copy.out)
    run(back)
    check(back)


@pytest.mark.gpu
def test_large_copies_on_a_gpu(device: torch.device) -> None:
    """More than 2**31 elements: side by side, scattered and transposed."""
    source = random_tensor(2**20, torch.uint8, device).repeat(2**11 + 4)
    out = torch.empty_like(source)
    run(Copy(out, source))
    assert torch.equal(out, source)
    for view in (source.view(-1, 2)[:, 1], source.view(2**20, -1).t()):
        out = torch.zeros(view.shape, dtype=torch.uint8, device=device)
        run(Copy(out, view))
        assert torch.equal(out, view)


@pytest.mark.gpu
def test_a_plan_of_copies_runs_on_another_stream_and_from_a_graph() -> None:
    source, out = torch.randn(100_000, device="cuda"), torch.empty(100_000, dtype=BF16, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(200_000_000)
        plan = Plan([Copy(out, source)])
    with torch.cuda.stream(second):
        plan.run()
    torch.cuda.synchronize()
    assert torch.equal(out, source.to(BF16))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.run()
    source.neg_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, source.to(BF16))
