"""Words: the published known answers pin the reference, the reference pins the kernel's own Philox, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam.stream.reference.philox import Words, block_words, philox4x32

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from tritonparam.kernels.philox import _philox  # noqa: E402

KNOWN_ANSWERS = Path(__file__).parents[2] / "data" / "philox4x32_kat.txt"
BLOCKS = 16


def known_answers() -> list[tuple[int, list[int], list[int], list[int]]]:
    """(rounds, counter, key, output) of every line."""
    found = []
    for line in KNOWN_ANSWERS.read_text().splitlines():
        if line and not line.startswith("#"):
            _, rounds, *words = line.split()
            values = [int(word, 16) for word in words]
            found.append((int(rounds), values[:4], values[4:6], values[6:]))
    return found


@pytest.mark.parametrize(("rounds", "counter", "key", "want"), known_answers())
def test_published_known_answers(rounds: int, counter: list[int], key: list[int], want: list[int]) -> None:
    """Random123's own vectors; its 10-round ones are those of `tl.philox` and of torch's CUDA generator too."""
    words = tuple(np.array([word], np.uint32) for word in counter)
    got = philox4x32(words, key[0] | key[1] << 32, rounds)  # type: ignore[arg-type]
    assert [hex(word) for word in got[0]] == [hex(word) for word in want]


def test_the_known_answers_are_those_of_seven_and_ten_rounds() -> None:
    assert sorted(rounds for rounds, *_ in known_answers()) == [7, 7, 7, 10, 10, 10]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**62 - 1))
def test_words_of_a_block_are_those_of_its_64_bit_counter(key: int, block: int) -> None:
    counter = tuple(np.array([half], np.uint32) for half in (block & 0xFFFFFFFF, block >> 32, 0, 0))
    want = philox4x32(counter, key)  # type: ignore[arg-type]
    np.testing.assert_array_equal(block_words(key, np.array([block])), want)


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
