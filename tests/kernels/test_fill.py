"""The Triton kernels meet the reference bit for bit, in every dtype, size, layout and company, and write nothing else.

On the host the kernels are interpreted; on a CUDA device they are compiled, and the sizes grow.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch

from tritonparam import Constant, Fill, Law, Normal, Plan, TruncatedNormal, Uniform

pytest.importorskip("triton")

from tests.kernels.fills import BLOCK, CHUNK, FLOATS, KEY, LAWS, POISON, SIGNED, TILE, Guarded, check, run
from tritonparam.kernels import fill as kernel

pytestmark = pytest.mark.kernels

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4099, TILE - 1, TILE, TILE + 1]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kind)
def test_every_law_in_every_dtype_and_size(law: Law, dtype: torch.dtype, device: torch.device) -> None:
    """Of every size, in one launch; nothing around the tensors is touched."""
    places = [Guarded((size,), dtype, device) for size in SIZES]
    fills = [Fill(place.tensor, law, KEY) for place in places]
    run(fills)
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_constants_of_integers(dtype: torch.dtype, device: torch.device) -> None:
    for value in (0, 1) if dtype in (torch.bool, torch.uint8) else (0, 1, -1, torch.iinfo(dtype).min):
        place = Guarded((BLOCK + 1,), dtype, device)
        run([Fill(place.tensor, Constant(value))])
        assert (place.tensor == value).all()
        place.check_bands()


def test_constants_keep_the_sign_of_zero(device: torch.device) -> None:
    for value in (0.0, -0.0):
        out = torch.empty(5, device=device)
        run([Fill(out, Constant(value))])
        assert math.copysign(1, out[0].item()) == math.copysign(1, value)


def test_the_check_can_fail(device: torch.device) -> None:
    """One wrong bit is found and printed."""
    fill = Fill(torch.empty(100, device=device), Normal(), KEY)
    run([fill])
    fill.out.view(torch.int32)[37] ^= 1
    with pytest.raises(pytest.fail.Exception, match=r"1 of 100 differ, first at global index 37: got .* want "):
        check(fill)


def mixed_fills(device: torch.device, shapes: list[tuple[int, ...]]) -> tuple[list[Guarded], list[Fill]]:
    """Every law in every dtype, shapes in turn."""
    shape = itertools.cycle(shapes)
    places = [Guarded(next(shape), dtype, device) for _ in LAWS for dtype in FLOATS]
    laws = [law for law in LAWS for _ in FLOATS]
    return places, [Fill(place.tensor, law, KEY) for place, law in zip(places, laws, strict=True)]


def test_all_laws_and_dtypes_in_one_launch(device: torch.device, launches: list[int]) -> None:
    """Hundreds of tensors, mixed, with scalars, empty ones and odd shapes among them: one launch."""
    shapes = [(3, 5), (), (0, 7), (1,), (130,), (2, 3, 4), (513,)]
    places, fills = mixed_fills(device, shapes)
    more = [Fill(torch.empty(n % 9, device=device), LAWS[n % len(LAWS)], KEY) for n in range(200)]
    run(fills + more)
    assert launches == [1]
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()
    for fill in more:
        check(fill)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of one number: how often the kernel was launched."""
    from tritonparam.plan.backends import triton as _triton

    count = [0]

    def counted(*arguments: object) -> None:
        count[0] += 1
        kernel.fill(*arguments)

    monkeypatch.setattr(_triton, "fill", counted)
    return count


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shift", [1, 3, 8])
def test_unaligned_pointers(dtype: torch.dtype, shift: int, device: torch.device) -> None:
    places = [Guarded((TILE + 37,), dtype, device, shift) for _ in range(2)]
    fills = [Fill(place.tensor, law, KEY) for place, law in zip(places, (Normal(), Constant(0.5)), strict=True)]
    run(fills)
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()


