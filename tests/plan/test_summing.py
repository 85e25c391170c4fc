"""Sums: the backends agree bit for bit, of tensors of any dtype, strides and box; what cannot be read is refused."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CAN_RUN_KERNELS, HAS_CUDA
from tritonparam import deferred_init
from tritonparam.plan import Sum, sums
from tritonparam.plan.backends import cpu, is_installed

DTYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.bool, torch.uint8, torch.int16, torch.int64, torch.uint64, torch.complex64, torch.complex128),
]
OTHERS = [*(["cpu"] if is_installed("numba") else []), *(["triton"] if CAN_RUN_KERNELS else [])]
DEVICE = {"cpu": "cpu", "triton": "cuda" if HAS_CUDA else "cpu"}


def content(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Any bits, NaNs among them."""
    raw = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, math.prod(shape) * dtype.itemsize, np.uint8))
    return (
        (raw & 1 if dtype == torch.bool else raw).view(dtype).view(shape)
        if raw.numel()
        else torch.empty(shape, dtype=dtype)
    )


def moved(each: Sum, device: str) -> Sum:
    """The same of the same strides and alignment, on a device."""
    if device == "cpu":
        return each
    source = each.source
    storage = source.untyped_storage()
    there = torch.empty(0, dtype=source.dtype, device=device)
    bits = torch.empty(0, dtype=torch.uint8).set_(storage).to(device).untyped_storage()
    there.set_(bits, source.storage_offset(), source.shape, source.stride())
    return Sum(there, each.key, each.shape, each.offsets)


def assert_all_agree(operations: list[Sum]) -> np.ndarray:
    want = sums(operations, "numpy")
    for backend in OTHERS:
        got = sums([moved(each, DEVICE[backend]) for each in operations], backend)
        wrong = [
            f"{backend}: {each}: got {g}, want {w}"
            for each, g, w in zip(operations, got.tolist(), want.tolist(), strict=True)
            if g != w
        ]
        assert not wrong, "\n".join(wrong)
    return want


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backends_agree_on_every_dtype_and_size(dtype: torch.dtype) -> None:
    """Around words, units, blocks and chunks, at every place in a word, in runs, columns and transposes."""
    operations = [Sum(content((size,), dtype), 5) for size in (0, 1, 2, 3, 1023, 1024, 1025, 4099)]
    operations += [Sum(content((size + 9,), dtype)[k : k + size], 6) for size in (3, 300) for k in range(1, 6)]
    operations += [Sum(content((size,), dtype), 7, (2**50,), (2**49 + k,)) for size in (1, 65, 1025) for k in range(4)]
    x = content((24, 40), dtype)
    operations += [
        Sum(x.T, 8),
        Sum(x[3:20:5, 1::3], 8),
        Sum(x[:, 16:32].clone(), 8, (24, 640), (0, 64)),
        Sum(x[2, 3], 8),
    ]
    operations += [Sum(x.expand(3, 24, 40), 9), Sum(x[::2, 8:16], 9, (2**25, 2**25), (2**24 + 1, 16)), Sum(x[5:5], 9)]
    assert_all_agree(operations)


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 12), min_size=0, max_size=4),
    data=st.data(),
)
def test_backends_agree_on_any_view_and_box(dtype: torch.dtype, shape: list[int], data: st.DataObject) -> None:
    """Permuted, sliced with steps, at any offset, in a whole of any larger shape."""
    x = content(tuple(shape), dtype)
    x = x.permute(data.draw(st.permutations(range(len(shape)))))
    for d, size in enumerate(x.shape):
        start, step = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, 3))
        x = x[(slice(None),) * d + (slice(start, None, step),)]
    offsets = [data.draw(st.sampled_from([0, 1, 4, 2**9])) for _ in x.shape]
    extents = [o + n + data.draw(st.sampled_from([0, 3, 16])) for o, n in zip(offsets, x.shape, strict=True)]
    assert_all_agree([Sum(x, data.draw(st.integers(0, 2**64 - 1)), extents, offsets)])


