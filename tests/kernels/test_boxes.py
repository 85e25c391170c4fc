"""Boxes that are no run meet the reference bit for bit by every path, in memory of any strides, and write nothing else.

On the host the kernel is interpreted; on a CUDA device it is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tritonparam import Constant, Fill, Normal, Plan, TruncatedNormal, Uniform

pytest.importorskip("triton")

from tests.kernels.fills import FLOATS, KEY, LAWS, POISON, Guarded, check, run
from tritonparam.kernels import fill as kernel
from tritonparam.kernels.boxes import PATHS
from tritonparam.plan.backends import strided_rows as _strided_rows
from tritonparam.plan.backends.fill_table import build_fill_table

pytestmark = pytest.mark.kernels

F32, BF16, F64, F8 = torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2
HAS_CUDA = torch.cuda.is_available()


def paths_of(*fills: Fill) -> set[str]:
    """The paths of the table's rows, where they are not all runs."""
    strided = build_fill_table(list(fills)).strided
    return {path for path, number in PATHS.items() if strided >> number & 1}


def columns(width: int, first: int, size: int, rows: int = 6) -> tuple[tuple[int, ...], ...]:
    """Shape, offsets and sizes of columns of a matrix."""
    return (rows, width), (0, first), (rows, size)


Case = tuple[str, tuple[tuple[int, ...], ...], torch.dtype, int]
SHARDS: list[Case] = [
    ("pairs", columns(64, 16, 16), BF16, 0),
    ("pairs", columns(64, 4, 8), BF16, 0),
    ("pairs", columns(68, 16, 16), F8, 0),
    ("pairs", columns(64, 16, 16), F8, 8),
    ("pairs", columns(6000, 8, 5000, 3), BF16, 0),
    ("blocks", columns(64, 16, 16), BF16, 4),
    ("blocks", columns(64, 16, 16), BF16, 1),
    ("blocks", columns(64, 16, 12), BF16, 0),
    ("blocks", columns(64, 16, 16), F8, 4),
    ("blocks", columns(64, 16, 16), F8, 2),
    ("blocks", columns(64, 16, 16), F32, 0),
    ("blocks", columns(64, 60, 4), F32, 0),
    ("blocks", columns(64, 16, 16), F32, 1),
    ("blocks", columns(64, 16, 16), F64, 0),
    ("blocks", columns(64, 16, 16), F64, 1),
    ("blocks", columns(6000, 8, 5500, 3), F32, 0),
    ("blocks", ((4, 5, 8, 12), (1, 1, 2, 4), (3, 3, 5, 8)), F32, 0),
    ("parts", columns(64, 18, 16), F32, 0),
    ("parts", columns(64, 16, 18), F32, 0),
    ("parts", columns(63, 16, 16), F32, 0),
    ("parts", columns(63, 16, 1), F32, 0),
    ("parts", columns(2, 1, 1), BF16, 0),
    ("parts", columns(3001, 5, 2993, 4), BF16, 0),
    ("parts", ((4, 5, 8, 11), (1, 1, 2, 4), (3, 3, 5, 6)), F32, 0),
    # The numbers of the blocks have one high word, or two.
    ("blocks", ((4, 2**33), (2, 2**33 - 8), (2, 8)), F32, 0),
    ("parts", ((4, 2**33), (1, 2**33 - 8), (2, 8)), F32, 0),
    ("blocks", ((2**20, 2**33), (2**20 - 3, 2**32), (1, 8)), F32, 1),
]


@pytest.mark.parametrize(("path", "box", "dtype", "shift"), SHARDS)
def test_shards(path: str, box: tuple, dtype: torch.dtype, shift: int, device: torch.device) -> None:
    """Columns of a matrix and inner boxes, of every alignment in the global tensor and in memory."""
    shape, offsets, sizes = box
    places = [Guarded(sizes, dtype, device, shift) for _ in LAWS]
    fills = [Fill(place.tensor, law, KEY, shape, offsets) for place, law in zip(places, LAWS, strict=True)]
    for place, fill in zip(places, fills, strict=True):
        is_run = isinstance(fill.law, Constant) or fill.run_start is not None
        assert paths_of(fill) == (set() if is_run else {path})
        assert place.tensor.data_ptr() % 16 == shift * dtype.itemsize % 16
    run(fills)
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()


