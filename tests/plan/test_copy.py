"""A Copy writes what torch's `copy_` writes, and nothing beside it; what it refuses, it refuses before writing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from tritonparam import Box, Constant, Copy, Fill, Plan, Tensor, deferred_init
from tritonparam.plan.arrays import view_of_array
from tritonparam.plan.backends import host_copy as _host_copy
from tritonparam.plan.copy import CAST_DTYPES
from tritonparam.plan.memory import overlap
from tritonparam.stream.reference.cast import CAST_DTYPES as NAMES
from tritonparam.stream.reference.cast import INTEGERS

DTYPES = sorted(CAST_DTYPES, key=str)


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(-1).view(torch.uint8)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Small whole numbers: every dtype but the bool has them, and so every cast is exact."""
    values = np.random.default_rng(seed).integers(0, 2 if dtype == torch.bool else 9, shape)
    return torch.from_numpy(np.asarray(values)).to(dtype)


def test_the_dtypes_are_those_of_the_definition() -> None:
    assert {str(dtype).removeprefix("torch.") for dtype in CAST_DTYPES} == set(NAMES)


@pytest.mark.parametrize("source", DTYPES)
def test_casts_are_those_of_torch(source: torch.dtype) -> None:
    values = random_tensor((3, 5), source)
    outs = [torch.empty(3, 5, dtype=dtype) for dtype in DTYPES]
    Plan([Copy(out, values) for out in outs], "numpy").run()
    for out in outs:
        assert torch.equal(bits(out), bits(values.to(out.dtype))), out.dtype


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64, torch.complex128, torch.float8_e4m3fnuz])
def test_within_a_dtype_every_bit_moves(dtype: torch.dtype) -> None:
    """NaNs of every payload and bytes that are no bools among them, from strided memory into strided memory."""
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (16, 2 * dtype.itemsize), np.uint8))
    source, out = raw.view(dtype)[:, :1], torch.zeros(16, 3, dtype=dtype)[:, 1:2]
    Plan([Copy(out, source)], "numpy").run()
    assert torch.equal(bits(out), bits(source))


@pytest.mark.parametrize("out", [torch.uint8, torch.int32, torch.int64, torch.uint64, torch.float8_e4m3fn])
def test_what_machines_disagree_on_is_as_defined(out: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the range of the dtype, also in the midst of what is in range, and for NaN in integers."""
    _defined = _host_copy._defined
    monkeypatch.setattr(_host_copy, "_TORCH_SATURATES", False)
    values = torch.arange(300_000, dtype=torch.float64)
    values[70_000:70_004] = torch.tensor([1e30, -1e30, 4e9, 1000.0])
    if not out.is_floating_point:
        values[70_004] = math.nan
    got = torch.empty(300_000, dtype=out)
    want, defined = _host_copy._defined(values, out), []
    monkeypatch.setattr(_host_copy, "_defined", lambda *each: defined.append(1) or _defined(*each))
    Plan([Copy(got, values)], "numpy").run()
    assert len(defined) == (5 if out.itemsize < 4 else 1)  # of five chunks
    wrong = (bits(got) != bits(want)).nonzero()
    assert not len(wrong), f"byte {int(wrong[0])}: {bits(got)[wrong[0]]} instead of {bits(want)[wrong[0]]}"
    inside = torch.arange(0, 100, dtype=torch.float64)
    assert torch.equal(got[:100].double(), inside.to(out).double())


@st.composite
def views(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """An order of the dimensions in memory, room around and steps, from which `view_of` makes a view of `shape`."""
    order = tuple(draw(st.permutations(range(len(shape)))))
    room = tuple(draw(st.integers(0, 2)) for _ in shape)
    steps = tuple(draw(st.integers(1, 2)) for _ in shape)
    return order, room, steps, draw(st.integers(0, 3))


def view_of(seed: int, shape: tuple[int, ...], dtype: torch.dtype, how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A view of `shape` and the memory that it is a view of."""
    order, room, steps, start = how
    extents = [shape[d] * steps[d] + room[d] for d in order]
    memory = random_tensor((start + math.prod(extents) + 1,), dtype, seed)
    whole = memory[start:-1].view(extents).permute([order.index(d) for d in range(len(shape))])
    slices = tuple(slice(room[d], room[d] + shape[d] * steps[d], steps[d]) for d in range(len(shape)))
    return whole[slices], memory


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    data=st.data(),
)
def test_any_view_into_any_view(shape: tuple[int, ...], dtypes: Any, data: st.DataObject) -> None:
    """And what lies around the elements of `out` keeps its bits."""
    source, _ = view_of(1, shape, dtypes[0], data.draw(views(shape)))
    out, memory = view_of(2, shape, dtypes[1], data.draw(views(shape)))
    want_memory = memory.clone()
    want = torch.as_strided(want_memory, out.shape, out.stride(), out.storage_offset())
    want.copy_(source)
    Plan([Copy(out, source)], "numpy").run()
    assert torch.equal(bits(memory), bits(want_memory))


