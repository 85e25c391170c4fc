"""The casts that the reference defines are torch's, bit for bit: every pair of dtypes, up to 16 bits every value."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tritonparam.stream.reference.cast import CAST_DTYPES, FLOATS, INTEGERS, cast_bits

PAIRS = list(itertools.product(CAST_DTYPES, CAST_DTYPES))
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def samples(dtype: str) -> np.ndarray:
    """Bits of `dtype`: all of them up to 16 bits; else random ones, whole numbers, ties and the ends of everything."""
    width = 8 * getattr(torch, dtype).itemsize
    if dtype == "bool":
        return np.array([0, 1], np.uint8)
    if width <= 16:
        return np.arange(2**width).astype(f"uint{width}")
    random = np.random.default_rng(7)
    powers = np.array([2.0**n for n in range(-30, 66)])
    near = np.concatenate([powers, powers - 1, powers + 1, powers * 1.5, powers * (1 + 2**-8), powers * (1 + 2**-11)])
    numbers = np.concatenate([near, -near, random.normal(size=4096) * 2.0 ** random.integers(-40, 40, 4096)])
    if dtype in INTEGERS:
        bits = random.integers(0, 2**width, 4096, f"uint{width}")
        small = bits >> random.integers(0, width, 4096).astype(bits.dtype)
        edges = np.array([0, 1, 2**width - 1, 2 ** (width - 1), 2 ** (width - 1) - 1], f"uint{width}")
        return np.concatenate([bits, small, ~small, edges])
    floats = np.concatenate([numbers, [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(dtype).view(f"uint{width}")
    halves = np.arange(2**16, dtype=np.uint64) << np.uint64(width - 16)
    ties = (halves[:, None] | np.array([1, 1 << (width - 17), (1 << (width - 17)) + 1], np.uint64)).ravel()
    return np.concatenate([floats, halves.astype(floats.dtype), ties.astype(floats.dtype)])


def is_nan(bits: np.ndarray, dtype: str) -> np.ndarray:
    return cast_tensor(bits, dtype).float().isnan().numpy() if dtype in FLOATS else np.zeros(bits.shape, bool)


def cast_tensor(bits: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(bits.view(f"int{8 * bits.itemsize}")).view(getattr(torch, dtype))


def fits(bits: np.ndarray, source: str, out: str) -> np.ndarray:
    """Where a cast to an integer has a result that C, and so torch, defines."""
    if source in INTEGERS or out in FLOATS or out == "bool":
        return np.ones(bits.shape, bool)
    limits = torch.iinfo(getattr(torch, out))
    values = cast_tensor(bits, source).double().trunc().numpy()
    return (values >= limits.min) & (values < float(limits.max) + (limits.bits > 32 or 1))


@pytest.mark.parametrize(("source", "out"), PAIRS)
def test_casts_are_those_of_torch(source: str, out: str) -> None:
    """Where torch has a result of its own: NaNs stay NaNs, and numbers beyond an integer are tested below."""
    bits = samples(source)
    bits = bits[fits(bits, source, out)]
    tensor = cast_tensor(bits, source)
    if out == "float8_e4m3fn" and source != out:  # torch before 2.12 makes NaN of what is too large
        tensor = tensor.double().clamp(-448, 448)  # exact, but for what becomes 448 anyway
    want = tensor.to(getattr(torch, out)).view(SIGNED[getattr(torch, out).itemsize]).numpy()
    got = cast_bits(bits, source, out).view(want.dtype)
    ignored = is_nan(bits, source) if source != out else np.zeros(bits.shape, bool)
    wrong = np.nonzero((got != want) & ~ignored)[0]
    assert not len(wrong), f"{bits[wrong[0]]:#x} got {got[wrong[0]]:#x} want {want[wrong[0]]:#x}"
    assert is_nan(got, out)[ignored].all() or out in INTEGERS


@pytest.mark.parametrize(
    ("out", "want"),
    {
        "uint8": [45, 0xD3, 0, 0, 0, 0, 0],
        "int8": [45, 0xD3, 0, 0, 0, 0, 0],
        "int16": [301, 0xFED3, 0, 0, 0, 0, 0],
        "int32": [301, 0xFFFFFED3, *[0x80000000] * 5],
        "uint32": [301, 0xFFFFFED3, 3_000_000_000, 0, 0, 0, 0],
        "int64": [301, 2**64 - 301, 3_000_000_000, *[2**63] * 4],
        "uint64": [301, 2**64 - 301, 3_000_000_000, 0, 2**63, 0, 2**63],
    }.items(),
)
def test_numbers_beyond_an_integer(out: str, want: list[int]) -> None:
    """As torch has them on x86: modulo the width within int32 (or int64), a fixed number outside and for NaN."""
    values = np.array([301.5, -301.5, 3e9, 1e20, -1e20, np.inf, np.nan])
    got = cast_bits(values.view(np.uint64), "float64", out)
    assert [hex(each) for each in got] == [hex(each) for each in want]


def test_the_shape_is_kept() -> None:
    assert cast_bits(np.zeros((2, 3), np.uint16), "bfloat16", "float8_e5m2").shape == (2, 3)
    assert cast_bits(np.zeros((0, 3), np.uint16), "bfloat16", "int64").shape == (0, 3)
    for source, out in PAIRS:
        bits = np.array(1, f"uint{8 * getattr(torch, source).itemsize}")
        assert cast_bits(bits, source, out).shape == (), (source, out)
