"""`docs/stream.md` is complete and right: a second implementation, made from it alone, meets every golden digest.

`specification.py` is that implementation; `test_golden.py` holds the code to the same digests. The document's known
answers are read out of it too, so a digit that drifts there is red here. Not held: prose, what is an error, NaN.
"""

import re
from typing import Any

import numpy as np
import pytest

from tests.golden_rows import DATA, golden, sha256
from tests.specification import (
    COEFFICIENTS,
    HEX_FLOAT,
    LONG,
    NUMBER,
    Array,
    document,
    first_blocks,
    long_values,
    number,
    parse_law,
    same,
    show,
    stream,
    tables,
)


def case(row: dict[str, Any]) -> str:
    return f"{row['seed']}-{row['name'][:40]}-{row['occurrence']}-{row['law']}-{row['dtype']}-{row['sizes']}"


@pytest.mark.parametrize("row", [*golden(), *golden("golden_foreign.csv")], ids=case)
def test_golden_digest(row: dict[str, Any]) -> None:
    plain = (row["seed"], row["name"], row["occurrence"], row["dtype"], row["offsets"]) == (0, "w", 0, "float32", [0])
    got = long_values(*row["law"].items()) if plain and row["sizes"] == [LONG] else stream().box(row)
    digest = sha256(got)
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
