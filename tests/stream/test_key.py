"""Keys: 64 bits that depend on seed, name and occurrence, by the byte layout of docs/stream.md, section 1."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonparam import derive_key
from tritonparam.stream import derive_keys

SEEDS = st.integers(0, 2**64 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(SEEDS, NAMES, SEEDS)
def test_key_is_the_documented_hash(seed: int, name: str, occurrence: int) -> None:
    message = b"tritonparam.v1" + seed.to_bytes(8, "little") + occurrence.to_bytes(8, "little") + name.encode()
    want = int.from_bytes(hashlib.blake2b(message, digest_size=8).digest(), "little")
    assert derive_key(seed, name, occurrence) == want


def test_no_two_of_many_keys_agree() -> None:
    """Among 200,000 independent 64-bit keys, two agree with a probability of 1.1e-9."""
    keys = {
        derive_key(seed, f"layers.{layer}.weight", occurrence)
        for seed in range(50)
        for layer in range(1000)
        for occurrence in range(4)
    }
    assert len(keys) == 200_000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, "w"), ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ((2**64, "w"), ValueError, "seed must be in"),
        ((0, "w", -1), ValueError, "occurrence must be in"),
        ((1.5, "w"), TypeError, "seed must be an int, got 1.5 of type float"),
        ((True, "w"), TypeError, "seed must be an int, got True of type bool"),
        ((0, "w", False), TypeError, "occurrence must be an int, got False of type bool"),
        (("0", "w"), TypeError, "seed must be an int"),
        ((0, b"w"), TypeError, "name must be a string, got b'w' of type bytes"),
        ((0, "\ud800"), ValueError, "name must be encodable as UTF-8"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        derive_key(*arguments)


@given(SEEDS, st.lists(st.tuples(NAMES, st.sampled_from([0, 1, 2**64 - 1])), max_size=9))
def test_keys_of_many_are_the_keys_of_each(seed: int, tensors: list[tuple[str, int]]) -> None:
    names, occurrences = [name for name, _ in tensors], [occurrence for _, occurrence in tensors]
    got = derive_keys(seed, names, occurrences)
    assert got.dtype == "uint64"
    assert got.tolist() == [derive_key(seed, *tensor) for tensor in tensors]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, ["w"], [0]), ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ((0, ["v", "w"], [1, True]), TypeError, "occurrence must be an int, got True"),
        ((0, ["v", "w"], [1, 1.0]), TypeError, "occurrence must be an int, got 1.0"),
        ((0, ["w"], [2**64]), ValueError, "occurrence must be in"),
        ((0, ["v", b"w"], [0, 0]), TypeError, "name must be a string, got b'w'"),
        ((0, ["\ud800"], [0]), ValueError, "name must be encodable as UTF-8"),
        ((0, ["v", "w"], [0]), ValueError, "occurrences must be as many as the 2 names, got 1"),
    ],
)
def test_bad_arguments_among_many_are_named(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        derive_keys(*arguments)
