"""The digests can fail: the next number for any coefficient or constant of `docs/stream.md` changes some bit."""

import numpy as np
import pytest

from tests.specification import (
    COEFFICIENTS,
    LONG,
    POLYNOMIALS,
    Law,
    Stream,
    bits,
    document,
    first_blocks,
    long_values,
    nudged,
    show,
    stream,
)


@pytest.mark.parametrize(("name", "k"), COEFFICIENTS)
def test_one_ulp_of_a_coefficient_is_noticed(name: str, k: int) -> None:
    """Section 10.5: the long digests notice the next `f32` above any one coefficient. So the digests here can fail."""
    law = {"kind": "normal", "mean": 0.0, "std": 1.0}
    if name in ("CENTRAL", "TAIL"):
        law = {"kind": "truncated_normal", "mean": 0.0, "std": 0.02, "low": -1e30, "high": 1e30}
    changed = Stream(nudged(document(), name, k))
    differ = [
        n for n in POLYNOMIALS for a, b in zip(changed.polynomials[n], stream().polynomials[n], strict=True) if a != b
    ]
    assert differ == [name]
    want = long_values(*law.items())
    for start in range(0, LONG, 2**15):
        words = first_blocks(LONG)[start // 4 : (start + 2**15) // 4]
        got = changed.values(law, words).ravel()
        if (got.view(np.int32) != want[start : start + 2**15].view(np.int32)).any():
            return
    pytest.fail(f"{name}[{k}] one ulp higher, {show(changed.polynomials[name][k])}: no bit of {LONG} elements changes")


NORMAL: Law = {"kind": "normal", "mean": 0.5, "std": 0.02}
TRUNCATED: Law = {"kind": "truncated_normal", "mean": 0.0, "std": 0.02, "low": -1e30, "high": 1e30}


@pytest.mark.parametrize(
    ("formula", "place", "law"),
    [
        ("p0 = u64(#) * u64(c0)", 0, NORMAL),
        ("p1 = u64(#) * u64(c2)", 0, NORMAL),
        ("k0 = k0 + #", 0, NORMAL),
        ("k1 = k1 + #", 0, NORMAL),
        ("sub(float((m & #) | #), #)", 2, NORMAL),
        ("mul(convert(m & #), #)", 1, NORMAL),
        ("min(bits(f) - #, #)", 0, NORMAL),
        ("min(bits(f) - #, #)", 1, NORMAL),
        ("float(# + ((-bits(x)) >> #))", 0, NORMAL),
        ("bits(mul(mul(q, #), sub(#, q))) - #", 2, TRUNCATED),
    ],
)
def test_next_number_for_a_constant_is_noticed(formula: str, place: int, law: Law) -> None:
    words = first_blocks(2**12)
    key, want = stream().key(0, "w", 0), stream().values(law, words)
    changed, numbers = Stream(document()), list(stream().read(formula))
    above = float(np.nextafter(np.float32(numbers[place]), np.float32(np.inf)))
    numbers[place] = above if isinstance(numbers[place], float) else numbers[place] + 1
    changed.read = lambda asked: tuple(numbers) if asked == formula else stream().read(asked)
    got = changed.values(law, changed.words(key, np.arange(len(words))))
    assert (bits(got) != bits(want)).any(), f"{formula} with {numbers}: no bit of {got.size} elements changes"
