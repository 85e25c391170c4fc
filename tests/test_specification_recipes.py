"""The recipes of sections 3.2 and 9 of `docs/stream.md`, fma and rounding, give what the document means by them."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.specification import F32, Array, Law, bits, document, fma, nearest, number, show, stream, tables


def hard_cases(n: int) -> Iterator[tuple[np.float32, np.float32, np.float32]]:
    """Operands of fma: any bits, cancellation, subnormal sums, and sums a hair beside halfway between two float32."""
    rng = np.random.default_rng(1)
    for k in range(n):
        a, b = (rng.integers(2**23, 2**24) * (-1) ** rng.integers(2) for _ in range(2))
        c = rng.integers(0, 2**31 - 2**24, 1, np.uint32).view(np.float32)[0]
        if k % 4 == 0:
            a, b = rng.integers(0, 2**31 - 2**24, 2, np.uint32).view(np.float32) * np.float32(-1) ** (k // 4 % 2)
        elif k % 4 == 1:
            c = -float(a * b) * (1 + 2.0 ** -rng.integers(20, 40))
        elif k % 4 == 2:
            a, b = (float(x) * 2.0 ** -rng.integers(84, 98) for x in (a, b))
            c = float(rng.integers(0, 2**24)) * 2.0**-149
        else:
            # 1 - 2**-2j or 1 + 2**-3j, times half an ulp of c: float64 takes the sum for a tie.
            j = int(rng.integers(15, 23) if k // 4 % 2 else rng.integers(11, 13))
            a, b = 1 + 2.0**-j, 1 - 2.0**-j + (0 if j > 12 else 2.0 ** (-2 * j))
            ulp = int(rng.choice([-149, rng.integers(-148, 100)]))
            a, b = a * 2.0 ** (ulp // 2), b * (-1) ** rng.integers(2) * 2.0 ** (ulp - ulp // 2 - 1)
            c = float(rng.integers(2**22 if ulp == -149 else 2**23, 2**24) * (-1) ** rng.integers(2)) * 2.0**ulp
        yield np.float32(a), np.float32(b), np.float32(c)


def recipe_fma(a: Any, b: Any, c: Any) -> F32:
    """Section 3.2, as it is written."""
    p, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    s = p + c
    t = s - p
    err = (p - (s - t)) + (c - t)
    n = s.view(np.int64)
    change = np.where(np.signbit(err) == np.signbit(s), 1, -1)
    s = np.where((err != 0) & (n & 1 == 0), n + change, n).view(np.float64)
    with np.errstate(over="ignore"):
        return s.astype(np.float32)


def test_fma_is_exact() -> None:
    cases = list(hard_cases(8000))
    a, b, c = (np.array(x, np.float32) for x in zip(*cases, strict=True))
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in cases]
    want = np.array([nearest(x) for x in exact], np.float32)
    nonzero = np.array([x != 0 for x in exact])
    assert sum(x != 0 and abs(x) < Fraction(2) ** -126 for x in exact) > 500
    with np.errstate(over="ignore"):
        twice = (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
    assert (twice != want).sum() > 100, "few cases that rounding twice gets wrong"
    for name, function in {"fma": fma, "recipe of section 3.2": recipe_fma}.items():
        got = function(a, b, c)
        bad = np.flatnonzero((got.view(np.int32) != want.view(np.int32)) & nonzero)
        assert not len(bad), f"{name}{[*map(show, cases[bad[0]])]}: got {show(got[bad[0]])}, want {show(want[bad[0]])}"


def recipe_round(x: F32, exponent_width: int, mantissa_width: int, max_code: int, limit: int | None = None) -> Array:
    """Section 9, as it is written, or with another limit of `shift`."""
    read = stream().read
    n = bits(x)
    bias = 2 ** (exponent_width - 1) - 1
    magnitude = n & read("magnitude = bits(x) & #")[0]
    place, least = read("exponent = max(magnitude >> #, #)")
    fraction, implicit, _, subnormal = read("(magnitude & #) + (# if (magnitude >> #) > 0 else #)")
    exponent = np.maximum(magnitude >> place, least)
    significand = (magnitude & fraction) + np.where((magnitude >> place) > 0, implicit, subnormal)
    unbounded = exponent - read("unbounded = exponent - # + bias")[0] + bias
    target = np.maximum(unbounded, read("target = max(unbounded, #)")[0])
    width, most = read("shift = min(# - M + target - unbounded, #)")
    shift = np.minimum(width - mantissa_width + target - unbounded, most if limit is None else limit)
    kept, rest, half = significand >> shift, significand & (2**shift - 1), 2 ** (shift - 1)
    kept = kept + ((rest > half) | ((rest == half) & (kept % 2 == 1)))
    code = np.minimum(((target - 1) << mantissa_width) + kept, max_code)
    return ((n < 0) << (exponent_width + mantissa_width)) | code


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_recipe_of_rounding(dtype: str) -> None:
    (row,) = [row for row in tables(document(), "9")[0] if row[0] == dtype]
    form = stream().formats[dtype]
    edges = np.concatenate([form.numbers, form.halves])
    edges = edges[edges < 2.0**128].astype(np.float32)
    sides = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))]
    random = np.random.default_rng(1).integers(0, 0x7F800001, 10000, np.uint32).view(np.float32)
    x = np.concatenate([*sides, random])
    x = np.concatenate([x, -x])
    want = form.round(x)
    for limit in (None, 25, 40):  # any from 25 on, the section says
        got = recipe_round(x, int(row[1]), int(row[2]), number(row[4]), limit)
        bad = np.flatnonzero(got != want)
        assert not len(bad), f"{dtype} of {show(x[bad[0]])}: got {got[bad[0]]:#x}, want {want[bad[0]]:#x}"


def test_overflow() -> None:
    assert stream().read("FLT_MAX is #.") == (float(np.finfo(np.float32).max),)
    e5m2, half = stream().read("an e5m2 becomes infinity from # on, a float16 from # on")
    want = {"float8_e5m2": e5m2, "float16": half}
    got = {dtype: float(stream().formats[dtype].halves[-1]) for dtype in want}
    assert got == want


def masses(law: Law, bits: int) -> dict[str, Any]:
    """scale, below, above and split of section 4.3 from an `erfc` of so many bits, the three exact cases by hand."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workprec(bits):

        def tail(bound: float, sign: int) -> Any:
            x = sign * (Fraction(bound) - Fraction(law["mean"])) / Fraction(law["std"])
            return mpmath.erfc(mpmath.mpf(x.numerator) / x.denominator / mpmath.sqrt(2)) / 2

        below, above = tail(law["low"], -1), tail(law["high"], 1)
        is_above, is_below = law["low"] >= law["mean"], law["high"] <= law["mean"]
        mass = tail(law["low"], 1) - above if is_above else tail(law["high"], -1) - below if is_below else 1
        mass = mass if is_above or is_below else mass - below - above
        split = int(mpmath.floor((mpmath.mpf(0.5) - below) / mass * 2**32))
    split = 0 if is_above else 2**32 if is_below else split
    scaled = {"scale": (mass, 2**32), "below": (below, 1), "above": (above, 1)}
    rounded = {name: nearest(int(x.man) * Fraction(2) ** int(x.exp) / by) for name, (x, by) in scaled.items()}
    return rounded | {"split": split}


def test_an_erfc_of_200_bits_gives_the_same_parameters() -> None:
    """Section 4.3 says so of the laws that were tried, and that the one of `f64` is too little: these are they."""
    rng = np.random.default_rng(1)
    too_little = 0
    for _ in range(400):
        low = round(float(rng.uniform(-3, 3)), 2)
        high = low + float(rng.choice([1, 1e-3, 1e-6, 1e-9])) * float(rng.uniform(0.1, 1))
        law = {"kind": "truncated_normal", "mean": 0.0, "std": 1.0, "low": low, "high": high}
        parameters = stream().parameters(law)
        want = {name: parameters[name] for name in ("scale", "below", "above", "split")}
        assert masses(law, 200) == want, law
        too_little += masses(law, 53) != want
    assert too_little