def test_boxes_of_both_sides() -> None:
    source, out = torch.arange(20.0).view(4, 5), torch.full((3, 3), -1.0)
    Plan([Copy(out, source, Box((1, 0), (2, 2)), Box((2, 3), (2, 2)))], "numpy").run()
    assert out.tolist() == [[-1, -1, -1], [13, 14, -1], [18, 19, -1]]


def test_broadcast_and_negative_strides() -> None:
    row, array = torch.tensor([1, 2, 3]), np.arange(12, dtype=np.int16).reshape(3, 4)[::-1, ::-2]
    outs = [torch.empty(4, 3), torch.empty(3, 2), torch.empty(2, 1)]
    Plan(
        [
            Copy(outs[0], row.expand(4, 3)),
            Copy(outs[1], array),
            Copy(outs[2], array, source_box=Box((1, 1), (2, 1))),
        ],
        "numpy",
    ).run()
    assert torch.equal(outs[0], row.expand(4, 3).float())
    assert torch.equal(outs[1], torch.from_numpy(array.astype(np.float32)))
    assert torch.equal(outs[2], torch.from_numpy(array[1:, 1:].astype(np.float32)))


def test_backwards_in_more_than_a_chunk() -> None:
    array = np.arange(2 * _host_copy.CHUNK + 3, dtype=np.int32)[::-1]
    out = torch.empty(array.shape, dtype=torch.int64)
    Plan([Copy(out, array)], "numpy").run()
    assert np.array_equal(out.numpy(), array)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", *INTEGERS])
def test_every_dtype_backwards(dtype: str) -> None:
    array = np.arange(6).astype(dtype)[::-1]
    out, widened = torch.empty(6, dtype=getattr(torch, dtype)), torch.empty(6)
    Plan([Copy(out, array), Copy(widened, array)], "numpy").run()
    assert np.array_equal(out.numpy(), array)
    assert np.array_equal(widened.numpy(), array.astype(np.float32))


@pytest.mark.parametrize("read_only", [False, True])
def test_arrays_of_no_dimension_are_read_where_they_are(read_only: bool) -> None:
    array = np.array(3.0)
    array.flags.writeable = not read_only
    shown, backwards = view_of_array(array)
    assert (shown.data_ptr(), shown.shape, backwards) == (array.ctypes.data, (), ())
    plan = Plan([Copy(out := torch.empty(()), array)], "numpy")
    array.flags.writeable = True
    array[()] = 4.0
    plan.run()
    assert out.item() == 4.0


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4, dtype=">i4"),
        np.frombuffer(bytes(range(8)), np.uint16),
        np.lib.stride_tricks.as_strided(np.arange(9, dtype=np.uint8).view(np.uint8), (2, 4), (1, 1)),
        np.ndarray((3,), np.int16, bytes(range(11)), 1, (3,)),
    ],
    ids=["big-endian", "read-only", "overlapping", "odd-strides"],
)
def test_arrays_that_torch_refuses_or_warns_of(array: np.ndarray) -> None:
    out = torch.empty(array.shape, dtype=torch.float32)
    Plan([Copy(out, array)], "numpy").run()
    assert np.array_equal(out.numpy(), array.astype(np.float32))


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_arrays_of_ml_dtypes(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(6).astype(getattr(ml_dtypes, name)).reshape(2, 3)[:, ::-1]
    out = torch.empty(2, 3)
    Plan([Copy(out, array)], "numpy").run()
    assert out.tolist() == [[2, 1, 0], [5, 4, 3]]


def test_fills_and_copies_in_one_plan_and_again() -> None:
    source, copied, filled = torch.ones(3), torch.empty(3, dtype=torch.int32), torch.empty(2)
    plan = Plan([Copy(copied, source), Fill(filled, Constant(2.0)), Copy(torch.empty(0), torch.empty(0))], "numpy")
    plan.run()
    source += 4
    plan.run()
    assert (copied.tolist(), filled.tolist()) == ([5, 5, 5], [2, 2])


def test_autograd_is_left_alone() -> None:
    weight, source = torch.nn.Parameter(torch.zeros(3)), torch.ones(3, requires_grad=True)
    Plan([Copy(weight, source)], "numpy").run()
    assert weight.tolist() == [1, 1, 1]
    assert weight.is_leaf
    assert weight.grad_fn is None


@pytest.mark.parametrize("index", [slice(None), slice(None, None, 2), 0, slice(None, None, -1)], ids=str)
def test_bytes_of_bools_move_as_they_are(index: Any) -> None:
    source = np.array([2, 255, 0, 1, 128], np.uint8)
    out = torch.zeros(source[index].shape, dtype=torch.bool)
    Plan([Copy(out, source.view(np.bool_)[index, ...])], "numpy").run()
    assert np.array_equal(out.view(torch.uint8).numpy(), source[index])


def test_dimensions_that_lead_nowhere_do_not_hide_an_overlap() -> None:
    """NumPy, which is asked, can count neither so many elements nor so long a stride."""
    x = torch.zeros(6)
    long = x.as_strided((3, 1), (2, 2**62))
    assert overlap(long, x[::2])
    assert not overlap(long, x[1::2])
    huge = x[1:2].expand(2**61, 2)
    assert overlap(huge, x[1::2])
    assert not overlap(huge, x[::2])


def test_overlap_of_deferred_tensors_which_begin_at_address_0() -> None:
    with deferred_init():
        x = torch.arange(8.0)
        assert not overlap(x[::2], x[1::2])
        assert overlap(x[:6:2], x[::3])


def test_interleaved_boxes_do_not_overlap() -> None:
    """The spans of two column slices meet, their elements do not."""
    x = torch.arange(12.0).view(3, 4)
    Plan([Copy(x[:, :2], x[:, 2:]), Copy(torch.empty(0, 4), x[:0])], "numpy").run()
    assert x.tolist() == [[2, 3, 2, 3], [6, 7, 6, 7], [10, 11, 10, 11]]


def test_what_is_too_hard_to_tell_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.zeros(400)
    one = torch.as_strided(base, (3, 3, 3), (14, 16, 13), 14)
    other = torch.as_strided(base, (2, 3, 2), (19, 2, 13), 2)
    assert not overlap(one, other)
    monkeypatch.setattr("tritonparam.plan.memory._MAX_WORK", 1)
    assert overlap(one, other)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_overlap_is_found_exactly(data: st.DataObject) -> None:
    base = torch.zeros(64, dtype=torch.int16)

    def view() -> torch.Tensor:
        sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        strides = [data.draw(st.integers(0, 5)) for _ in sizes]
        return torch.as_strided(base, sizes, strides, data.draw(st.integers(0, 10)))

    one, other = view(), view()
    places = [set((x.data_ptr() + 2 * offsets(x)).tolist()) for x in (one, other)]
    assert overlap(one, other) == bool(places[0] & places[1])


def offsets(x: torch.Tensor) -> np.ndarray:
    """Of every element from the first one."""
    return sum(
        (
            np.arange(size).reshape([-1 if d == axis else 1 for d in range(x.ndim)]) * stride
            for axis, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True))
        ),
        np.zeros((1,) * x.ndim, np.int64),
    ).ravel()