@pytest.mark.parametrize(
    ("dtype", "shift", "row", "size", "is_wide"),
    [
        *((F32, shift, 16, 16, shift % 4 == 0) for shift in (0, 1, 2, 4)),
        *((BF16, shift, 12, 12, shift % 4 == 0) for shift in (0, 1, 2, 4, 8)),
        *((F64, shift, 16, 16, shift % 2 == 0) for shift in (0, 1, 2)),
        *((F8, shift, 12, 12, shift % 4 == 0) for shift in (0, 1, 2, 4)),
        *((dtype, 0, row, 16, row % 4 == 0) for dtype in (F32, BF16, F64, F8) for row in (17, 18, 20)),
    ],
)
def test_stores_are_wide_where_all_are_aligned(dtype, shift, row, size, is_wide, device: torch.device) -> None:
    """A GPU stops at a wide store that is not: so this is told by the rows, of one geometry at two addresses too."""
    memory = torch.empty(shift + 8 * row, dtype=dtype, device=device)
    box = memory[shift:].view(8, row)[:, :size]
    aligned = torch.empty(8, row, dtype=dtype, device=device)[:, :size]
    fills = [Fill(out, Normal(), KEY, (8, 64), (0, 4)) for out in (aligned, box)]
    rows = _strided_rows.build_strided_rows(fills)
    path, before = int(rows.flags[1]) >> 17 & 7, rows.words[int(rows.places[1])]
    assert path == PATHS["blocks"]
    assert before == (0 if is_wide else 1)


@pytest.mark.parametrize(("shift", "row"), [(1, 16), (2, 16), (4, 16), (0, 20), (0, 17)])
def test_pairs_are_at_multiples_of_their_bytes(shift: int, row: int, device: torch.device) -> None:
    for dtype, nbytes in ((BF16, 16), (F8, 8)):
        memory = torch.empty(shift + 8 * row, dtype=dtype, device=device)
        box = memory[shift:].view(8, row)[:, :16]
        is_pairs = shift * dtype.itemsize % nbytes == 0 and row % 8 == 0
        assert paths_of(Fill(box, Normal(), KEY, (8, 64), (0, 8))) == {"pairs" if is_pairs else "blocks"}


VIEWS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "pairs in a wider matrix": ("pairs", lambda x: x[:, :16]),
    "blocks in a wider matrix": ("blocks", lambda x: x[:, 4:16]),
    "elements of a wider matrix": ("blocks", lambda x: x[:, 3:19]),
    "transposed": ("blocks", lambda x: x.t()),
    "every other column": ("blocks", lambda x: x[:, ::2]),
    "every other column of a part": ("parts", lambda x: x[:, :30:2]),
    "permuted": ("blocks", lambda x: x.view(24, 4, 12).permute(2, 0, 1)),
    "channels last": ("parts", lambda x: x.view(8, 3, 3, 16).permute(0, 3, 1, 2)),
    "channels last of two": ("parts", lambda x: x.view(64, 3, 3, 2).permute(0, 3, 1, 2)),
    "channels last of 6 by 8": ("blocks", lambda x: x.view(8, 6, 8, 3).permute(0, 3, 1, 2)),
    "channels last of 1 by 1": ("pairs", lambda x: x.view(24, 1, 1, 48)[..., :24].permute(0, 3, 1, 2)),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [BF16, F32, F64, F8], ids=str)
