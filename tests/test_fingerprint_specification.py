"""Fingerprints once more, made from `docs/fingerprint.md` alone: plain Python, which shares nothing with the package.

The constants are read out of the document, so that one that drifts there is found out.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch

from tritonparam import Fingerprint, fingerprint

DOCUMENT = Path(__file__).parents[1] / "docs" / "fingerprint.md"
ANSWERS = Path(__file__).parent / "data" / "fingerprints.csv"
TEXT = DOCUMENT.read_text(encoding="utf-8")
SIZES = {
    "float32": 4,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "int64": 8,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "uint8": 1,
}


def only(pattern: str) -> str:
    (found,) = set(re.findall(pattern, TEXT))
    return found


BLOCK = int(only(r"`b = j // (\d+)`"))
COLUMN_KEY = int(only(r"the key (0x[0-9A-F]+)\."), 16)
KEY_PERSON, SUM_PERSON = only(r"8 bytes and the person `([^`]+)`"), only(r"16 bytes and the person `([^`]+)`")


def philox(block: int, key: int) -> list[int]:
    c, k = [block % 2**32, block >> 32, 0, 0], [key % 2**32, key >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def column(s: int, c: int) -> int:
    i = 2 * c + s
    return philox(i // 4, COLUMN_KEY)[i % 4] | 1


def block(s: int, b: int, key: int) -> int:
    x = philox(b, key)
    return x[2 * s] + 2**32 * x[2 * s + 1] | 1


def key_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=KEY_PERSON.encode()).digest(), "little")


def sums_of(data: bytes, key: int, factors: dict[tuple[int, int], int]) -> list[int]:
    data += bytes(-len(data) % 4)
    sums = [0, 0]
    for j in range(len(data) // 4):
        w = int.from_bytes(data[4 * j : 4 * j + 4], "little")
        for s in (0, 1):
            if (s, j % BLOCK) not in factors:
                factors[s, j % BLOCK] = column(s, j % BLOCK)
            sums[s] += w * factors[s, j % BLOCK] * block(s, j // BLOCK, key)
    return [each % 2**64 for each in sums]


def digest_of(name: str, dtype: str, shape: list[int], sums: list[int]) -> str:
    numbers = [len(name.encode()), len(dtype.encode()), len(shape), *shape, *sums]
    hashed = b"".join(each.to_bytes(8, "little") for each in numbers) + name.encode() + dtype.encode()
    return hashlib.blake2b(hashed, digest_size=16, person=SUM_PERSON.encode()).hexdigest()


def content(a: int, count: int, dtype: str) -> bytes:
    data = bytes((a * n * n + 7 * n + n // 251) % 256 for n in range(count * SIZES[dtype]))
    return bytes(each & 1 for each in data) if dtype == "bool" else data


CASES = [
    ("w", "float32", [3], 1),
    ("", "float32", [], 2),
    ("w", "bfloat16", [3, 5], 1),
    ("model.layers.0.weight", "bfloat16", [50, 43], 3),
    ("w", "float8_e4m3fn", [7], 5),
    ("übung", "int64", [129], 1),
    ("flags", "bool", [2, 3, 5], 9),
    ("c", "complex64", [4, 2], 11),
    ("cc", "complex128", [3], 11),
    ("empty", "float32", [4, 0], 1),
    ("w", "uint8", [4097], 13),
    ("long " * 40, "float32", [2, 1100], 17),
]


def rows() -> list[dict[str, str]]:
    """What the file should hold, by the document."""
    factors: dict[tuple[int, int], int] = {}
    found, total = [], 0
    for name, dtype, shape, a in CASES:
        key = key_of(name)
        sums = sums_of(content(a, math.prod(shape), dtype), key, factors)
        digest = digest_of(name, dtype, shape, sums)
        total += int(digest, 16)
        sizes = "x".join(map(str, shape))
        found.append(
            [json.dumps(name), dtype, sizes, str(a), f"{key:016x}", *(f"{each:016x}" for each in sums), digest]
        )
    found.append(["", "", "", "", "", "", "", f"{total % 2**128:032x}"])
    header = ["name", "dtype", "shape", "recipe", "key", "sum0", "sum1", "fingerprint"]
    return [dict(zip(header, row, strict=True)) for row in found]


def frozen() -> list[dict[str, str]]:
    with ANSWERS.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def tensor(row: dict[str, str]) -> torch.Tensor:
    shape = [int(each) for each in row["shape"].split("x")] if row["shape"] else []
    data = content(int(row["recipe"]), math.prod(shape), row["dtype"])
    if not data:
        return torch.empty(shape, dtype=getattr(torch, row["dtype"]))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(getattr(torch, row["dtype"])).view(shape)


def test_the_document_gives_the_known_answers() -> None:
    assert rows() == frozen()


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_the_package_gives_the_known_answers(backend: str | None) -> None:
    *tensors, total = frozen()
    digests = []
    for row in tensors:
        name = json.loads(row["name"])
        found = fingerprint({name: tensor(row)}, backend=backend)
        assert found.tensors == {name: row["fingerprint"]}
        digests.append(row["fingerprint"])
    assert Fingerprint.of({str(n): each for n, each in enumerate(digests)}).total == total["fingerprint"]


def test_boxes_of_the_document_add_up() -> None:
    """A box that ends inside a word adds its bytes of it."""
    data, factors = content(3, 10, "bfloat16"), {}
    key = key_of("w")
    parts = [
        sums_of(bytes(start) + data[start:stop] + bytes(20 - stop), key, factors) for start, stop in ((0, 6), (6, 20))
    ]
    assert [sum(each) % 2**64 for each in zip(*parts, strict=True)] == sums_of(data, key, factors)


if __name__ == "__main__":
    with ANSWERS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows()[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())