@pytest.mark.parametrize("offset", [0, 1, 3, 4, TILE - 1, TILE, CHUNK - 2, 2**31 - 5, 2**32 - 3, 2**34 - 7, 2**40 + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_of_a_global_tensor(offset: int, dtype: torch.dtype, device: torch.device) -> None:
    """A shard along dimension 0 has the global tensor's values, however far in: beyond 2**31 and 2**34 elements too."""
    place = Guarded((700,), dtype, device)
    fill = Fill(place.tensor, Normal(), KEY, (2**41,), (offset,))
    run([fill])
    check(fill)
    place.check_bands()


BOXES = [
    ((8, 6), (2, 0), (3, 6)),
    ((8, 6), (0, 2), (8, 3)),
    ((5, 7, 6), (1, 2, 3), (3, 4, 2)),
    ((4, 3, 2, 5), (1, 1, 0, 2), (2, 2, 2, 3)),
    ((2**21, 2**20), (2**21 - 3, 2**20 - 50), (3, 50)),
    ((3, 1, 40), (1, 0, 5), (1, 1, 30)),
    ((6, 6), (1, 1), (0, 4)),
    ((), (), ()),
]


@pytest.mark.parametrize(("shape", "offsets", "sizes"), BOXES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kind)
def test_any_box(law: Law, shape: tuple, offsets: tuple, sizes: tuple, device: torch.device) -> None:
    place = Guarded(sizes, torch.float32, device)
    fill = Fill(place.tensor, law, KEY, shape, offsets)
    run([fill])
    check(fill)
    place.check_bands()


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.t(),
    "every second column": lambda x: x[:, ::2],
    "inner box": lambda x: x[3:20, 5:30],
    "permuted": lambda x: x.view(4, 10, 36).permute(2, 0, 1),
    "one column": lambda x: x[:, 7],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_layout(layout: str, dtype: torch.dtype, device: torch.device) -> None:
    """Values depend on the index, not on the strides; what lies between the elements stays as it was."""
    for law in (Normal(), Constant(0.5)):
        place = Guarded((40, 36), dtype, device)
        view = LAYOUTS[layout](place.tensor)
        fill = Fill(view, law, KEY)
        run([fill])
        check(fill)
        place.check_bands()
        view.contiguous()
        untouched = torch.ones((40, 36), dtype=torch.bool, device=device)
        LAYOUTS[layout](untouched).fill_(False)
        rest = place.tensor.view(SIGNED[dtype.itemsize])[untouched]
        assert (rest.view(torch.uint8) == POISON).all()


def test_boxes_and_runs_together(device: torch.device) -> None:
    """Strided and contiguous rows in one table, each with its own dimensions."""
    outs = [
        torch.empty(30, 20, device=device).t()[:, ::3],
        torch.empty(100, device=device),
        torch.empty(9, 4, device=device),
    ]
    fills = [
        Fill(outs[0], Normal(), KEY, (50, 60), (7, 8)),
        Fill(outs[1], Uniform(), KEY),
        Fill(
            outs[2],
            TruncatedNormal(),
            KEY,
            (
                9,
                40,
            ),
            (0, 30),
        ),
    ]
    run(fills)
    for fill in fills:
        check(fill)


@pytest.mark.skipif(not kernel.is_interpreted(), reason="a compiled kernel has its constants built in")
@pytest.mark.parametrize("block", [128, 256, 1024])
def test_block_size_changes_no_bit(block: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton.language as tl

    from tritonparam.plan.backends import fill_table as _fill_table

    for name, value in (("BLOCK", block), ("TILE", 8 * block), ("CHUNK", 16 * block)):
        monkeypatch.setattr(kernel, f"_{name}", tl.constexpr(value))
    monkeypatch.setattr(_fill_table, "CHUNK", 16 * block)
    fills = [Fill(torch.empty(3 * 16 * 128 + 5, device=device, dtype=dtype), Normal(), KEY) for dtype in FLOATS[:3]]
    run(fills)
    for fill in fills:
        check(fill)


@pytest.mark.parametrize(
    ("kinds", "warps"),
    [
        *(({kind}, 4) for kind in ("constant", "uniform", "normal")),
        *(({kind}, 8) for kind in ("truncated_normal", "truncated_normal_with_tail")),
        ({"constant", "uniform", "normal"}, 4),
        (set(kernel.KINDS), 8),
    ],
)
def test_programs_have_the_warps_that_were_found_fastest(kinds, warps, monkeypatch, launch_recorder) -> None:
    monkeypatch.setattr(kernel, "_fill_kernel", launch_recorder)
    kernel.fill(None, 1, 3, sum(1 << kernel.KINDS[kind] for kind in kinds), 1, False)
    assert launch_recorder.asked == [((3,), warps)]


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    """The last elements of 2**31 + 7 bytes are right: no index is 32 bits wide."""
    out = torch.empty(2**31 + 7, dtype=torch.float8_e5m2, device="cuda")
    run([Fill(out, Normal(), KEY)])
    for start in (0, 2**31 - 8, 2**30):
        check_part = Fill(out[start : start + 15], Normal(), KEY, (2**31 + 7,), (start,))
        check(check_part)


@pytest.mark.gpu
def test_large_tensors_on_a_gpu(device: torch.device) -> None:
    """Many programs, all laws and dtypes in one launch, against the reference."""
    places, fills = mixed_fills(device, [(3 * CHUNK + 5,), (1025, 333)])
    run(fills)
    for place, fill in zip(places, fills, strict=True):
        check(fill)
        place.check_bands()


@pytest.mark.gpu
def test_a_plan_runs_on_another_stream_than_it_was_built_on() -> None:
    """While the first stream is busy for some 100 ms before the copy of the table, and after the plan is dropped."""
    out = torch.zeros(100_000, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(200_000_000)
        plan = Plan([Fill(out, Normal(), KEY)])
    with torch.cuda.stream(second):
        plan.run()
        del plan
        junk = [torch.full((2000,), -1, device="cuda") for _ in range(50)]
    torch.cuda.synchronize()
    check(Fill(out, Normal(), KEY))
    assert len(junk) == 50


@pytest.mark.gpu
def test_a_plan_is_replayed_from_a_graph() -> None:
    out = torch.empty(100_000, device="cuda")
    plan = Plan([Fill(out, Normal(), KEY)])
    plan.run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.run()
    out.zero_()
    graph.replay()
    check(Fill(out, Normal(), KEY))


@pytest.mark.gpu
def test_running_a_plan_does_not_wait_for_the_device() -> None:
    """No synchronization: torch is told to raise at one."""
    fills = [Fill(torch.empty(1000, device="cuda"), Normal(), KEY) for _ in range(10)]
    Plan(fills).run()
    torch.cuda.synchronize()
    with warnings.catch_warnings():  # that the mode is a prototype
        warnings.simplefilter("ignore", UserWarning)
        try:
            torch.cuda.set_sync_debug_mode("error")
            Plan(fills).run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
