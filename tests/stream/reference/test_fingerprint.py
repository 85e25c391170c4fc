"""The definition of the sums of fingerprints: what must change them does, and the sums of boxes add up."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam.stream import fingerprint_digest, fingerprint_key, fingerprint_total
from tritonparam.stream.reference.fingerprint import BLOCK_WORDS, block_factors, box_sums, column_factors

WIDTHS = st.sampled_from([1, 2, 4, 8, 16])


def whole(elements: np.ndarray, key: int = 7) -> tuple[int, int]:
    return box_sums(key, elements, (len(elements),), (0,), (len(elements),))


def content(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, width), dtype=np.uint8)


def added(parts: list[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*parts, strict=True)
    return sum(first) % 2**64, sum(second) % 2**64


def test_factors_are_odd_and_of_columns_no_two_pairs_are_in_one_ratio() -> None:
    """So a change of one word is always seen, and one of two words of a block unless both sums wrap at once."""
    columns = column_factors()
    assert columns.shape == (2, BLOCK_WORDS)
    assert (columns % 2 == 1).all()
    assert columns.max() < 2**32
    first, second = ([int(each) for each in row] for row in columns)
    ratios = {(a // math.gcd(a, b), b // math.gcd(a, b)) for a, b in zip(first, second, strict=True)}
    assert len(ratios) == BLOCK_WORDS
    blocks = block_factors(7, np.array([0, 1, 2**32, 2**53]))
    assert (blocks % 2 == 1).all()
    assert len({*blocks.reshape(-1).tolist()}) == 8


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_the_sums_as_they_are_written_down(width: int) -> None:
    """Word for word in ints, over more than two blocks."""
    elements = content(3, 9000 // width, width)
    words = np.frombuffer(elements.tobytes() + b"\0" * (-elements.size % 4), "<u4").tolist()
    blocks, columns = block_factors(9, np.arange(3)).tolist(), column_factors().tolist()
    want = tuple(
        sum(w * columns[n][j % 1024] * blocks[n][j // 1024] for j, w in enumerate(words)) % 2**64 for n in (0, 1)
    )
    assert whole(elements, 9) == want


@settings(max_examples=60, deadline=None)
@given(width=WIDTHS, shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_boxes_add_up_to_the_whole(width: int, shape: list[int], data: st.DataObject) -> None:
    """However a tensor is cut along each of its dimensions."""
    elements = content(1, math.prod(shape), width).reshape(*shape, width)
    cuts = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    parts = []
    for spans in itertools.product(*[list(itertools.pairwise(cut)) for cut in cuts]):
        box = elements[tuple(slice(*span) for span in spans)]
        offsets, sizes = [start for start, _ in spans], [stop - start for start, stop in spans]
        parts.append(box_sums(7, box.reshape(-1, width), shape, offsets, sizes))
    assert added(parts) == whole(elements.reshape(-1, width))


@settings(max_examples=60, deadline=None)
@given(width=WIDTHS, bit=st.integers(0, 2**20), count=st.integers(1, 3000), seed=st.integers(0, 9))
def test_a_bit_that_flips_is_seen_in_both_sums(width: int, bit: int, count: int, seed: int) -> None:
    elements = content(seed, count, width)
    flipped = elements.copy()
    bit %= elements.size * 8
    flipped.reshape(-1)[bit // 8] ^= np.uint8(1 << bit % 8)
    assert all(a != b for a, b in zip(whole(elements), whole(flipped), strict=True))


@settings(max_examples=60, deadline=None)
@given(width=WIDTHS, count=st.integers(2, 5000), places=st.tuples(st.integers(0, 4999), st.integers(0, 4999)))
def test_elements_that_are_swapped_are_seen(width: int, count: int, places: tuple[int, int]) -> None:
    elements = content(2, count, width)
    one, other = (each % count for each in places)
    swapped = elements.copy()
    swapped[[one, other]] = swapped[[other, one]]
    assert (whole(swapped) == whole(elements)) == bool((elements[one] == elements[other]).all())


def test_structured_changes_are_seen() -> None:
    """Rows and columns exchanged, of equal sums too; all signs flipped; shifts; a constant added to every bit."""
    rows = np.tile(np.arange(64, dtype="<f4"), (64, 1)).view(np.uint8).reshape(64, 64, 4)
    turned = rows.copy()
    turned[1] = rows[1][::-1]  # a row of the same elements in another order
    kinds = {
        "as it is": turned,
        "rows": turned[[1, 0, *range(2, 64)]],
        "columns": turned[:, [1, 0, *range(2, 64)]],
        "transposed": turned.transpose(1, 0, 2),
        "signs": turned ^ np.array([0, 0, 0, 128], np.uint8),
        "two signs": np.where((np.arange(64) < 2)[:, None, None], turned ^ np.array([0, 0, 0, 128], np.uint8), turned),
        "shifted by a row": np.roll(turned, 1, axis=0),
        "shifted": np.roll(turned.reshape(-1, 4), 1, axis=0),
        "shifted by a byte": np.roll(turned.reshape(-1), 1),
        "zeros": turned * np.uint8(0),
    }
    assert len({whole(np.ascontiguousarray(each).reshape(-1, 4)) for each in kinds.values()}) == len(kinds)


def test_blocks_that_are_exchanged_are_seen() -> None:
    elements = content(5, 4 * BLOCK_WORDS, 4).reshape(4, BLOCK_WORDS, 4)
    orders = list(itertools.permutations(range(4)))
    assert len({whole(elements[list(order)].reshape(-1, 4)) for order in orders}) == len(orders)


def test_indices_beyond_32_bits() -> None:
    """A box far inside a huge tensor has the sums of its place, and of no other."""
    elements, shape = content(4, 6, 2), (2**31, 2**31)
    found = {
        box_sums(7, elements, shape, offsets, (2, 3))
        for offsets in [(0, 0), (1, 0), (2**30, 2**30), (2**30 + 2**20, 2**30), (2**31 - 2, 2**31 - 3), (0, 2**31 - 3)]
    }
    assert len(found) == 6


def test_the_key_and_the_digest_depend_on_all_that_they_say() -> None:
    assert len({fingerprint_key(name) for name in ("a", "b", "", "ab", "ä")}) == 5
    digests = {
        fingerprint_digest("a", "float32", (2, 3), (1, 2)),
        fingerprint_digest("b", "float32", (2, 3), (1, 2)),
        fingerprint_digest("a", "int32", (2, 3), (1, 2)),
        fingerprint_digest("a", "float32", (3, 2), (1, 2)),
        fingerprint_digest("a", "float32", (6,), (1, 2)),
        fingerprint_digest("a", "float32", (2, 3, 1), (2,) * 2),
        fingerprint_digest("a", "float32", (2, 3), (2, 1)),
        fingerprint_digest("af", "loat32", (2, 3), (1, 2)),
        fingerprint_digest("a", "float32", (2,), (3, 1)),
    }
    assert len(digests) == 9


def test_a_total_is_a_sum_of_128_bits() -> None:
    assert fingerprint_total([]) == "0" * 32
    assert fingerprint_total(["f" * 32, "0" * 31 + "2"]) == "0" * 31 + "1"
    assert fingerprint_total(iter(["0" * 31 + "2", "f" * 32])) == "0" * 31 + "1"


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: fingerprint_key(3), TypeError, "name must be a string, got 3"),
        (lambda: fingerprint_key("\ud800"), ValueError, "name must be encodable as UTF-8"),
        (lambda: fingerprint_digest("a", "float32", (1,), (1,)), ValueError, "sums must be two ints"),
        (lambda: fingerprint_digest("a", "float32", (1,), (1, 2**64)), ValueError, "sums must be two ints"),
        (lambda: fingerprint_digest("a", "float32", (-1,), (1, 2)), ValueError, "shape must hold ints"),
        (lambda: fingerprint_total([1]), TypeError, "digests must be strings, got 1"),
        (lambda: fingerprint_total(["F" * 32]), ValueError, "digests must be 32 hexadecimal digits"),
        (lambda: fingerprint_total(["0" * 31]), ValueError, "digests must be 32 hexadecimal digits"),
    ],
)
def test_what_is_wrong_is_refused(act: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        act()  # type: ignore[operator]
