"""`docs/stream.md` is complete and right: a second implementation, made from it alone, meets every golden digest.

It shares nothing with the package, not even an import; `test_golden.py` holds the code to the same digests. Its
coefficients, constants, formats and known answers are read out of the document by their names and formulas, so a digit
that drifts there, or a formula that is written differently, is red here. Not held: prose, what is an error, NaN.

Where the document has a meaning and a recipe, the meaning is computed: fma with fractions wherever `f64` leaves a
doubt, parameters with fractions, masses with mpmath's `erfc`, narrow dtypes by a search among all numbers of the
format. The recipes of sections 3.2 and 9 are then held against that.
"""

import csv
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

DATA = Path(__file__).parent / "data"
DOCUMENT = Path(__file__).parents[1] / "docs" / "stream.md"
LONG = 2**20
POLYNOMIALS = ("LOG", "RSQRT", "COS", "SIN", "CENTRAL", "TAIL")
COEFFICIENTS = [(n, k) for n, d in zip(POLYNOMIALS, (7, 4, 3, 3, 9, 7), strict=True) for k in range(d + 1)]
HEX_FLOAT = r"-?0x[01](?:\.[0-9a-f]+)?p[+-]\d+"
NUMBER = rf"{HEX_FLOAT}|-?0x[0-9A-Fa-f]+|-?\d+(?:\.\d+)?"

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
Law = dict[str, Any]


def number(text: str) -> Any:
    """An int, float or bool as the document writes it: `0x1.8p+1`, `0x4F000001`, `2**32 + 5`, `-0.07`, `true`."""
    text = text.strip().strip("`")
    if text in ("true", "false", "yes", "no"):
        return text in ("true", "yes")
    if power := re.fullmatch(r"(\d+)\*\*(\d+)(?: ([+-]) (\d+))?", text):
        base, exponent, sign, rest = power.groups()
        return int(base) ** int(exponent) + int((sign or "") + (rest or "0"))
    if re.fullmatch(HEX_FLOAT, text):
        return float.fromhex(text)
    return int(text, 0) if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", text) else float(text)


def tables(text: str, section: str) -> list[list[list[str]]]:
    """The tables of one section: cells by row, the header first."""
    _, found, body = text.partition(f"\n### {section} " if "." in section else f"\n## {section}. ")
    assert found, f"no section {section} in {DOCUMENT.name}"
    body = re.split(r"\n##+ ", body)[0]
    blocks = re.findall(r"(?:^\|.*\n?)+", body, re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in b.splitlines()] for b in blocks]
    return [[r for k, r in enumerate(table) if k != 1] for table in rows]


def definition(text: str, name: str) -> re.Match[str]:
    found = list(re.finditer(rf"^    {name} *=((?:\s+{HEX_FLOAT})+)$", text, re.MULTILINE))
    assert len(found) == 1, f"{len(found)} definitions of {name} in {DOCUMENT.name}"
    return found[0]


def nudged(text: str, name: str, k: int) -> str:
    """The document with coefficient k of a polynomial one ulp higher."""
    found = definition(text, name)
    start, end = [m.span() for m in re.finditer(HEX_FLOAT, text[found.start() : found.end()])][k]
    start, end = found.start() + start, found.start() + end
    above = np.nextafter(np.float32(float.fromhex(text[start:end])), np.float32(np.inf))
    return text[:start] + re.sub(r"0+p", "p", float(above).hex()).replace(".p", "p") + text[end:]


def bits(x: Any) -> Array:
    """float32 as int32, held in int64 so that sums do not wrap unless `wrap` is called."""
    return np.asarray(x, np.float32).view(np.int32).astype(np.int64)


def wrap(n: Any) -> Array:
    return (np.asarray(n, np.int64) + 2**31) % 2**32 - 2**31


def from_bits(n: Any) -> F32:
    return wrap(n).astype(np.int32).view(np.float32)


def convert(n: Any) -> F32:
    return np.asarray(n, np.int64).astype(np.float64).astype(np.float32)


