"""A plan writes each box's values, whatever its company, order or split; what it refuses, it refuses before writing."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam import Constant, Copy, Fill, Law, Normal, Plan, TruncatedNormal, Uniform
from tritonparam.plan import CopyColumns, FillColumns
from tritonparam.plan.backends import missing
from tritonparam.stream.reference.fill import values_at

LAWS = st.sampled_from(
    [
        Normal(),
        Normal(mean=1.0, std=0.5),
        Uniform(low=-1.0, high=3.0),
        TruncatedNormal(),
        TruncatedNormal(mean=0.0, std=1.0, low=-8.0, high=8.0),
        Constant(2.5),
    ]
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
KEYS = st.integers(0, 2**64 - 1)
SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)
BACKENDS = pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.kernels)])


def place(backend: str) -> torch.device:
    """A device that the backend writes to: the Triton kernels are interpreted on the host where there is no GPU."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(-1).view(torch.uint8)


def whole(shape: tuple[int, ...], law: Law, key: int, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(shape, dtype=dtype)
    Plan([Fill(out, law, key)], "numpy").run()
    return out


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, and offsets and sizes of a box of it."""
    shape = draw(SHAPES)
    offsets = tuple(draw(st.integers(0, extent - 1)) for extent in shape)
    sizes = tuple(draw(st.integers(1, extent - offset)) for extent, offset in zip(shape, offsets, strict=True))
    return shape, offsets, sizes


@BACKENDS
@settings(max_examples=20, deadline=None)
@given(box=boxes(), law=LAWS, key=KEYS, dtype=DTYPES)
def test_a_box_has_the_values_of_the_whole(backend: str, box: Any, law: Law, key: int, dtype: torch.dtype) -> None:
    shape, offsets, sizes = box
    got = torch.empty(sizes, dtype=dtype, device=place(backend))
    Plan([Fill(got, law, key, shape, offsets)], backend).run()
    want = whole(shape, law, key, dtype)[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
    assert torch.equal(bits(got.cpu()), bits(want))


@BACKENDS
@settings(max_examples=10, deadline=None)
@given(
    shape=SHAPES.filter(len),
    law=LAWS,
    key=KEYS,
    dtype=DTYPES,
    shards=st.integers(1, 5),
    data=st.data(),
)
def test_shards_are_the_whole(
    backend: str, shape: tuple[int, ...], law: Law, key: int, dtype: torch.dtype, shards: int, data: st.DataObject
) -> None:
    """Split along any dimension, evenly or not, and written in any order: the concatenation is the whole tensor."""
    dimension = data.draw(st.integers(0, len(shape) - 1))
    parts = torch.empty(shape, dtype=dtype).tensor_split(shards, dimension)
    fills, offset = [], 0
    for part in parts:
        offsets = [0] * len(shape)
        offsets[dimension] = offset
        out = torch.empty(part.shape, dtype=dtype, device=place(backend))
        fills.append(Fill(out, law, key, shape, offsets))
        offset += part.shape[dimension]
    Plan(data.draw(st.permutations(fills)), backend).run()
    want = whole(shape, law, key, dtype)
    for fill, part in zip(fills, want.tensor_split(shards, dimension), strict=True):
        assert torch.equal(bits(fill.out.cpu()), bits(part))


@BACKENDS
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(SHAPES, LAWS, KEYS, DTYPES), min_size=1, max_size=6), st.data())
def test_company_and_order_change_nothing(backend: str, rows: list[Any], data: st.DataObject) -> None:
    """Any subset of fills, in any order, gives each tensor what it gets alone."""
    chosen = data.draw(st.permutations(rows))[: data.draw(st.integers(1, len(rows)))]
    fills = [Fill(torch.empty(s, dtype=d, device=place(backend)), law, key) for s, law, key, d in chosen]
    Plan(fills, backend).run()
    for fill, (shape, law, key, dtype) in zip(fills, chosen, strict=True):
        assert torch.equal(bits(fill.out.cpu()), bits(whole(shape, law, key, dtype)))


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, law=LAWS.filter(lambda law: law.kind != "constant"), key=KEYS)
def test_narrow_dtypes_are_the_rounded_float32(shape: tuple[int, ...], law: Law, key: int) -> None:
    want = whole(shape, law, key, torch.float32)
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64):
        assert torch.equal(bits(whole(shape, law, key, dtype)), bits(want.to(dtype)))


def test_a_plan_runs_again() -> None:
    out = torch.empty(1000)
    plan = Plan([Fill(out, Normal(), 3)])
    plan.run()
    want = out.clone()
    out.fill_(math.nan)
    plan.run()
    assert torch.equal(out, want)


def test_gradients_and_inference_mode_do_not_matter() -> None:
    """A leaf that requires grad is written like any other, without a trace in autograd."""
    leaf = torch.nn.Parameter(torch.empty(10))
    Plan([Fill(leaf, Normal(), 3)]).run()
    assert leaf.grad_fn is None
    assert leaf.requires_grad
    with torch.inference_mode():
        inside = torch.empty(10)
        Plan([Fill(inside, Normal(), 3)]).run()
    assert torch.equal(leaf.detach(), inside)


def test_memory_of_the_reference_is_bounded() -> None:
    """Temporaries of one chunk, whatever the tensor: tracemalloc counts NumPy's allocations."""
    import tracemalloc

    out = torch.empty(8_000_000, dtype=torch.bfloat16)
    plan = Plan([Fill(out, Normal(), 3)], "numpy")
    tracemalloc.start()
    try:
        plan.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


VALID: dict[str, Any] = {"out": torch.empty(4, 3), "law": Normal(), "key": 1}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"out": [1.0]}, TypeError, "out must be a torch.Tensor, got list"),
        ({"out": torch.empty(4, device="meta")}, ValueError, "out must be a strided tensor with storage"),
        ({"out": torch.eye(3).to_sparse()}, ValueError, "out must be a strided tensor with storage"),
        ({"out": torch.empty(4, dtype=torch.int32)}, TypeError, "out must be of a dtype in .* got torch.int32"),
        ({"out": torch.empty(3).expand(4, 3)}, ValueError, r"out must not overlap itself, got shape \(4, 3\)"),
        ({"law": "normal"}, TypeError, r"law must be a Constant, Normal, TruncatedNormal or Uniform .*, got 'normal'"),
        ({"law": Constant(0.5), "out": torch.empty(2, dtype=torch.int8)}, ValueError, "value must be a whole number"),
        ({"law": Constant(300), "out": torch.empty(2, dtype=torch.uint8)}, ValueError, r"in \[0, 255\] .* got 300"),
        ({"law": Constant(1e39)}, ValueError, "value must be a float32 number"),
        ({"key": -1}, ValueError, r"key must be an int in \[0, 2\*\*64\), got -1"),
        ({"key": 2**64}, ValueError, "key must be an int"),
        ({"key": 1.0}, ValueError, "key must be an int"),
        ({"shape": (4,)}, ValueError, "must have the same rank"),
        ({"shape": (5, 3), "offsets": (2, 0)}, ValueError, "the box must lie in the tensor, got offsets"),
        ({"shape": (5, 3), "offsets": (-1, 0)}, ValueError, "the box must lie in the tensor"),
        ({"shape": (8.0, 3)}, TypeError, r"shape must hold ints, got \(8.0, 3\)"),
        ({"offsets": (0, "0")}, TypeError, r"offsets must hold ints, got \(0, '0'\)"),
        ({"shape": (2**32, 2**32)}, ValueError, r"shape must come to at most 2\*\*63 elements, got \(4294967296,"),
        ({"law": Constant(10**400)}, ValueError, "value must be a float32 number"),
        ({"law": Constant(10**400), "out": torch.empty(2, dtype=torch.float64)}, ValueError, "value must be a float64"),
    ],
)
def test_a_bad_fill_is_refused_by_name(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Fill(**(VALID | change))


def test_the_last_element_that_an_index_can_have_is_made() -> None:
    """The box of the largest tensor there may be: 2**63 elements, indices of 63 bits."""
    shape = np.array([2**31, 2**32])
    box = torch.empty(1, 2)
    Plan([Fill(box, Normal(), 1, shape, tuple(shape - (1, 2)))]).run()
    want = values_at(Normal(), 1, np.array([2**63 - 2, 2**63 - 1]))
    assert torch.equal(box[0], torch.from_numpy(want))


def test_a_plan_takes_operations_only() -> None:
    with pytest.raises(TypeError, match="operations must hold Fill and Copy objects, got Tensor"):
        Plan([torch.empty(3)])  # type: ignore[list-item]


def test_backends_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Fill(torch.full((3,), 7.0), Normal())
    with pytest.raises(ValueError, match=r"backend must be one of \('triton', 'cpu', 'numpy'\), got 'cupy'"):
        Plan([fill], "cupy")
    monkeypatch.setattr(missing, "is_installed", lambda name: False)
    with pytest.raises(ImportError, match="backend 'triton' needs the package triton: pip install triton"):
        Plan([fill], "triton")
    with pytest.raises(ImportError, match=r"backend 'cpu' needs the package numba: pip install numba"):
        Plan([fill], "cpu")
    assert (fill.out == 7.0).all()


def test_without_numba_the_definition_writes_and_says_once_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("numba")
    got, want = torch.empty(3, 5), torch.empty(3, 5)
    Plan([Fill(want, Normal(), 1)], "cpu").run()
    monkeypatch.setattr("tritonparam.plan.backends.is_installed", lambda name: name != "numba")
    monkeypatch.setattr(missing, "is_installed", lambda name: name != "numba")
    missing._tell.cache_clear()
    plan = Plan([Fill(got, Normal(), 1)])
    plan.run()
    assert torch.equal(got, want)
    assert caplog.messages == []  # it was quick
    monkeypatch.setattr(missing, "_SLOW_FROM", 15)
    plan.run()
    plan.run()
    Plan([Fill(got, Constant(1.0))]).run()
    assert caplog.messages == ["NumPy makes the values, which is slow: pip install numba for compiled loops"]


def test_compiled_kernels_refuse_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from tritonparam.plan.backends import triton as _triton

    monkeypatch.setattr(_triton, "is_interpreted", lambda: False)
    with pytest.raises(ValueError, match="backend 'triton' writes to cuda devices only, got device 'cpu'"):
        Plan([Fill(torch.empty(3), Normal())], "triton")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(mean=0.0, std=-1.0), "std must be >= 0, got -1.0"),
        (lambda: Normal(mean=math.nan, std=1.0), "mean must be a finite float32 number, got nan"),
        (lambda: Normal(mean=0.0, std=1e38), "mean and std must keep every value in float32"),
        (lambda: Normal(mean=0, std=10**400), "std must be a finite float32 number, got <int of 1329 bits>"),
        (lambda: Uniform(low=1.0, high=0.0), "low must not be above high"),
        (lambda: Uniform(low=-3e38, high=3e38), r"high - low must be at most 2\*\*127"),
        (lambda: TruncatedNormal(mean=0.0, std=0.0), "std must be > 0"),
        (lambda: TruncatedNormal(mean=0.0, std=1.0, low=2.0, high=2.0), "low must be below high"),
        (lambda: TruncatedNormal(mean=0.0, std=1.0, low=11.0, high=12.0), "must come within 10 std"),
        (lambda: TruncatedNormal(mean=0.0, std=1.0, low=-1e-300, high=1e-300), "must be at least 1e-30 std apart"),
    ],
)
def test_bad_laws_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_zero_has_no_sign_in_a_random_law() -> None:
    """Equal laws give equal bits, whichever was used first; and integers are floats."""
    for make in (
        lambda zero: TruncatedNormal(mean=zero, std=1.0, low=zero, high=2.0),
        lambda zero: Normal(mean=zero, std=0.0),
    ):
        for first, second in ((-0.0, 0.0), (0.0, -0.0), (0, 0.0)):
            results = [bits(whole((64,), make(zero), 1, torch.float32)) for zero in (first, second)]
            assert torch.equal(*results)
    assert repr(Normal(mean=-0.0, std=1)) == "Normal(mean=0.0, std=1.0)"


