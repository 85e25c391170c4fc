"""Words: the published known answers pin the reference, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonparam.stream.reference.philox import block_words, philox4x32

KNOWN_ANSWERS = Path(__file__).parents[2] / "data" / "philox4x32_kat.txt"


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