def nearest(x: Fraction) -> float:
    """The float32 nearest to a rational number, ties to even, in integers."""
    if x == 0:
        return 0.0
    top = abs(x.numerator).bit_length() - x.denominator.bit_length()
    quantum = Fraction(2) ** (max(top - (abs(x) < Fraction(2) ** top), -126) - 23)
    rounded = round(x / quantum) * quantum
    if abs(rounded) >= 2**128:
        return float("inf") if x > 0 else -float("inf")
    return float(rounded) if rounded else -0.0 if x < 0 else 0.0


def fma(a: Any, b: Any, c: Any) -> F32:
    """a * b + c rounded once: in float64 where that is safe, else with fractions.

    The product is exact in float64. The float64 nearest to the sum rounds as the sum does, unless it is inexact and
    halfway between two float32; the subnormal ones, where halfway is elsewhere, are all left to the fractions.
    """
    a, b, c = (np.asarray(x, np.float32).astype(np.float64) for x in (a, b, c))
    product = a * b
    total = np.asarray(product + c)
    with np.errstate(over="ignore"):
        result = np.asarray(total.astype(np.float32))
    doubt = ((total.view(np.int64) & 0x1FFFFFFF) == 0x10000000) | ((np.abs(total) < 2.0**-126) & (total != 0))
    if doubt.any():
        doubt &= ~((total - product == c) & (total - c == product)) | (np.abs(total) < 2.0**-126)
        for at in zip(*np.nonzero(doubt), strict=True) if doubt.ndim else [()] * bool(doubt):
            exact = [Fraction(float(np.broadcast_to(x, total.shape)[at])) for x in (a, b, c)]
            result[at] = nearest(exact[0] * exact[1] + exact[2])
    return result


def polynomial(x: F32, coefficients: F32) -> F32:
    p = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = fma(p, x, c)
    return p


class Format:
    """A narrow float format as the list of its numbers; a code is a place in that list."""

    def __init__(self, exponent: int, mantissa: int, top: str, max_code: int) -> None:
        self.sign = 1 << (exponent + mantissa)
        self.dtype = np.dtype("<u2" if exponent + mantissa > 7 else "u1")
        code = np.arange(max_code + 1)
        field, fraction = code >> mantissa, code & ((1 << mantissa) - 1)
        significand = np.where(field > 0, fraction + (1 << mantissa), fraction).astype(np.float64)
        self.numbers = np.ldexp(significand, np.maximum(field, 1) - (2 ** (exponent - 1) - 1) - mantissa)
        self.largest = float(self.numbers[-2 if top == "infinity" else -1])
        self.halves = (self.numbers[1:] + self.numbers[:-1]) / 2

    def round(self, x: F32) -> Array:
        magnitude = np.abs(x.astype(np.float64))
        low = np.searchsorted(self.halves, magnitude, "left")
        high = np.searchsorted(self.halves, magnitude, "right")
        code = np.where(low % 2 == 0, low, high)
        return np.where(np.signbit(x), code | self.sign, code).astype(self.dtype)