def test_views(view: str, dtype: torch.dtype, device: torch.device) -> None:
    """What lies between the elements stays as it was."""
    path, shown = VIEWS[view]
    if path == "pairs" and dtype.itemsize > 2:
        path = "blocks"
    for law in (Normal(), Constant(0.5)):
        place = Guarded((24, 48), dtype, device)
        fill = Fill(shown(place.tensor), law, KEY)
        if law == Normal():
            assert paths_of(fill) == {path}
        run([fill])
        check(fill)
        place.check_bands()
        untouched = torch.ones((24, 48), dtype=torch.bool, device=device)
        shown(untouched).fill_(False)
        rest = place.bytes[place.start : place.stop].view(24, 48, dtype.itemsize)[untouched]
        assert (rest == POISON).all()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """A shape, a box in it, the box's strides in memory, without overlap and in any order, and a shift."""
    ndim = draw(st.integers(1, 4))
    grid = draw(st.sampled_from([1, 1, 2, 4, 8]))  # of the innermost dimension
    sizes, offsets, shape = [], [], []
    for d in range(ndim):
        unit = grid if d == ndim - 1 else 1
        size, before, after = draw(st.integers(1, 6)), *draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        sizes.append(size * unit)
        offsets.append(before * unit)
        shape.append((before + size + after) * unit)
    far = draw(st.sampled_from([0, 0, 2**31, 2**34, 2**40]))
    if ndim > 1:
        shape[0] += far
        offsets[0] += draw(st.sampled_from([0, far]))
    strides = [0] * ndim
    stride = draw(st.sampled_from([1, 1, 1, 2, 3]))
    in_order = draw(st.booleans())
    for d in reversed(range(ndim)) if in_order else draw(st.permutations(range(ndim))):
        strides[d] = stride
        stride = stride * sizes[d] + draw(st.sampled_from([0, 0, 0, 1, 8]))
    return tuple(shape), tuple(offsets), tuple(sizes), tuple(strides), draw(st.sampled_from([0, 0, 1, 4]))


@settings(max_examples=150, deadline=None)
@given(boxes(), st.sampled_from(LAWS), st.sampled_from(FLOATS))
@example(((2, 3, 4), (0, 1, 0), (2, 2, 4), (8, 4, 1), 0), LAWS[0], F32)
def test_any_box_in_any_memory(box, law, dtype: torch.dtype) -> None:
    shape, offsets, sizes, strides, shift = box
    device = torch.device("cuda" if HAS_CUDA else "cpu")
    reach = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    place = Guarded((reach,), dtype, device, shift)
    fill = Fill(place.tensor.as_strided(sizes, strides), law, KEY, shape, offsets)
    run([fill])
    check(fill)
    place.check_bands()
    untouched = torch.ones(reach, dtype=torch.bool, device=device)
    untouched.as_strided(sizes, strides).fill_(False)
    assert (place.bytes[place.start : place.stop].view(reach, dtype.itemsize)[untouched] == POISON).all()


def test_all_paths_in_one_launch(device: torch.device) -> None:
    """With runs and constants among them, and rows of one geometry that differ by their keys and addresses only."""
    places = [Guarded((5, 16), dtype, device, shift) for dtype in (BF16, F32) for shift in (0, 1) for _ in range(3)]
    cases = [((5, 64), (0, 16)), ((5, 63), (0, 15)), ((5, 16), (0, 0))]
    fills = [Fill(place.tensor, LAWS[n % len(LAWS)], KEY, *cases[n % len(cases)]) for n, place in enumerate(places)]
    more = [Fill(torch.empty(6, 8, device=device, dtype=BF16), Normal(), key, (6, 32), (0, 8)) for key in range(4)]
    assert paths_of(*fills, *more) == set(PATHS)
    run(fills + more)
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()
    whole = [torch.empty(6, 32, dtype=BF16) for _ in range(4)]
    Plan([Fill(out, Normal(), key) for key, out in enumerate(whole)], "numpy").run()
    for part, out in zip(more, whole, strict=True):
        assert torch.equal(part.out.cpu().view(torch.int16), out[:, 8:16].view(torch.int16))