def test_bounds_beyond_float32_are_no_bounds() -> None:
    want = whole((1000,), TruncatedNormal(mean=0.0, std=1.0, low=-math.inf, high=math.inf), 1, torch.float32)
    assert torch.equal(
        whole((1000,), TruncatedNormal(mean=0.0, std=1.0, low=-1e300, high=1e39), 1, torch.float32), want
    )


def test_no_value_of_a_truncated_normal_overflows() -> None:
    got = whole((4000,), TruncatedNormal(mean=3e38, std=1e38, low=-math.inf, high=math.inf), 1, torch.float32)
    assert got.isfinite().all()
    assert got.max() == torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match=r"\[low, high\] must contain a float32 number"):
        Fill(torch.empty(4), TruncatedNormal(mean=0.0, std=1e38, low=5e38, high=math.inf))


def test_laws_compare_and_copy_by_value() -> None:
    assert copy.deepcopy(Normal(mean=0.0, std=2.0)) == Normal(mean=0.0, std=2.0) != Normal(mean=0.0, std=1.0)
    assert len({Normal(), Normal(), Uniform()}) == 2


@pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.kernels)])
def test_a_run_into_what_autograd_keeps_is_noticed(backend: str) -> None:
    """The kernels moved no version counter: the gradient was wrong, 10 instead of 2."""
    w = torch.ones(3, device=place(backend), requires_grad=True)
    out = (w * w).sum()
    Plan([Fill(w.detach(), Constant(5.0))], backend).run()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("strided", [False, True])