X = torch.zeros(4, 4)
REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no tensor": (([1.0], X), TypeError, "out must be a torch.Tensor, got list"),
    "no torch tensor": ((X, Tensor([1.0])), TypeError, r"source must be a torch.Tensor, got Tensor; its .torch is one"),
    "no source": ((X, 1.0), TypeError, "source must be a torch.Tensor, got float"),
    "meta": ((X, torch.zeros(4, 4, device="meta")), ValueError, "source must be a strided tensor with storage"),
    "sparse": ((X, torch.zeros(4, 4).to_sparse()), ValueError, "source must be a strided tensor"),
    "conjugate": ((torch.zeros(1, dtype=torch.cfloat), torch.zeros(1, dtype=torch.cfloat).conj()), ValueError, "conj"),
    "shape": ((X, torch.zeros(4)), ValueError, r"source must have the shape of out, \(4, 4\), got \(4,\)"),
    "no cast": ((X, torch.zeros(4, 4, dtype=torch.cfloat)), TypeError, "can be cast to torch.float32, got .*complex64"),
    "overlap": ((X[1:], X[:-1]), ValueError, "source must not overlap out"),
    "itself": ((X, X), ValueError, "source must not overlap out"),
    "broadcast out": ((torch.zeros(1).expand(4), torch.zeros(4)), ValueError, "out must not overlap itself"),
    "box outside": ((X, X.clone(), Box((3, 0), (2, 4))), ValueError, r"out_box must lie in .*\(4, 4\), got Box"),
    "box before": ((X, X.clone(), None, Box((-1, 0), (2, 4))), ValueError, "source_box must lie in"),
    "box of another rank": ((X, X.clone(), Box((0,), (2,))), ValueError, "out_box must lie in"),
    "no box": ((X, X.clone(), (0, 0)), TypeError, r"out_box must be a Box, got \(0, 0\)"),
    "boxes of two sizes": ((X, X.clone(), Box((0, 0), (1, 4)), Box((0, 0), (4, 1))), ValueError, "shape of out"),
    "fake": ((X, FakeTensorMode().from_tensor(torch.zeros(4, 4))), ValueError, "source .* memory .*, got FakeTensor"),
    "fake out": ((FakeTensorMode().from_tensor(torch.zeros(4, 4)), X), ValueError, "out .* memory .*, got FakeTensor"),
    "array of objects": ((X, np.array([None])), TypeError, "dtype"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Copy(*arguments)
    assert not X.any()


def test_the_repr_says_what_is_copied() -> None:
    text = repr(Copy(torch.empty(2, 3, dtype=torch.bfloat16), torch.empty(2, 3)))
    assert text == "Copy(out=(2, 3) torch.bfloat16, source=torch.float32)"