def test_boxes_add_up_on_every_backend() -> None:
    """Shards by rows and by columns, uneven ones, and empty ones."""
    whole = content((33, 50), torch.bfloat16)
    for backend in ["numpy", *OTHERS]:
        (want,) = sums([moved(Sum(whole, 3), DEVICE.get(backend, "cpu"))], backend)
        for dim in (0, 1):
            parts, start, operations = torch.chunk(whole, 7, dim), 0, []
            for part in (*parts, whole.narrow(dim, 0, 0)):
                offsets = tuple(start * (d == dim) for d in (0, 1)) if part.numel() else (0, 0)
                operations.append(moved(Sum(part.clone(), 3, (33, 50), offsets), DEVICE.get(backend, "cpu")))
                start += part.shape[dim]
            assert (sums(operations, backend).sum(0) == want).all()


def test_large_tensors_are_shared_by_threads_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(cpu, "_PIECE", 2**12)
    monkeypatch.setattr(cpu, "_SMALL_PIECE", 2**10)
    x = content((300, 211), torch.float32)
    operations = [Sum(x, 1), Sum(content((3,), torch.int8), 2), Sum(x.T, 3), Sum(x[:, 5:9], 4), Sum(x[:0], 5)]
    want = sums(operations, "numpy")
    seen: set[int] = set()
    table = cpu._sum_table(operations[:1])
    monkeypatch.setattr(type(table), "add", _counted(type(table).add, seen))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for _ in range(5):
            assert (sums(operations, "cpu") == want).all()
    finally:
        torch.set_num_threads(before)
    assert len(seen) > 0


def _counted(add: object, seen: set[int]) -> object:
    def counted(table: object, start: int, stop: int) -> object:
        seen.add(threading.get_ident())
        return add(table, start, stop)  # type: ignore[operator]

    return counted


def test_a_compiler_that_fails_leaves_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from tritonparam.stream.loops import CompilerError

    def fails(_: object) -> None:
        raise CompilerError("no")

    x = content((100,), torch.int32)
    want = sums([Sum(x, 1)], "numpy")
    monkeypatch.setattr(cpu, "_sum_table", fails)
    assert (sums([Sum(x, 1)], "cpu") == want).all()


def test_nothing_is_nothing() -> None:
    assert sums([]).shape == (0, 2)
    for backend in ["numpy", *OTHERS]:
        empty = torch.empty(0, 3, device=DEVICE.get(backend, "cpu"))
        assert sums([Sum(empty, 1)], backend).tolist() == [[0, 0]]


def test_signs_of_zeros_and_payloads_of_nans_are_different_bits() -> None:
    bits = [0x7FC00000, 0x7FC00001, 0xFFC00000, 0x00000000, 0x80000000]
    found = [
        tuple(sums([Sum(torch.tensor([each]).to(torch.uint32).view(torch.float32), 1)])[0].tolist()) for each in bits
    ]
    assert len({*found}) == len(bits)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: Sum([1], 1), TypeError, "source must be a torch.Tensor, got list"),
        (lambda: Sum(torch.zeros(3), -1), ValueError, r"key must be an int in \[0, 2\*\*64\), got -1"),
        (lambda: Sum(torch.zeros(3), True), ValueError, "key must be an int"),
        (lambda: Sum(torch.zeros(3, device="meta"), 1), ValueError, "source must be a strided tensor with storage"),
        (lambda: Sum(torch.zeros(3), 1, (4,), (2,)), ValueError, "the box must lie in the tensor"),
        (lambda: Sum(torch.zeros(3), 1, (4, 4)), ValueError, "shape, offsets and source must have the same rank"),
        (lambda: Sum(torch.zeros(1), 1, (2**62,)), ValueError, r"shape must come to at most 2\*\*63 bytes"),
        (lambda: Sum(torch.zeros(3, dtype=torch.complex64).conj(), 1), ValueError, "resolve_conj"),
        (lambda: sums([torch.zeros(3)]), TypeError, "operations must hold Sum objects, got Tensor"),
        (lambda: sums(3), TypeError, "operations must be an iterable of Sums"),
        (lambda: sums([Sum(torch.zeros(3), 1)], "gpu"), ValueError, "backend must be one of"),
    ],
)
def test_what_is_wrong_is_refused(act: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        act()  # type: ignore[operator]


def test_deferred_tensors_are_refused() -> None:
    with deferred_init():
        x = torch.zeros(3)
        with pytest.raises(ValueError, match="source must have values, got a deferred tensor: materialize it first"):
            Sum(x, 1)
