"""The copy kernel moves and casts bit for bit as the definition does, on every path, in one launch, and nothing else.

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

from tests.stream.reference.test_cast import samples
from tritonparam import Box, Constant, Copy, Fill, Plan
from tritonparam.stream.reference.cast import CAST_DTYPES, FLOATS, INTEGERS, cast_bits

pytest.importorskip("triton")

from tritonparam.kernels import copy as kernel
from tritonparam.kernels.cast import DTYPES as CODES
from tritonparam.kernels.fill import is_interpreted
from tritonparam.plan.backends import copy_table as _copy_table
from tritonparam.plan.backends.copy_table import Geometry, Piece, build_copy_table, lay_out

pytestmark = [
    pytest.mark.kernels,
    # The interpreter's arithmetic is NumPy's, which warns of infinities where a GPU does not.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

TILE, CHUNK, LANES, UNITS = kernel.TILE, kernel.CHUNK, kernel.LANES, kernel.UNITS
BAND = CHUNK * 16
POISON = 0x5A
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def contiguous(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(sizes[d + 1 :]) for d in range(len(sizes)))


class Place:
    """A poisoned tensor of any strides, between guard bands of one whole program each.

    Args:
        sizes, strides: Of the tensor, in elements.
        shift: Elements by which its start misses a 256-byte boundary.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        strides: tuple[int, ...] | None = None,
        shift: int = 0,
    ) -> None:
        self.sizes, self.strides = sizes, contiguous(sizes) if strides is None else strides
        self.span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, self.strides, strict=True))
        self.start = BAND + shift * dtype.itemsize
        self.memory = torch.full((self.start + self.span * dtype.itemsize + BAND,), POISON, dtype=torch.uint8)
        self.memory = self.memory.to(device)
        self.tensor = self._box(self.memory, dtype)

    def _box(self, memory: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        own = memory[self.start : self.start + self.span * dtype.itemsize].view(dtype)
        return own.as_strided(self.sizes, self.strides)

    def check_rest(self) -> None:
        """Nothing beside the elements was written: neither between them nor around them."""
        memory = self.memory.clone()
        self._box(memory, self.tensor.dtype).zero_()
        want = torch.full_like(memory, POISON)
        self._box(want, self.tensor.dtype).zero_()
        wrong = (memory != want).nonzero()
        assert not len(wrong), f"byte {int(wrong[0]) - self.start} from the tensor's start was written"


def bits_of(tensor: torch.Tensor, backwards: tuple[int, ...] = ()) -> np.ndarray:
    """The bits of the elements: [*shape, bytes of an element] of uint8."""
    host = tensor.flip(backwards).contiguous().cpu()
    return (
        host.as_strided((host.numel(),), (1,)).view(torch.uint8).numpy().reshape(*tensor.shape, tensor.element_size())
    )


def words(raw: np.ndarray) -> np.ndarray:
    """[..., n] bytes as [...] words, of n up to 8."""
    return np.ascontiguousarray(raw).view(f"u{raw.shape[-1]}")[..., 0]


def is_nan(bits: np.ndarray, dtype: str) -> np.ndarray:
    if dtype not in FLOATS:
        return np.zeros(bits.shape, bool)
    return np.isnan(cast_bits(bits.ravel(), dtype, "float64").view(np.float64)).reshape(bits.shape)


def check(copy: Copy) -> None:
    """`copy.out` holds what the definition gives, a NaN for a NaN; a failure prints index and bits."""
    if not copy.out.numel():
        return
    source, out = name(copy.source.dtype), name(copy.out.dtype)
    raw, got = bits_of(copy.source, copy.backwards), bits_of(copy.out)
    if source == out:
        want, same = raw, (raw == got).all(axis=-1)
    else:
        cast = cast_bits(words(raw).ravel(), source, out).reshape(raw.shape[:-1])
        want = cast[..., None].view(np.uint8)
        same = (words(got) == cast) | (is_nan(cast, out) & is_nan(words(got), out))
    wrong = np.argwhere(~same)
    if len(wrong):
        at = tuple(int(each) for each in wrong[0])
        input_bits, got_bits, want_bits = (each[at][::-1].tobytes().hex() for each in (raw, got, want))
        pytest.fail(
            f"{source} -> {out}: {len(wrong)} of {same.size} differ, first at index {at}: "
            f"input {input_bits} got {got_bits} want {want_bits}"
        )


def tensor_of(bits: np.ndarray, dtype: str, device: torch.device) -> torch.Tensor:
    signed = torch.from_numpy(np.ascontiguousarray(bits).view(f"i{bits.itemsize}"))
    return signed.view(getattr(torch, dtype)).to(device)


def random_tensor(count: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Any bits: subnormals, infinities and NaNs of every payload among them; of a bool, bytes that are not one."""
    raw = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    return torch.from_numpy(raw).view(dtype).to(device) if count else torch.empty(0, dtype=dtype, device=device)


def run(*copies: Copy) -> None:
    Plan(copies, "triton").run()


@pytest.mark.parametrize("source", CAST_DTYPES)
def test_every_cast(source: str, device: torch.device) -> None:
    """To all dtypes: whole numbers, ties, the ends of every range, subnormals, infinities and NaNs."""
    bits = samples(source)
    if len(bits) > 8192:
        bits = np.concatenate([bits[:5800], bits[5800 :: len(bits) // 8192]])
    values = tensor_of(bits, source, device)
    places = [Place(values.shape, getattr(torch, out), device) for out in CAST_DTYPES]
    copies = [Copy(place.tensor, values) for place in places]
    run(*copies)
    for place, copy in zip(places, copies, strict=True):
        check(copy)
        place.check_rest()


@pytest.mark.parametrize("out", CAST_DTYPES)
def test_any_byte_but_zero_is_true(out: str, device: torch.device) -> None:
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.bool).to(device)
    copy = Copy(Place((256,), getattr(torch, out), device).tensor, values)
    run(copy)
    check(copy)


# Path, whether wide, and the dtypes that the kernel has in hand.
Code = tuple[str, bool, str, str]


def codes_of(*codes: Code) -> tuple[int, ...]:
    return tuple(sorted(kernel.code_of(path, wide, CODES[source], CODES[out]) for path, wide, source, out in codes))


def move(path: str, unit: int) -> Code:
    dtype = f"int{8 * unit}" if unit < 16 else "int32"
    return path, unit == 16, dtype, dtype


BF16, F32, F64, I32 = torch.bfloat16, torch.float32, torch.float64, torch.int32
F32_BF16, BF16_F32, F64_I32 = ("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "int32")
# Name: sizes, strides of the source and of out (None: contiguous), their shifts, source and out dtype, codes.
LAYOUTS: dict[str, tuple[Any, ...]] = {
    "run": ((8192,), None, None, 0, 0, F32, F32, [move("run", 16)]),
    "run, tail": ((8195,), None, None, 0, 0, F32, F32, [move("run", 16), move("run", 4)]),
    "run, head and tail": ((8195,), None, None, 3, 3, BF16, BF16, [move("run", 16), move("run", 2)]),
    "run, head": ((8189,), None, None, 3, 3, torch.uint8, torch.uint8, [move("run", 16), move("run", 1)]),
    "run, two bytes apart": ((4099,), None, None, 1, 2, BF16, BF16, [move("run", 2)]),
    "run, eight bytes apart": ((4100,), None, None, 4, 0, BF16, BF16, [move("run", 8)]),
    "run, four bytes": ((4099,), None, None, 1, 2, F32, F32, [move("run", 4)]),
    "run, bytes": ((4099,), None, None, 1, 0, torch.int8, torch.int8, [move("run", 1)]),
    "run, short": ((101,), None, None, 0, 0, BF16, BF16, [move("run", 2)]),
    "run, short and wide": ((104,), None, None, 0, 0, BF16, BF16, [move("run", 16)]),
    "run, complex": ((301,), None, None, 1, 2, torch.complex128, torch.complex128, [move("run", 16)]),
    "runs": ((3, 2052), (2056, 1), (3000, 1), 0, 4, F32, F32, [move("run", 16)]),
    "runs, narrow": ((3, 2051), (2053, 1), (3001, 1), 0, 1, F32, F32, [move("run", 4)]),
    "runs, broadcast": ((3, 2048), (0, 1), None, 0, 0, F32, F32, [move("run", 16)]),
    "runs of a 4-D box": ((2, 2, 2, 8192), (40004, 20004, 9004, 1), None, 0, 0, BF16, BF16, [move("run", 8)]),
    "gather, 16 bytes": ((70, 8), (24, 1), (16, 1), 0, 8, BF16, BF16, [move("gather", 16)]),
    "gather, runs of 32 bytes": ((70, 16), (24, 1), (16, 1), 8, 8, BF16, BF16, [move("gather", 16)]),
    "gather, complex": ((9, 7), (2, 20), (7, 1), 0, 1, torch.complex128, torch.complex128, [move("gather", 16)]),
    "gather, 8 bytes": ((70, 12), (20, 1), (12, 1), 4, 4, BF16, BF16, [move("gather", 8)]),
    "gather, 4 bytes": ((70, 6), (8, 1), (7, 1), 1, 1, F32, F32, [move("gather", 4)]),
    "gather, 2 bytes": ((70, 6), (7, 1), (9, 1), 1, 0, BF16, BF16, [move("gather", 2)]),
    "gather, a source beside": ((70, 8), (24, 1), (16, 1), 1, 0, BF16, BF16, [move("gather", 2)]),
    "gather, bytes": ((70, 6), (7, 1), (9, 1), 1, 0, torch.bool, torch.bool, [move("gather", 1)]),
    "gather, every third": ((UNITS + 5,), (3,), None, 0, 0, F32, F32, [move("gather", 4)]),
    "gather, into every third": ((513,), None, (3,), 0, 1, BF16, BF16, [move("gather", 2)]),
    "gather, one value": ((31, 33), (0, 0), None, 5, 0, F32, F32, [move("gather", 4)]),
    "gather, a short side": ((15, 40), (1, 15), None, 0, 0, F32, F32, [move("gather", 4)]),
    "gather, 5-D": ((3, 5, 2, 4, 3), (1, 3, 500, 50, 15), None, 0, 0, F32, F32, [move("gather", 4)]),
    "transpose": ((64, 64), (1, 64), None, 0, 0, BF16, BF16, [move("transpose", 2)]),
    "transpose, ragged": ((65, 131), (1, 70), (140, 1), 1, 3, F32, F32, [move("transpose", 4)]),
    "transpose, of the least": (
        (16, 16),
        (1, 16),
        None,
        0,
        0,
        torch.int64,
        torch.int64,
        [("transpose", False, "int64", "int64")],
    ),
    "transpose, bytes": ((33, 70), (1, 40), None, 0, 0, torch.uint8, torch.uint8, [move("transpose", 1)]),
    "transpose, three axes": ((40, 3, 20), (1, 800, 40), None, 0, 0, F32, F32, [move("transpose", 4)]),
    "transpose, 5-D": ((2, 17, 3, 2, 18), (1836, 1, 17, 918, 51), None, 0, 0, BF16, BF16, [move("transpose", 2)]),
    "cast run": ((4096,), None, None, 0, 0, F32, BF16, [("run", True, *F32_BF16)]),
    "cast run, tail": ((4099,), None, None, 0, 0, BF16, F32, [("run", w, *BF16_F32) for w in (True, False)]),
    "cast run, head": ((4100,), None, None, 4, 4, F32, BF16, [("run", w, *F32_BF16) for w in (True, False)]),
    "cast run, head and tail": ((4099,), None, None, 4, 12, F32, BF16, [("run", w, *F32_BF16) for w in (True, False)]),
    "cast run, apart": ((4099,), None, None, 1, 0, BF16, F32, [("run", False, *BF16_F32)]),
    "cast run, short": ((101,), None, None, 0, 0, F32, BF16, [("run", False, *F32_BF16)]),
    "cast runs": ((3, 2056), (2064, 1), None, 0, 0, F32, BF16, [("run", True, *F32_BF16)]),
    "cast runs, narrow": ((3, 2051), (2064, 1), None, 0, 0, F32, BF16, [("run", False, *F32_BF16)]),
    "cast gather": ((70, 16), (24, 1), None, 0, 0, F32, BF16, [("gather", True, *F32_BF16)]),
    "cast gather, one unit a row": ((70, 8), (24, 1), None, 0, 0, BF16, F32, [("gather", True, *BF16_F32)]),
    "cast gather, a source beside": ((70, 16), (24, 1), None, 2, 0, F32, BF16, [("gather", False, *F32_BF16)]),
    "cast gather, an out beside": ((70, 16), (24, 1), None, 0, 2, F32, BF16, [("gather", False, *F32_BF16)]),
    "cast gather, narrow": ((70, 6), (24, 1), None, 0, 0, F32, BF16, [("gather", False, *F32_BF16)]),
    "cast gather, strided": (
        (70, 6),
        (24, 2),
        (1, 100),
        0,
        0,
        *(torch.float64, torch.int32),
        [("gather", False, *F64_I32)],
    ),
    "cast transpose": ((70, 66), (1, 71), None, 0, 0, F32, BF16, [("transpose", False, *F32_BF16)]),
    "cast transpose, wide": (
        (33, 40),
        (1, 35),
        None,
        0,
        0,
        torch.float64,
        torch.int32,
        [("transpose", False, *F64_I32)],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_path(layout: str, device: torch.device) -> None:
    """Each is the one meant; it writes what it should and nothing beside."""
    sizes, source_strides, out_strides, source_shift, out_shift, source_dtype, out_dtype, codes = LAYOUTS[layout]
    source_strides = contiguous(sizes) if source_strides is None else source_strides
    span = 1 + sum((size - 1) * stride for size, stride in zip(sizes, source_strides, strict=True))
    source = random_tensor(source_shift + span, source_dtype, device).as_strided(sizes, source_strides, source_shift)
    place = Place(sizes, out_dtype, device, out_strides, out_shift)
    copy = Copy(place.tensor, source)
    assert build_copy_table([copy]).codes == codes_of(*codes)
    run(copy)
    check(copy)
    place.check_rest()


@pytest.mark.skipif(not is_interpreted(), reason="NumPy arrays are on the host")
@pytest.mark.parametrize(
    "index",
    [
        np.s_[::-1],
        np.s_[::-1, ::-1],
        np.s_[:, ::-2],
        np.s_[5:2:-1, 1:30],
    ],
)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_arrays_read_from_their_end(index: Any, out_dtype: torch.dtype, device: torch.device) -> None:
    array = np.arange(40 * 36, dtype=np.float32).reshape(40, 36)
    place = Place(array[index].shape, out_dtype, device)
    run(Copy(place.tensor, array[index]))
    assert torch.equal(place.tensor.float(), torch.from_numpy(array[index].copy()).to(out_dtype).float())
    place.check_rest()


@pytest.mark.skipif(not is_interpreted(), reason="NumPy arrays are on the host")
def test_a_source_between_its_elements(device: torch.device) -> None:
    """An array that starts at an odd address moves by bytes, strided or not; a cast refuses it."""
    raw = np.arange(8 * 700 + 1, dtype=np.int64).astype(np.uint8)[1:]
    for array in (raw.view(np.float64), raw.view(np.float64).reshape(70, 10)[:, ::3]):
        place = Place(array.shape, torch.from_numpy(array).dtype, device)
        copy = Copy(place.tensor, array)
        assert all(code >> 4 & 15 == CODES["int8"] for code in build_copy_table([copy]).codes)
        run(copy)
        check(copy)
        place.check_rest()
    with pytest.raises(ValueError, match=r"Copy\(out=\(700,\) .* both addresses must be multiples of the elements"):
        run(Copy(torch.empty(700), raw.view(np.float64)))


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


def test_no_two_geometries_are_taken_for_one(device: torch.device) -> None:
    """Of one shape and dtype, but other strides on either side, or other addresses modulo 16, or dtypes."""
    base = random_tensor(4000, F32, device)
    strides = [(40, 2), (40, 1), (1, 20), (40, 1)]
    for dtype in (F32, BF16):
        places = [Place((20, 16), dtype, device, out) for out in ((16, 1), (16, 1), (16, 1), (18, 1))]
        copies = [
            Copy(place.tensor, base.as_strided((20, 16), each)) for place, each in zip(places, strides, strict=True)
        ]
        run(*copies)
        for copy in copies:
            check(copy)
    beside = [Copy(torch.empty(64, device=device), base[n : n + 64]) for n in (0, 1)]
    assert build_copy_table(beside).codes == codes_of(move("run", 16), move("run", 4))


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


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_division_by_a_reciprocal_is_exact(size: int, n: int) -> None:
    reciprocal = _copy_table._reciprocal(size)
    factor, shift = reciprocal & 0xFFFFFFFF, reciprocal >> 32
    for number in (n, n - n % size, max(n - n % size - 1, 0), 2**31 - 1):
        assert number * factor < 2**64
        assert number * factor >> shift == number // size


@pytest.mark.parametrize("size", [*range(1, 40), 2**30, 2**30 + 1, 2**31 - 1])
def test_division_by_any_small_number_is_exact(size: int) -> None:
    test_division_by_a_reciprocal_is_exact.hypothesis.inner_test(size, 2**31 - 1)


def elements_of(piece: Piece, geometry: Geometry) -> int:
    """How many elements of out a row writes."""
    path, wide = piece.code & 3, piece.code >> 2 & 1
    unit = geometry.out.itemsize * (kernel.VECTOR if wide else 1)
    if not geometry.casts:
        unit = 16 if wide else {CODES[f"int{8 * n}"]: n for n in (1, 2, 4, 8)}[piece.code >> 8]
    places = math.prod(dim[0] for dim in piece.dims)
    return unit * (places * piece.size if path == kernel.PATHS["run"] else places) // geometry.out.itemsize


BIG = 2**31 + 11
HUGE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "run": ((3 * BIG, 1, 1),),
    "every second": ((3 * BIG, 2, 1),),
    "many rows": ((BIG, 8, 4), (4, 2, 1)),
    "few rows": ((3, 4 * BIG, BIG), (BIG, 2, 1)),
    "transpose": ((2**17, 1, 2**16), (2**16, 2**17, 1)),
    "backwards": ((3, -4 * BIG, BIG), (BIG, -2, 1)),
}


@pytest.mark.parametrize("dtypes", [(F32, F32), (F32, BF16)], ids=str)
@pytest.mark.parametrize("dims", HUGE.values(), ids=HUGE)
def test_more_than_two_to_the_31_elements_are_split(dims: Any, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Places stay below 2**31 in a row; together the rows write every element once, from the first to the last."""
    geometry = Geometry(dtypes[0] != dtypes[1], dtypes[1], dtypes[0], 0, 0, dims)
    pieces = lay_out(geometry)
    counts = [elements_of(piece, geometry) for piece in pieces]
    assert sum(counts) == math.prod(dim[0] for dim in dims)
    assert sum(piece.programs for piece in pieces) < 2**31
    for piece in pieces:
        assert math.prod(dim[0] for dim in piece.dims) < 2**31 or piece.code & 3 == kernel.PATHS["transpose"]
    # They lie one behind the other in out, each where the source has its first element.
    starts = np.cumsum([0, *counts[:-1]])
    for start, piece in zip(starts, pieces, strict=True):
        assert piece.out == start * dtypes[1].itemsize
        rest, source = int(start), 0
        for size, stride, _ in sorted(dims, key=lambda dim: dim[2]):
            source += rest % size * stride
            rest //= size
        assert piece.source == source * dtypes[0].itemsize


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


def test_too_many_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_table, "_MAX_PROGRAMS", 2)
    copies = [Copy(torch.empty(3), torch.empty(3)) for _ in range(3)]
    with pytest.raises(ValueError, match="the copies of one plan must come to at most 2 programs, got 3"):
        build_copy_table(copies)


def test_integers_of_one_width_are_moved(device: torch.device) -> None:
    """int64 -> uint64 and their like need no code of their own; to and from bool they do."""
    pairs = [(torch.int64, torch.uint64), (torch.uint32, torch.int32), (torch.uint8, torch.int8)]
    copies = [
        Copy(torch.empty(64, dtype=out, device=device), random_tensor(64, source, device)) for source, out in pairs
    ]
    assert build_copy_table(copies).codes == codes_of(move("run", 16))
    run(*copies)
    for copy in copies:
        check(copy)
    assert build_copy_table([Copy(torch.empty(64, dtype=torch.int8), torch.empty(64, dtype=torch.bool))]).codes == (
        codes_of(("run", True, "bool", "int8"))
    )


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
