"""What safetensors refuses is refused, by name; what it takes is taken, but for what its format forbids."""

import collections
import json
import os
import random
import sys

import pytest
import torch

pytest.importorskip("safetensors", minversion="0.8")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.checkpoint.bits import same
from tritonparam import load, save
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.files import read_header

MUTANTS = 40_000 if os.environ.get("TRITONPARAM_ALL") else 4000
# The format forbids both; safetensors 0.8 takes the last of two keys, and skips spaces.
FORBIDDEN = ("twice", "must begin with '{'")
CODES = [
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "F8_E8M0",
    "F8_E4M3",
    "F32",
    "F64",
    "U8",
    "BOOL",
    "C64",
    "BF16",
    "I16",
    "f32",
    "X9",
]
VALUES = [
    0,
    1,
    2,
    3,
    8,
    -1,
    2**63,
    2**64,
    10**30,
    1.0,
    1e30,
    True,
    None,
    "",
    "a",
    "F32",
    [],
    {},
    [1],
    {"a": "b"},
    [0, 8],
]
BYTES = b'{}[]:,"\\0129eE+-. \t\n\x00\x1f\x7f\xc3\xff\xed\xa0ntu/'


def written(path, header, body):
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return path


def row(code, shape, start, end):
    return {"dtype": code, "shape": shape, "data_offsets": [start, end]}


def table():
    return {
        "__metadata__": {"format": "pt", "größe\u2028": 'x"\\y'},
        "a.weight": row("F32", [2, 3], 0, 24),
        "b": row("F4", [2, 4], 24, 28),
        "c d/層": row("F6_E2M3", [4], 28, 31),
        "": row("BF16", [], 31, 33),
        "empty": row("I64", [3, 0], 33, 33),
        "e": row("F8_E8M0", [5], 33, 38),
    }


def mutated_values(rng):
    """A header of which one or two values or keys are others."""
    rows = table()
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(rows))
        value = rows[name]
        kind = rng.randrange(7)
        if kind == 0:
            rows[name] = rng.choice(VALUES)
        elif not isinstance(value, dict) or not value:
            continue
        elif kind == 1:
            value[rng.choice(list(value))] = rng.choice(VALUES)
        elif kind == 2:
            del value[rng.choice(list(value))]
        elif kind == 3:
            value[rng.choice(("extra", "dtype", "shape"))] = rng.choice((*VALUES, [[{"deep": [1, "\ud83d\ude00"]}]]))
        elif kind == 4 and "shape" in value:
            value["dtype"] = rng.choice(CODES)
        elif kind == 5 and isinstance(value.get("shape"), list):
            value["shape"].insert(rng.randrange(len(value["shape"]) + 1), rng.choice((1, 1, 0, 2, 2**40, 2**62, 2**63)))
        elif kind == 6 and isinstance(value.get("data_offsets"), list) and value["data_offsets"]:
            value["data_offsets"][rng.randrange(len(value["data_offsets"]))] += rng.choice((-1, 1, 8))
    items = list(rows.items())
    rng.shuffle(items)
    text = json.dumps(dict(items), ensure_ascii=rng.random() < 0.5, separators=rng.choice(((",", ":"), (" , ", " : "))))
    return text.encode(errors="surrogatepass")


def mutated_bytes(rng):
    """A header of which a few bytes are changed, left out, put in or repeated."""
    data = bytearray(json.dumps(table(), ensure_ascii=rng.random() < 0.5).encode())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 1, 2, 5, 40))
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([rng.choice(BYTES)])
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = bytes(rng.choice(BYTES) for _ in range(length))
        else:
            data[at:at] = data[at : at + length]
    return bytes(data)


def mutant(rng, path):
    body = bytes(38)
    header = rng.choice((mutated_values, mutated_bytes))(rng)
    if rng.random() < 0.1:
        header = (
            rng.choice((b" ", b"\n", b"\xef\xbb\xbf", b"", b"\x00"))
            + header
            + rng.choice((b" ", b"\t\r\n", b"\x00", b"]"))
        )
    if rng.random() < 0.1:
        body = rng.choice((body[:-1], body + b"\0", b""))
    length = len(header)
    if rng.random() < 0.05:
        whole = 8 + length + len(body)
        length = rng.choice((0, 1, length - 1, length + 1, whole, 10**8, 10**8 + 1, 2**62, 2**64 - 1))
    with path.open("r+b" if path.exists() else "wb") as file:  # which is faster than a new one
        file.write(length.to_bytes(8, "little") + header + body)
        file.truncate()
    return path


def theirs(path):
    """The names and strings that safetensors finds; None where it refuses the file."""
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys()), file.metadata() or {}
    except Exception:
        return None


def ours(path):
    """The same for us, and why we refuse it."""
    try:
        header = read_header(path)
    except CheckpointError as error:
        return None, str(error)
    return ({*header.extents, *header.unreadable}, header.metadata), ""


