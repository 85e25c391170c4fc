"""Every compiled loop gives the bits of the definition: words, values and roundings, interesting inputs and many."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from tritonparam import Law, Normal, TruncatedNormal, Uniform
from tritonparam.stream.loops import layout
from tritonparam.stream.loops.library import LOOPS, caller
from tritonparam.stream.loops.table import maker_of
from tritonparam.stream.lowering import lower_normal, lower_truncated_normal, lower_uniform
from tritonparam.stream.reference.philox import block_words
from tritonparam.stream.reference.rounding import RANDOM_DTYPES, round_bits
from tritonparam.stream.reference.transforms import normal, truncated_normal, uniform

BATCH = layout.BATCH
LAWS = [
    Uniform(low=-0.07, high=0.07),
    Uniform(low=0.0, high=1e-44),
    Uniform(low=-(2.0**126), high=2.0**126),
    Normal(mean=0.1, std=0.02),
    Normal(mean=0.0, std=1e-43),
    Normal(mean=0.0, std=5e37),
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
    TruncatedNormal(mean=0.0, std=1.0, low=-9.0, high=float("inf")),
    TruncatedNormal(mean=0.0, std=1.0, low=1.0, high=2.0),  # all above the mean
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=-1.0),  # all below
    TruncatedNormal(mean=0.0, std=1.0, low=-float("inf"), high=0.0),
    TruncatedNormal(mean=0.0, std=1e-44, low=-1.0, high=1.0),
]
EDGES = [0, 1, 2, 3, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1, *(2**n for n in range(2, 31)), 3 * 2**30]


def words_of_interest() -> np.ndarray:
    """uint32 of shape [n, 4], each position with edges and many others."""
    edges = np.array(EDGES, np.uint32)
    random = block_words(7, np.arange(2000))
    pairs = np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2)
    return np.concatenate([np.concatenate([pairs, pairs[::-1]], 1), random])


def reference_values(law: Law, words: np.ndarray) -> np.ndarray:
    if isinstance(law, Uniform):
        return uniform(words, lower_uniform(law))
    if isinstance(law, Normal):
        return normal(words, lower_normal(law))
    return truncated_normal(words, lower_truncated_normal(law))


@pytest.mark.parametrize("key", [0, 1, 0x9E3779B97F4A7C15, 2**64 - 1])
@pytest.mark.parametrize("first", [0, 2**32 - 100, 2**32, 2**61 - BATCH])
@pytest.mark.parametrize("count", [1, 7, BATCH])
def test_words(key: int, first: int, count: int) -> None:
    blocks = np.arange(first, first + count, dtype=np.int64)
    out = np.full(2 * layout.ODD // 4, 0x5A5A5A5A, np.uint32)
    caller("words")(blocks.ctypes.data, key if key < 2**63 else key - 2**64, out.ctypes.data, count)
    even, odd = out.reshape(2, -1)
    np.testing.assert_array_equal(np.stack([even, odd], 1)[: 2 * count], block_words(key, blocks).reshape(-1, 2))
    assert (even[2 * count :] == 0x5A5A5A5A).all()
    assert (odd[2 * count :] == 0x5A5A5A5A).all()


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_values(law: Law) -> None:
    words = words_of_interest()
    maker = maker_of(law, "float32")
    parameters = np.array(maker.parameters, np.uint64)
    name = law.kind
    if isinstance(law, TruncatedNormal) and lower_truncated_normal(law).has_tail:
        name += "_with_tail"
    got = []
    for start in range(0, len(words), BATCH):
        batch = words[start : start + BATCH].reshape(-1, 2)
        halves = np.zeros((2, layout.ODD // 4), np.uint32)
        halves[:, : len(batch)] = batch.T
        out = np.full(2 * len(batch), np.nan, np.float32)
        caller(name)(halves.ctypes.data, parameters.ctypes.data, out.ctypes.data, len(batch))
        got.append(out.view(np.uint32).reshape(-1, 4))
    want = reference_values(law, words).view(np.uint32)
    differ = np.argwhere(np.concatenate(got) != want)
    lines = [f"{words[i]} [{j}]: got {np.concatenate(got)[i, j]:#x}, want {want[i, j]:#x}" for i, j in differ[:5]]
    assert not len(differ), "\n".join(lines)


ROUNDED = [dtype for dtype in RANDOM_DTYPES if dtype != "float32"]


@pytest.mark.parametrize("dtype", ROUNDED)
def test_rounding(dtype: str) -> None:
    """Every upper half of a float32, with all that lies near a tie below it; no NaN."""
    halves = np.arange(2**16, dtype=np.uint32)[:, None] << np.uint32(16)
    lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x3000]
    bits = (halves | np.array(lower, np.uint32)).reshape(-1)
    x = bits[(bits & 0x7FFFFFFF) <= 0x7F800000].view(np.float32)
    want = round_bits(x, dtype)
    out = np.full(len(x) + 1, 0x5A, want.dtype)
    caller(f"{dtype}_bits")(x.ctypes.data, 0, out.ctypes.data, len(x))
    assert out[-1] == 0x5A
    out = out[:-1]
    differ = np.nonzero(out != want)[0]
    lines = [f"{x[i]!r}: got {out[i]:#x}, want {want[i]:#x}" for i in differ[:5]]
    assert not len(differ), "\n".join(lines)


def test_every_loop_is_tested_here() -> None:
    tested = {"words", "uniform", "normal", "truncated_normal", "truncated_normal_with_tail"}
    assert tested | {f"{dtype}_bits" for dtype in ROUNDED} | {"boxes", "sums"} == set(LOOPS)
    kinds = {law.kind + "_with_tail" * lower_truncated_normal(law).has_tail for law in LAWS if "truncated" in law.kind}
    assert kinds == {"truncated_normal", "truncated_normal_with_tail"}
