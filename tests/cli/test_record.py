"""A record of a checkpoint survives JSON exactly, and one of another stream is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.cli.jobs import NORMAL, entry, job
from tritonparam import Fingerprint, stream
from tritonparam.checkpoint.errors import UsageError
from tritonparam.cli.record import Entry, entry_from_json, entry_to_json, parse_record, record_text


def test_a_record_survives_json_exactly() -> None:
    """Strict JSON: no bare Infinity or NaN, and every law comes back equal."""
    laws = (
        NORMAL,
        stream.Uniform(low=-0.1, high=0.1),
        stream.TruncatedNormal(mean=0.0, std=1.0, low=-math.inf, high=2.0),
        stream.Constant(-math.inf),
    )
    for law in laws:
        text = json.dumps(entry_to_json(entry("w", (2, 3), law)), allow_nan=False)
        assert entry_from_json("w", json.loads(text)) == entry("w", (2, 3), law)
    unknown = Entry("r", ("s",), "buffer", torch.float64, (), None)
    assert entry_from_json("r", json.loads(json.dumps(entry_to_json(unknown)))) == unknown


def test_a_record_of_another_stream_is_refused() -> None:
    digests = {each.name: "0" * 64 for each in job().entries}
    prints = Fingerprint.of({each.name: "0" * 32 for each in job().entries})
    values = json.loads(record_text(job().settings, job().entries, digests, prints))
    assert parse_record(values, Path("r.json")).entries == job().entries
    with pytest.raises(UsageError, match=r"r\.json: stream must be 1 .*got 99"):
        parse_record(values | {"stream": 99}, Path("r.json"))
    with pytest.raises(UsageError, match="'seed' is missing"):
        parse_record({key: value for key, value in values.items() if key != "seed"}, Path("r.json"))


def test_a_record_from_before_there_were_fingerprints_is_read() -> None:
    """And one that has them only in part, or others than their total, is not."""
    digests = {each.name: "0" * 64 for each in job().entries}
    prints = Fingerprint.of({each.name: f"{n:032x}" for n, each in enumerate(job().entries)})
    values = json.loads(record_text(job().settings, job().entries, digests, prints))
    assert parse_record(values, Path("r.json")).fingerprint == prints
    rows = values["tensors"]
    without = {name: {key: each for key, each in row.items() if key != "fingerprint"} for name, row in rows.items()}
    old = {key: each for key, each in values.items() if key != "fingerprint"} | {"tensors": without}
    assert parse_record(old, Path("r.json")).fingerprint is None
    assert parse_record(old, Path("r.json")).entries == job().entries
    (name, *_) = rows
    for change, words in [
        ({"fingerprint": "1" * 32}, "its fingerprint is not that of its tensors"),
        ({"fingerprint": 5}, "the fingerprint must have 32 hexadecimal digits, got 5"),
        ({"tensors": without}, f"the fingerprint of '{name}' must have 32 hexadecimal digits, got None"),
        ({"tensors": rows | {name: rows[name] | {"fingerprint": "A" * 32}}}, "must have 32 hexadecimal digits"),
    ]:
        with pytest.raises(UsageError, match=words):
            parse_record(values | change, Path("r.json"))
    with pytest.raises(UsageError, match="the fingerprint must have 32 hexadecimal digits, got None"):
        parse_record({key: each for key, each in values.items() if key != "fingerprint"}, Path("r.json"))