def test_the_default_device_of_torch_does_not_matter(strided: bool) -> None:
    """Temporaries were made there: on the meta device without values."""
    out = torch.empty(4, 6)[:, ::2] if strided else torch.empty(4, 3)
    with torch.device("meta"):
        Plan([Fill(out, Normal(), 3)], "numpy").run()
    assert torch.equal(out, fresh_normal((4, 3), 3))


def fresh_normal(shape: tuple[int, ...], key: int) -> torch.Tensor:
    out = torch.empty(shape)
    Plan([Fill(out, Normal(), key)], "numpy").run()
    return out


def test_a_plan_shows_what_it_is() -> None:
    """Its counts, bytes, device and backend; columns as a list of the same."""
    outs = [torch.empty(3), torch.empty(2, 2, dtype=torch.bfloat16)]
    keys = np.array([1, 2], np.uint64)
    fills = [Fill(out, Normal(), int(key)) for out, key in zip(outs, keys, strict=True)]
    copies = [Copy(torch.empty(5), torch.ones(5))]
    on = "device=cpu, backend=numpy"
    assert repr(Plan(fills + copies, "numpy")) == f"Plan(fills=2, copies=1, bytes=40, {on})"
    assert repr(Plan(FillColumns(outs, [Normal()] * 2, keys), "numpy")) == f"Plan(fills=2, copies=0, bytes=20, {on})"
    columns = CopyColumns([torch.empty(5)], [torch.ones(5)])
    assert repr(Plan(columns, "numpy")) == f"Plan(fills=0, copies=1, bytes=20, {on})"
    assert repr(Plan([])) == "Plan(fills=0, copies=0, bytes=0, device=None, backend=None)"


def test_one_operation_is_no_list_of_them() -> None:
    for each in (Fill(torch.empty(1), Normal()), Copy(torch.empty(1), torch.ones(1))):
        kind = type(each).__name__
        with pytest.raises(TypeError, match=rf"operations must be .* got a {kind}; write Plan\(\[{kind}"):
            Plan(each)  # type: ignore[arg-type]
