"""Golden digests: what stream v1 gives, one line a tensor, in tests/data/golden.csv.

    python tools/golden.py      rewrite them: a changed digest is a new stream version

A digest is the sha256 of the bytes of a box, row-major and little-endian. docs/stream.md says what the columns mean.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import torch

from tritonparam import Constant, Fill, Law, Normal, Plan, TruncatedNormal, Uniform, derive_key
from tritonparam.stream.law import law_from_json, law_to_json

PATH = Path(__file__).parents[1] / "tests" / "data" / "golden.csv"
FOREIGN = PATH.with_name("golden_foreign.csv")  # by another implementation: it is read and never written
COLUMNS = ("seed", "name", "occurrence", "law", "dtype", "shape", "offsets", "sizes", "sha256")
FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64")
LAWS: tuple[Law, ...] = (
    Uniform(low=0.0, high=1.0),
    Uniform(low=-0.07, high=0.07),
    Normal(mean=0.0, std=1.0),
    Normal(mean=0.5, std=0.02),
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
    TruncatedNormal(mean=0.0, std=0.02, low=-1e30, high=1e30),
    TruncatedNormal(mean=1.0, std=3.0, low=8.0, high=30.0),
    Constant(0.1),
)
# shape, offsets, sizes
BOXES = (
    ((1000,), (0,), (1000,)),
    ((33, 7, 5), (2, 3, 0), (30, 2, 5)),
    ((3, 2**33), (1, 2**33 - 1001), (1, 1001)),
)


def cases() -> list[dict[str, str]]:
    """Every case, without its digest."""
    rows = []

    def add(seed: int, name: str, occurrence: int, law: Law, dtype: str, box: tuple[tuple[int, ...], ...]) -> None:
        shape, offsets, sizes = (json.dumps(list(part)) for part in box)
        values = (str(seed), name, str(occurrence), json.dumps(law_to_json(law)), dtype, shape, offsets, sizes)
        rows.append(dict(zip(COLUMNS, values, strict=False)))

    for law in LAWS:
        for dtype in FLOATS:
            add(0, "w", 0, law, dtype, BOXES[0])
        for box in BOXES[1:]:
            add(0, "w", 0, law, "float32", box)
    # What the others leave out: any other split, no bounds, no spread, overflow of narrow dtypes, no size.
    for law in (
        TruncatedNormal(mean=0.0, std=1.0, low=-1.0, high=2.0),
        TruncatedNormal(mean=1.0, std=0.5, low=-2.0, high=0.0),
        TruncatedNormal(mean=0.0, std=1.0, low=-1e300, high=1e300),
    ):
        add(0, "w", 0, law, "float32", BOXES[0])
    for law in (Normal(mean=0.25, std=0.0), Uniform(low=3.0, high=3.0), Uniform(low=0.0, high=2.0**-120)):
        add(0, "w", 0, law, "float32", BOXES[0])
    for dtype in FLOATS[1:5]:
        add(0, "w", 0, Normal(mean=0.0, std=60000.0), dtype, BOXES[0])
        add(0, "w", 0, Normal(mean=0.0, std=2.0**-14), dtype, BOXES[0])
    add(0, "w", 0, Normal(mean=0.0, std=1.0), "float32", ((), (), ()))
    add(0, "w", 0, Normal(mean=0.0, std=1.0), "float32", ((4, 0), (0, 0), (4, 0)))
    # Enough values to notice the last bit of every coefficient.
    for law in (
        Uniform(low=0.0, high=1.0),
        Normal(mean=0.0, std=1.0),
        TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0),
        LAWS[5],
    ):
        add(0, "w", 0, law, "float32", ((2**20,), (0,), (2**20,)))
    for seed, name, occurrence in (
        (1, "w", 0),
        (2**64 - 1, "w", 0),
        (0, "layers.0.weight", 0),
        (0, "w", 1),
        (0, "", 0),
        (0, "重み", 0),
    ):
        add(seed, name, occurrence, Normal(mean=0.0, std=1.0), "float32", BOXES[0])
    for dtype in ("int8", "int16", "int32", "int64", "uint8", "bool"):
        add(0, "w", 0, Constant(1), dtype, BOXES[0])
    for dtype, value in (("uint16", 40000), ("uint32", 3 * 10**9), ("uint64", 2**63 + 1), ("complex64", 0.1)):
        add(0, "w", 0, Constant(value), dtype, ((3,), (0,), (3,)))
    add(0, "w", 0, Constant(2**53 + 1), "float64", ((3,), (0,), (3,)))
    # One word is the split, whose fraction is above 1/2; a low bound that the nearest float32 is below.
    add(
        0,
        "w",
        0,
        TruncatedNormal(low=-0.749187, high=0.2665162839359433),
        "float32",
        ((8,), (0,), (8,)),
    )
    low = 0.10000004811916031
    add(0, "w", 0, TruncatedNormal(mean=0.0, std=1.0, low=low, high=low + 3e-8), "float32", ((8,), (0,), (8,)))
    # A value that is wrong where the fma is rounded to float64 before it is rounded to float32.
    add(0, "w", 0, Uniform(low=1.0, high=1.40448796749115), "float32", ((8000,), (6136,), (4,)))
    # What is zero once it is rounded, a mean or a bound, has no sign.
    add(0, "w", 0, Normal(mean=-1e-60, std=0.0), "float32", ((8,), (0,), (8,)))
    add(0, "w", 0, Uniform(low=-1e-60, high=-1e-60), "float32", ((7,), (0,), (7,)))
    return rows


def digest(row: dict[str, str], backend: str = "numpy", device: torch.device | str = "cpu") -> str:
    """The sha256 of one case, made on a device."""
    shape, offsets, sizes = (json.loads(row[column]) for column in ("shape", "offsets", "sizes"))
    out = torch.empty(sizes, dtype=getattr(torch, row["dtype"]), device=device)
    key = derive_key(int(row["seed"]), row["name"], int(row["occurrence"]))
    Plan([Fill(out, law_from_json(json.loads(row["law"])), key, shape, offsets)], backend).run()
    return hashlib.sha256(out.cpu().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def read(path: Path = PATH) -> list[dict[str, str]]:
    """The rows as they are frozen."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Rewrite the file."""
    with PATH.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"sha256": digest(row)} for row in cases())


if __name__ == "__main__":
    main()
