"""torch's stateless generator has the words of the stream, in the releases of torch that have one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tritonparam import derive_key
from tritonparam.stream.reference.philox import block_words

random = pytest.importorskip("torch.func._random", reason="needs a torch with a stateless generator (2.14)")
KEYS = (0, 1, 2**64 - 1, derive_key(0, "w"))
SIZES = (1, 3, 4, 1001)


def words(key: int, size: int) -> np.ndarray:
    return block_words(key, np.arange(-(-size // 4))).reshape(-1)[:size]


def drawn(name: str, key: int, out: torch.Tensor) -> np.ndarray:
    """What torch's function of this name fills `out` with, on the CPU; skips where this torch cannot."""
    if not hasattr(random, name):
        pytest.skip(f"needs torch.func._random.{name}, which torch {torch.__version__} has not")
    try:
        getattr(random, name)(torch.from_numpy(np.array([key, 0], np.uint64)), out)
    except NotImplementedError:
        pytest.skip(f"needs torch.func._random.{name} on a CPU, where torch {torch.__version__} has it not")
    return out.numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_words_are_those_of_the_stream(key: int, size: int) -> None:
    """`bits_` gives the words themselves (torch 2.15)."""
    got = drawn("bits_", key, torch.empty(size, dtype=torch.uint32))
    np.testing.assert_array_equal(got, words(key, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_uniforms_are_the_low_24_bits_of_the_words(key: int, size: int) -> None:
    """`uniform_` in float32 (torch 2.14)."""
    got = drawn("uniform_", key, torch.empty(size))
    want = (words(key, size) & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)
    np.testing.assert_array_equal(got, want)