class Stream:
    """Stream v1 with the numbers of one text of the document."""

    def __init__(self, text: str) -> None:
        self.text = re.sub(r"[ \n]+", " ", text)
        self.polynomials = {
            name: np.array([float.fromhex(c) for c in definition(text, name)[1].split()], np.float32)
            for name in POLYNOMIALS
        }
        self.formats = {}
        for dtype, exponent, mantissa, top, max_code, largest in tables(text, "9")[0][1:]:
            self.formats[dtype] = Format(int(exponent), int(mantissa), top, number(max_code))
            got, wants = self.formats[dtype].largest, [number(x) for x in largest.split("=")]
            assert all(got == want for want in wants), f"largest {dtype}: got {got.hex()}, the document has {largest}"
        self.read = functools.cache(self.find)

    def find(self, formula: str) -> tuple[Any, ...]:
        """The numbers at the places # of a formula of the document, which must be there once or always the same."""
        found = set(re.findall(re.escape(formula).replace(r"\#", f"({NUMBER})"), self.text))
        assert len(found) == 1, f"formula {formula!r} of {DOCUMENT.name}: found {found}"
        groups = found.pop()
        return tuple(number(g) for g in ([groups] if isinstance(groups, str) else groups))

    def key(self, seed: int, name: str, occurrence: int) -> int:
        tag = re.findall(r'message = "([^"]*)" (\d+) bytes', self.text)
        assert [(text, int(size)) for text, size in tag] == [(tag[0][0], len(tag[0][0]))]
        message = tag[0][0].encode("ascii") + b"".join(n.to_bytes(8, "little") for n in (seed, occurrence))
        return int.from_bytes(hashlib.blake2b(message + name.encode(), digest_size=8).digest(), "little")

    def philox(self, counter: list[Array], key: list[int], rounds: int | None = None) -> list[Array]:
        mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
        factors = [np.uint64(self.read(f)[0]) for f in ("p0 = u64(#) * u64(c0)", "p1 = u64(#) * u64(c2)")]
        steps = [self.read(f)[0] for f in ("k0 = k0 + #", "k1 = k1 + #")]
        c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
        for n in range(self.read("repeat # times:")[0] if rounds is None else rounds):
            k0, k1 = (np.uint64((k + n * s) % 2**32) for k, s in zip(key, steps, strict=True))
            p0, p1 = factors[0] * c0, factors[1] * c2
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & mask, (p0 >> half) ^ c3 ^ k1, p0 & mask
        return [c0, c1, c2, c3]

    def words(self, key: int, block: Array) -> Array:
        """The words of blocks, int64 [blocks, 4]."""
        block = np.asarray(block, np.uint64)
        none = np.zeros_like(block)
        counter = [block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), none, none]
        return np.stack(self.philox(counter, [key % 2**32, key >> 32]), axis=-1).astype(np.int64)

    def fraction(self, m: Array) -> F32:
        mask, one, less = self.read("sub(float((m & #) | #), #)")
        return from_bits((m & mask) | one) - np.float32(less)

    def minus_two_log(self, m: Array, n: F32) -> F32:
        mask, scale = self.read("mul(convert(m & #), #)")
        octaves = convert(wrap(m & mask)) * np.float32(scale)
        return fma(n, polynomial(n, self.polynomials["LOG"]), octaves)

    def sqrt_parts(self, x: F32, coefficients: F32) -> tuple[F32, F32, F32, F32]:
        seed, shift = self.read("float(# + ((-bits(x)) >> #))")
        y = from_bits(seed + (wrap(-bits(x)) >> shift))
        g = x * y
        e = fma(g, y, *self.read("e = fma(g, y, #)"))
        return g, y, e, polynomial(e, coefficients)

    def uniform(self, word: Array, low: Any, scale: Any, cap: Any) -> dict[str, Array]:
        return {"value": np.minimum(fma(convert(word), scale, low), np.float32(cap))}

    def normal(self, radius_word: Array, angle_word: Array, mean: Any, radius: F32) -> dict[str, Array]:
        angle = wrap(angle_word)
        f = convert(wrap(radius_word)) + np.float32(self.read("add(convert(i32(radius_word)), #)")[0])
        less, most = self.read("min(bits(f) - #, #)")
        m = np.minimum(wrap(bits(f) - less), most)
        zero, scale = self.read("fma(min(f, #), #, fraction(m))")
        n = fma(np.minimum(f, np.float32(zero)), scale, self.fraction(m))
        w = self.minus_two_log(m, n)
        g, y, e, c = self.sqrt_parts(w, radius)
        r = from_bits(bits(g) + (angle_word << self.read("bits(g) + i32(angle_word << #)")[0])) * c
        x = convert(angle) * np.float32(self.read("mul(convert(i32(angle_word)), #)")[0])
        t = x * x
        cos, sin = (polynomial(t, self.polynomials[name]) for name in ("COS", "SIN"))
        near, far = fma(r, cos, mean), fma(r * x, sin, mean)
        swap = (angle_word & self.read("if angle_word & #:")[0]) != 0
        steps = {"f": f, "m": m, "n": n, "w": w, "y": y, "g": g, "e": e, "c": c, "r": r, "x": x, "t": t}
        steps |= {"COS": cos, "SIN": sin}
        return steps | {"first": np.where(swap, far, near), "second": np.where(swap, near, far)}

    def truncated_normal(
        self, word: Array, mean: Any, std: Any, low: Any, high: Any, scale: Any, below: Any, above: Any, split: int
    ) -> dict[str, Array]:
        is_below = word < split
        half = self.read("add(convert(word if is_below else ~word), #)")[0]
        f = convert(np.where(is_below, word, 2**32 - 1 - word)) + np.float32(half)
        q = fma(f, scale, np.where(is_below, np.float32(below), np.float32(above)))
        four, one, less = self.read("bits(mul(mul(q, #), sub(#, q))) - #")
        m = wrap(bits((q * np.float32(four)) * (np.float32(one) - q)) - less)
        w = self.minus_two_log(m, self.fraction(m))
        minus_two, one = self.read("mul(fma(#, q, #), polynomial(w, CENTRAL))")
        central = polynomial(w, self.polynomials["CENTRAL"])
        z = fma(minus_two, q, one) * central
        tail = w > np.float32(self.read("if w > #:")[0])
        g, y, _, c = self.sqrt_parts(w[tail], self.polynomials["RSQRT"])
        root, inverse = np.full((2, *w.shape), np.nan, np.float32)
        root[tail], inverse[tail] = g * c, y * c
        z[tail] = root[tail] * polynomial(inverse[tail], self.polynomials["TAIL"])
        value = fma(np.where(is_below, -z, z), std, mean)
        value = np.minimum(np.maximum(value, np.float32(low)), np.float32(high))
        steps = {"is_below": is_below, "f": f, "q": q, "m": m, "w": w, "CENTRAL": central}
        return steps | {"g * c": root, "y * c": inverse, "value": value}

    def parameters(self, law: Law) -> dict[str, Any]:
        """The parameters of a law, rounded once each from exact numbers; floats hold float32."""
        given = {name: float(x) + 0.0 for name, x in law.items() if name != "kind"}
        exact = {name: Fraction(x) for name, x in given.items() if np.isfinite(x)}
        if law["kind"] == "uniform":
            low, high = (nearest(exact[name]) for name in ("low", "high"))
            scale = nearest(
                Fraction(nearest(Fraction(high) - Fraction(low))) * Fraction(self.read("high, low), #)")[0])
            )
            below_high = float(np.nextafter(np.float32(high), np.float32(-np.inf)))
            return {"low": low, "scale": scale, "cap": max(below_high, low)}
        mean, std = (nearest(exact[name]) for name in ("mean", "std"))
        if law["kind"] == "normal":
            return {"mean": mean, "radius": np.float32(std) * self.polynomials["RSQRT"]}
        return {"mean": mean, "std": std} | self.truncated_parameters(given, exact)

    def truncated_parameters(self, given: dict[str, float], exact: dict[str, Fraction]) -> dict[str, Any]:
        mpmath = pytest.importorskip("mpmath")
        least, most = self.read("at least # and at most #: what is beyond these counts as these")
        (words,) = self.read("0.5 - below) / mass, 0), 1) * 2**#)")
        (divisor,) = self.read("scale = f32(mass / 2**#)")
        margin, limit = self.read("-2 ln(4 * (s + mass / 2**#) * (1 - s)) > #,")
        largest = Fraction(self.read("FLT_MAX is #.")[0])
        bounds = {}
        with mpmath.workdps(400):
            for name, infinite in (("low", least), ("high", most)):
                standard = (exact[name] - exact["mean"]) / exact["std"] if name in exact else Fraction(infinite)
                bounds[name] = min(max(standard, Fraction(least)), Fraction(most))

            def tail(x: Fraction) -> Any:
                return mpmath.erfc(mpmath.mpf(x.numerator) / x.denominator / mpmath.sqrt(2)) / 2

            alpha, beta = bounds["low"], bounds["high"]
            below = tail(-alpha) if alpha != least else mpmath.mpf(0)
            above = tail(beta) if beta != most else mpmath.mpf(0)
            mass = tail(alpha) - above if alpha > 0 else tail(-beta) - below if beta < 0 else 1 - below - above
            split = int(mpmath.floor(mpmath.ldexp(mpmath.mpf(0.5) - below, words) / mass))
            split = min(max(split, 0), 2**words) if alpha < 0 < beta else 0 if alpha >= 0 else 2**words
            split = 2 ** (words - 1) if alpha == -beta else split
            side = min(below, above)
            extreme = -2 * mpmath.log(4 * (side + mpmath.ldexp(mass, -margin)) * (1 - side))
            masses = {"scale": mpmath.ldexp(mass, -divisor), "below": below, "above": above}
            rounded = {name: nearest(int(x.man) * Fraction(2) ** int(x.exp)) for name, x in masses.items()}
        low, high = given["low"], given["high"]
        if "low" in exact:
            low = nearest(max(exact["low"], -largest))
            low = low if low >= exact["low"] else float(np.nextafter(np.float32(low), np.float32(np.inf)))
        if "high" in exact:
            high = nearest(min(exact["high"], largest))
            high = high if high <= exact["high"] else float(np.nextafter(np.float32(high), np.float32(-np.inf)))
        return rounded | {"low": low + 0.0, "high": high + 0.0, "split": split, "has_tail": bool(extreme > limit)}

    def values(self, law: Law, words: Array) -> F32:
        """The float32 values of whole blocks, [blocks, 4] like their words."""
        parameters = self.parameters(law)
        parameters.pop("has_tail", None)
        if law["kind"] != "normal":
            return getattr(self, law["kind"])(words, **parameters)["value"]
        steps = self.normal(words[:, 0::2], words[:, 1::2], **parameters)
        return np.stack([steps["first"], steps["second"]], axis=-1).reshape(words.shape)

    def elements(self, key: int, law: Law, dtype: str, index: Array) -> Array:
        """The elements of a tensor at row-major indices, in the dtype."""
        if law["kind"] == "constant":
            value = law["value"]
            if dtype in self.formats or dtype in ("float32", "float64"):
                value = np.float64(value) if dtype == "float64" else np.float32(nearest(Fraction(float(value))))
            else:
                value = np.array(value, "u1" if dtype == "bool" else dtype)
            values = np.full(index.shape, value)
        else:
            block, place = np.unique(index // 4, return_inverse=True)
            parts = [self.values(law, self.words(key, b)) for b in np.array_split(block, 1 + len(block) // 2**13)]
            values = np.concatenate(parts)[place, index % 4]
        if dtype in self.formats:
            return self.formats[dtype].round(values)
        return values.astype(np.float64) if dtype == "float64" else values

    def box(self, row: dict[str, Any]) -> Array:
        """The elements of the box of one line of golden.csv, row-major."""
        index = np.zeros((), np.int64)
        for n, offset, size in zip(row["shape"], row["offsets"], row["sizes"], strict=True):
            index = index[..., None] * n + (offset + np.arange(size))
        key = self.key(row["seed"], row["name"], row["occurrence"])
        return self.elements(key, row["law"], row["dtype"], index.ravel())


@functools.cache
def document() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@functools.cache
def stream() -> Stream:
    return Stream(document())


def golden() -> list[dict[str, Any]]:
    with (DATA / "golden.csv").open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row |= {name: json.loads(row[name]) for name in ("seed", "occurrence", "law", "shape", "offsets", "sizes")}
    return rows


def parse_law(text: str) -> Law:
    """A law as the document writes it, `Uniform(0, 1)`."""
    kind, arguments = re.fullmatch(r"(\w+)\((.*)\)", text).groups()  # type: ignore[union-attr]
    kind = {"Uniform": "uniform", "Normal": "normal", "TruncatedNormal": "truncated_normal"}[kind]
    names = {"uniform": ("low", "high"), "normal": ("mean", "std")}.get(kind, ("mean", "std", "low", "high"))
    return {"kind": kind} | dict(zip(names, map(float, arguments.split(",")), strict=True))


def show(x: Any) -> str:
    """The bits of a float32 and its value; anything else as it is."""
    if isinstance(x, (float, np.floating)):
        return f"{np.float32(x).view(np.uint32):#010x} ({float(x).hex()})"
    return str(x)


def same(got: Any, want: Any) -> bool:
    return show(got) == show(want) if isinstance(want, float) else bool(got == want)


@functools.cache
def first_blocks(elements: int) -> Array:
    return stream().words(stream().key(0, "w", 0), np.arange(elements // 4))


@functools.cache
def long_values(*law: tuple[str, Any]) -> F32:
    return stream().elements(stream().key(0, "w", 0), dict(law), "float32", np.arange(LONG))


def case(row: dict[str, Any]) -> str:
    return f"{row['seed']}-{row['name']}-{row['occurrence']}-{row['law']}-{row['dtype']}-{row['sizes']}"


@pytest.mark.parametrize("row", golden(), ids=case)
def test_golden_digest(row: dict[str, Any]) -> None:
    plain = (row["seed"], row["name"], row["occurrence"], row["dtype"], row["offsets"]) == (0, "w", 0, "float32", [0])
    got = long_values(*row["law"].items()) if plain and row["sizes"] == [LONG] else stream().box(row)
    digest = hashlib.sha256(got.astype(got.dtype.newbyteorder("<")).tobytes()).hexdigest()
    start = ", ".join(f"{i}: 0x{got[i].tobytes()[::-1].hex()}" for i in range(min(4, len(got))))
    assert digest == row["sha256"], (
        f"{case(row)}\ngot {digest}, want {row['sha256']}\nfirst elements of the box {start}"
    )


def test_philox_known_answers() -> None:
    lines = [line.split() for line in (DATA / "philox4x32_kat.txt").read_text().splitlines() if line[0] != "#"]
    assert len(lines) == 6
    for _, rounds, *words in lines:
        values = [int(w, 16) for w in words]
        got = [int(w) for w in stream().philox([np.array(c) for c in values[:4]], values[4:6], int(rounds))]
        want = values[6:]
        assert got == want, f"{rounds} rounds of {words[:6]}: got {[*map(hex, got)]}, want {[*map(hex, want)]}"
    assert stream().read("Philox4x32 with # rounds") == stream().read("repeat # times:")


def test_keys() -> None:
    _, *rows = tables(document(), "10.1")[0]
    assert len(rows) == 7
    for seed, name, occurrence, want in rows:
        got = f"{stream().key(number(seed), '' if name == 'empty' else name.strip('`'), number(occurrence)):#018x}"
        assert got == want, f"key of seed {seed}, name {name}, occurrence {occurrence}: got {got}, want {want}"


def test_words() -> None:
    (key,) = stream().read("Key # (seed 0, name `w`, occurrence 0):")
    _, *rows = tables(document(), "10.2")[0]
    assert len(rows) == 3
    for block, want in rows:
        got = " ".join(f"{w:#010x}" for w in stream().words(key, np.array([number(block)]))[0])
        assert got == want, f"block {block} of key {key:#x}: got {got}, want {want}"


@pytest.mark.parametrize("row", range(6))
def test_parameters(row: int) -> None:
    _, *rows = tables(document(), "10.3")[0]
    assert len(rows) == 6
    law, text = rows[row]
    want: dict[str, Any] = {}
    for names, numbers in re.findall(rf"((?:[a-z_]+ (?:= )?)+)((?:(?:2\*\*\d+|{NUMBER}|true|false) ?)+)", text):
        values = [number(x) for x in numbers.split()]
        want |= {name: values if name == "radius" else values[0] for name in names.replace("=", "").split()}
    got = stream().parameters(parse_law(law))
    assert len(want) >= 2
    assert want.keys() >= got.keys() - {"mean", "std"}
    for name, w in want.items():
        g = got[name].tolist() if name == "radius" else got[name]
        pairs = list(zip(g, w, strict=True)) if name == "radius" else [(g, w)]
        assert all(same(type(b)(a), b) for a, b in pairs), (
            f"{name} of {law}: got {[show(a) for a, _ in pairs]}, want {[show(b) for _, b in pairs]}"
        )


def test_first_values() -> None:
    (_, *laws), *rows = tables(document(), "10.4")[0]
    assert [number(row[0]) for row in rows] == list(range(8))
    words = first_blocks(8)
    for k, law in enumerate(laws, 1):
        values = stream().values(parse_law(law), words).ravel()
        for i, (got, row) in enumerate(zip(values, rows, strict=True)):
            want = number(row[k])
            assert same(got, want), f"{law}, i = {i}, word {words.flat[i]:#010x}: got {show(got)}, want {show(want)}"


def check_steps(rows: list[list[str]], column: int, title: str, steps: dict[str, Array]) -> None:
    for name, *wants in rows:
        if wants[column] == "not used":
            continue
        got, want = steps[name].item(), number(wants[column])
        assert same(got, want), f"{name} of {title}: got {show(got)}, want {show(want)}"


@pytest.mark.parametrize("column", range(4))
def test_steps_of_a_normal(column: int) -> None:
    header, *rows = tables(document(), "10.4")[1]
    title = header[1 + column]
    radius, angle = (np.array([number(w)]) for w in title.removeprefix("words ").split(", "))
    parameters = stream().parameters({"kind": "normal", "mean": 0, "std": 1})
    steps = stream().normal(radius, angle, **parameters)
    assert {row[0] for row in rows} == steps.keys()
    check_steps(rows, column, title, steps)


@pytest.mark.parametrize("column", range(5))
def test_steps_of_a_truncated_normal(column: int) -> None:
    header, *rows = tables(document(), "10.4")[2]
    title = header[1 + column]
    low, high, word = re.fullmatch(r"(\S+) to (\S+), (\S+)", title).groups()  # type: ignore[union-attr]
    law = {"kind": "truncated_normal", "mean": 0, "std": 1, "low": float(low), "high": float(high)}
    parameters = stream().parameters(law)
    parameters.pop("has_tail")
    steps = stream().truncated_normal(np.array([number(word)]), **parameters)
    assert {row[0] for row in rows} == steps.keys()
    check_steps(rows, column, title, steps)


def test_extremes() -> None:
    """The extreme words of sections 6.4 and 7, where the document says what they give."""
    spec = stream()
    zero, half, last = 0, 2**31, 2**32 - 1
    w0, r0 = spec.read("Radius word 0: w = #, |r| = #,")
    f1, n1, w1, r1 = spec.read("Radius word 2**32 - 1: f = #, n = #, w = #, |r| = #,")
    f2, f3, w2, w3, r2 = spec.read("Radius words 2**31 - 1 and 2**31: f = # and #, w = # and #, both |r| = #.")
    steps = spec.normal(
        np.array([zero, last, half - 1, half]),
        np.zeros(4, np.int64),
        **spec.parameters({"kind": "normal", "mean": 0, "std": 1}),
    )
    wants = {"w": [w0, w1, w2, w3], "r": [r0, r1, r2, r2], "f": [0.5, f1, f2, f3], "n": [0.0, n1, 0.0, -1.0]}
    law = {"kind": "truncated_normal", "mean": 0, "std": 1, "low": -np.inf, "high": np.inf}
    (farthest, _) = spec.read("|z| is at most #, about #.")
    parameters = spec.parameters(law)
    parameters.pop("has_tail")
    steps["|z|"] = np.abs(spec.truncated_normal(np.array([zero, last]), **parameters)["value"])
    wants["|z|"] = [farthest, farthest]
    for name, want in wants.items():
        got = steps[name].tolist()
        assert all(map(same, got, want)), f"{name}: got {[*map(show, got)]}, want {[*map(show, want)]}"


def test_long_digests_are_golden() -> None:
    _, *rows = tables(document(), "10.5")[0]
    got = dict(rows)
    want = {
        law: row["sha256"]
        for law in got
        for row in golden()
        if row["law"] == parse_law(law) and row["sizes"] == [LONG] and row["dtype"] == "float32"
    }
    assert len(got) == 4
    assert sum(row["sizes"] == [LONG] for row in golden()) == 4
    assert got == want


def test_hexadecimal_floats_are_float32() -> None:
    found = re.findall(HEX_FLOAT, document())
    assert len(found) > 39
    for text in found:
        got = float.fromhex(text)
        assert got == np.float32(got), f"{text} is no float32"


FORMULAS = """
    c0, c1, c2, c3 = hi32(p1) ^ c1 ^ k0,  lo32(p1),  hi32(p0) ^ c3 ^ k1,  lo32(p0)
    for k = n - 1, ..., 0:  p = fma(p, x, C[k])
    scale = mul(sub(high, low),
    cap   = max(the largest f32 below high, low)
    radius[k] = mul(std, RSQRT[k])
    return min(fma(convert(word), scale, low), cap)
    return fma(n, polynomial(n, LOG), octaves)
    w: f32 = minus_two_log(m, n)
    g = mul(x, y)
    c = polynomial(e, C)
    g, _, c = sqrt_parts(w, radius)
    r = mul(float(bits(g) + i32(angle_word << 31)), c)
    t = mul(x, x)
    near = fma(r, polynomial(t, COS), mean)
    far  = fma(mul(r, x), polynomial(t, SIN), mean)
    if angle_word & 2:  return far, near
    is_below = i64(word) < split
    q = fma(f, scale, below if is_below else above)
    w = minus_two_log(m, fraction(m))
    g, y, c = sqrt_parts(w, RSQRT)
    z = mul(mul(g, c), polynomial(mul(y, c), TAIL))
    if is_below:  z = -z
    return min(max(fma(z, std, mean), low), high)
"""


def test_formulas_stand_as_they_are_implemented() -> None:
    """Operations without a number to read: what is computed above is what the document says."""
    missing = [f for f in FORMULAS.strip().splitlines() if re.sub(" +", " ", f.strip()) not in stream().text]
    assert missing == []


def test_degrees() -> None:
    _, *rows = tables(document(), "11.1")[0]
    got = {name: len(c) - 1 for name, c in stream().polynomials.items()}
    want = {row[0]: number(row[3]) for row in rows}
    assert got == want
    assert len(COEFFICIENTS) == sum(d + 1 for d in want.values())


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


def recipe_round(x: F32, exponent_width: int, mantissa_width: int, max_code: int) -> Array:
    """Section 9, as it is written."""
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
    shift = np.minimum(width - mantissa_width + target - unbounded, most)
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
    got = recipe_round(x, int(row[1]), int(row[2]), number(row[4]))
    bad = np.flatnonzero(got != want)
    assert not len(bad), f"{dtype} of {show(x[bad[0]])}: got {got[bad[0]]:#x}, want {want[bad[0]]:#x}"


def test_overflow() -> None:
    assert stream().read("FLT_MAX is #.") == (float(np.finfo(np.float32).max),)
    e5m2, half = stream().read("an e5m2 becomes infinity from # on, a float16 from # on")
    want = {"float8_e5m2": e5m2, "float16": half}
    got = {dtype: float(stream().formats[dtype].halves[-1]) for dtype in want}
    assert got == want