@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_many_programs(dtype: torch.dtype, device: torch.device) -> None:
    """Columns of so many rows that programs begin and end within rows, by each path; the last is not whole."""
    rows = 3 * kernel.CHUNK // 40 + 7
    boxes = [columns(200, 40, 40, rows), columns(201, 40, 40, rows), columns(200, 41, 37, rows)]
    fills = [Fill(torch.empty(box[2], dtype=dtype, device=device), Uniform(), KEY, *box[:2]) for box in boxes]
    fills.append(Fill(torch.empty(40, rows - rows % 4, dtype=dtype, device=device).t(), Uniform(), KEY))
    assert build_fill_table(fills).programs > 12
    run(fills)
    for fill in fills:
        check(fill)


@pytest.mark.skipif(not kernel.is_interpreted(), reason="a compiled kernel has its constants built in")
def test_block_size_changes_no_bit_of_a_box(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton.language as tl

    from tritonparam.plan.backends import fill_table as _fill_table

    for name, value in (("BLOCK", 128), ("TILE", 8 * 128), ("CHUNK", 16 * 128)):
        monkeypatch.setattr(kernel, f"_{name}", tl.constexpr(value))
    monkeypatch.setattr(_fill_table, "CHUNK", 16 * 128)
    boxes = [columns(200, 40, 40, 120), columns(201, 41, 37, 120)]
    for dtype in (BF16, F32):
        fills = [Fill(torch.empty(box[2], dtype=dtype, device=device), Normal(), KEY, *box[:2]) for box in boxes]
        assert build_fill_table(fills).programs == 6
        run(fills)
        for fill in fills:
            check(fill)


@pytest.mark.parametrize("law", [Normal(), Constant(2.0), TruncatedNormal()], ids=lambda law: law.kind)
@pytest.mark.parametrize(("elements", "span"), [(100, 2**31), (2**30, 200), (50, 120), (1, 1)])
def test_boxes_out_of_reach_are_cut(law, elements: int, span: int, device: torch.device, monkeypatch) -> None:
    """Into rows that write the same, each within reach of 32-bit arithmetic; runs are not cut."""
    monkeypatch.setattr(_strided_rows, "MAX_ELEMENTS", elements)
    monkeypatch.setattr(_strided_rows, "MAX_SPAN", span)
    place = Guarded((16, 48), F32, device)
    box = place.tensor[:, 8:40]
    fills = [Fill(box, law, KEY, (16, 64), (0, 4)), Fill(torch.empty(999, device=device), law, KEY)]
    table = build_fill_table(fills)
    assert table.rows > 2
    run(fills)
    for fill in fills:
        check(fill)
    place.check_bands()
    place.tensor[:, 8:40] = 0
    assert (place.tensor[:, :8].view(torch.uint8) == POISON).all()
    assert (place.tensor[:, 40:].view(torch.uint8) == POISON).all()


@pytest.mark.parametrize(("apart", "rows"), [(2**31 - 45, 1), (2**31 - 39, 2)])
def test_elements_two_to_the_31_apart(apart: int, rows: int, device: torch.device) -> None:
    """Memory of 2 GiB of which two rows are touched: the last element is within a row's reach, or just not."""
    memory = torch.empty(2**31 + 64, dtype=F8, device=device)
    box = memory.as_strided((2, 40), (apart, 1))
    fill = Fill(box, Normal(), KEY, (2, 80), (0, 40))
    assert build_fill_table([fill]).rows == rows
    run([fill])
    check(fill)


def test_constants_in_dense_memory_are_runs(device: torch.device) -> None:
    """Whatever the box and the order of the dimensions, a constant is stored side by side."""
    outs = [torch.empty(6, 8, device=device).t(), torch.empty(2, 8, 3, 3, device=device)]
    outs[1] = outs[1].contiguous(memory_format=torch.channels_last)
    fills = [Fill(out, Constant(0.5)) for out in outs]
    fills.append(Fill(torch.empty(4, 6, device=device), Constant(-0.0), 0, (4, 12), (0, 6)))
    assert build_fill_table(fills).strided == 0
    run(fills)
    for fill in fills:
        check(fill)
    assert math.copysign(1, fills[2].out[3, 5].item()) == -1