def test_files_are_taken_that_safetensors_takes(tmp_path, capsys):
    rng = random.Random(5)
    counts = collections.Counter()
    for number in range(MUTANTS):
        path = mutant(rng, tmp_path / "mutant.safetensors")
        want, (got, why) = theirs(path), ours(path)
        assert got is not None or (str(path) in why and len(why) < 1000)
        if want is not None and got is None and any(each in why for each in FORBIDDEN):
            counts["only we refused, as the format does"] += 1
            continue
        assert got == want, f"mutant {number}: {why}\n{path.read_bytes()!r}"
        counts["both refused" if got is None else "both took"] += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{MUTANTS} mutants of a safetensors file: {dict(counts)}\n")
    assert min(counts["both refused"], counts["both took"]) > MUTANTS // 20


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ('{"a": R, "a": R}', "the key 'a' is there twice"),
        ('{"a": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "has the key 'dtype' twice"),
        ('{"__metadata__": {"x": "1", "x": "2"}, "a": R}', "the key 'x' is there twice"),
        ('{"__metadata__": {}, "__metadata__": {}, "a": R}', "'__metadata__' is there twice"),
        ('{"__metadata__": {"x": 1}, "a": R}', "__metadata__ must be a JSON object of strings"),
        ('{"__metadata__": [], "a": R}', "__metadata__ must be a JSON object of strings"),
        (' {"a": R}', "must begin with '{'"),
        ('\ufeff{"a": R}', "must begin with '{'"),
        ('{"a": R}]', "must end with its object"),
        ('{"\\ud800": R}', "half of a surrogate pair"),
        ('{"a": ["F32", [2], [0, 8]]}', "'{' must be at character"),
        (
            '{"a": {"dtype": "F32", "shape": [1048576, 17592186044416, 0], "data_offsets": [0, 8]}}',
            "must have a shape|bits",
        ),
        ('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4, 0], "data_offsets": [0, 0]}}', "can be counted"),
        ('{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}', "the dtype 'F99', which is none of"),
        ('{"a": {"dtype": "F4", "shape": [15], "data_offsets": [0, 8]}}', "60 bits by its shape"),
    ],
)
def test_what_the_format_forbids_is_named(header, match, tmp_path):
    text = header.replace("R", '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}')
    path = written(tmp_path / "w.safetensors", text.encode(), bytes(8))
    target = {"a": torch.ones(2)}
    with pytest.raises(CheckpointError, match=match) as caught:
        load(target, path, strict=False)
    assert str(path) in str(caught.value)
    assert target["a"].tolist() == [1, 1]


def pairs(values):
    return torch.tensor(values, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


needs_pairs = pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch has no dtype of 4 bits")


@needs_pairs
@pytest.mark.parametrize("shape", [(2, 4), (6,), (0,), (3, 0), (2, 3, 1)])
def test_pairs_of_four_bits_go_both_ways_as_in_safetensors(shape, tmp_path):
    values = torch.randint(0, 256, shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file({"w": values}, tmp_path / "theirs.safetensors")
    save({"w": values}, tmp_path / "ours.safetensors")
    for name in ("theirs", "ours"):
        got = {"w": torch.zeros(shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}
        load(got, tmp_path / f"{name}.safetensors")
        assert same(got["w"], values), name
        assert same(load_file(tmp_path / f"{name}.safetensors")["w"], values), name


@needs_pairs
def test_pairs_go_into_nothing_else_and_a_scalar_of_them_is_not_saved(tmp_path):
    save({"w": pairs([[1, 2]])}, tmp_path / "w.safetensors")
    with pytest.raises(TypeError, match=r"w is torch.uint8, in the checkpoint torch.float4_e2m1fn_x2"):
        load({"w": torch.zeros(1, 2, dtype=torch.uint8)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot hold the dtype torch.float4_e2m1fn_x2 of 'w': .* a dimension"):
        save({"w": pairs(3)}, tmp_path / "scalar.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("code", ["F6_E2M3", "F6_E3M2", "F4"])
def test_dtypes_that_torch_lacks_are_an_error_only_where_they_are_asked_for(code, tmp_path):
    odd = row(code, [2, 3], 8, 11) if code == "F4" else row(code, [4], 8, 11)
    header = json.dumps({"a": row("F32", [2], 0, 8), "b": odd}).encode()
    path = written(tmp_path / "w.safetensors", header, torch.ones(2).numpy().tobytes() + bytes(3))
    target = {"a": torch.zeros(2)}
    assert load(target, path, strict=False).unexpected == ("b",)
    assert target["a"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="unexpected in it: b"):
        load(target, path)
    target = {"a": torch.zeros(2), "b": torch.zeros(4)}
    for strict in (True, False):
        with pytest.raises(TypeError, match=f"b is of the dtype {code}: ") as caught:
            load(target, path, strict=strict)
        assert str(path) in str(caught.value)
    assert not target["a"].any()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys("ab", path.name)}))
    assert load({"a": torch.zeros(2)}, tmp_path, strict=False).loaded == ("a",)
