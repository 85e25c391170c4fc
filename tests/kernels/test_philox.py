"""The kernel's own Philox makes the words that the reference makes, bit for bit, and so does Triton's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam.stream.reference.philox import Words, block_words

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from tritonparam.kernels.philox import _philox  # noqa: E402

BLOCKS = 16


@triton.jit
def _words_kernel(key_ptr, block_ptr, out_ptr, OWN: tl.constexpr, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    n = tl.arange(0, BLOCKS)
    block = tl.load(block_ptr + n)
    low = block.to(tl.uint32)
    high = (block >> 32).to(tl.uint32)
    if OWN:
        key = tl.load(key_ptr).to(tl.uint64, bitcast=True)
        w0, w1, w2, w3 = _philox(key.to(tl.uint32), (key >> 32).to(tl.uint32), low, high)
    else:
        zero = low * 0
        w0, w1, w2, w3 = tl.philox(tl.load(key_ptr).to(tl.uint64, bitcast=True), low, high, zero, zero)
    tl.store(out_ptr + 4 * n, w0.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * n + 1, w1.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * n + 2, w2.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 4 * n + 3, w3.to(tl.int32, bitcast=True))


def kernel_words(key: int, block: np.ndarray, device: torch.device, own: bool) -> Words:
    out = torch.full((BLOCKS, 4), -1, dtype=torch.int32, device=device)
    key_word = torch.from_numpy(np.array([key], np.uint64).view(np.int64)).to(device)
    _words_kernel[(1,)](key_word, torch.from_numpy(block).to(device), out, OWN=own, BLOCKS=BLOCKS)
    return out.cpu().numpy().view(np.uint32)


@pytest.mark.parametrize("own", [True, False], ids=["ours", "tl.philox"])
@settings(max_examples=25, deadline=None)
@given(key=st.integers(0, 2**64 - 1), first=st.integers(0, 2**62 - BLOCKS))
def test_kernels_make_the_same_words(own: bool, key: int, first: int) -> None:
    """Ours, in fewer instructions, and Triton's, which is an oracle of its own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = first + np.arange(BLOCKS)
    np.testing.assert_array_equal(kernel_words(key, block, device, own), block_words(key, block))
