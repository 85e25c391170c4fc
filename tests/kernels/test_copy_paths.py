"""Every path of the copy kernel is taken where it is meant, and writes what it should and nothing beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tritonparam import Copy

pytest.importorskip("triton")

from tests.kernels.copies import (
    BF16,
    BF16_F32,
    F32,
    F32_BF16,
    F64_I32,
    UNITS,
    Place,
    check,
    codes_of,
    contiguous,
    move,
    random_tensor,
    run,
)
from tritonparam.kernels.dtypes import DTYPES as CODES
from tritonparam.kernels.fill import is_interpreted
from tritonparam.plan.backends.copy_table import build_copy_table

pytestmark = [
    pytest.mark.kernels,
    # The interpreter's arithmetic is NumPy's, which warns of infinities where a GPU does not.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

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
