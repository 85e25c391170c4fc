"""The stream once more, made from `docs/stream.md` alone; it shares nothing with the package, not even an import.

Its coefficients, constants and formats are read out of the document by their names and formulas, so a digit that drifts
there, or a formula that is written differently, is found out. Where the document has a meaning and a recipe, the
meaning is computed: fma with fractions wherever `f64` leaves a doubt, parameters with fractions, masses with mpmath's
`erfc`, narrow dtypes by a search among all numbers of the format.
"""

import functools
import hashlib
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

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
            low, high = (nearest(exact[name]) + 0.0 for name in ("low", "high"))
            scale = nearest(
                Fraction(nearest(Fraction(high) - Fraction(low))) * Fraction(self.read("high, low), #)")[0])
            )
            below_high = float(np.nextafter(np.float32(high), np.float32(-np.inf)))
            return {"low": low, "scale": scale, "cap": max(below_high, low)}
        mean, std = (nearest(exact[name]) + 0.0 for name in ("mean", "std"))
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
                rounded = np.copysign(np.float32(nearest(Fraction(float(value)))), np.float32(value))
                value = np.float64(value) if dtype == "float64" else rounded
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
