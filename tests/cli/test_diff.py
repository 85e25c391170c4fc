"""`tritonparam diff`: what is not alike is named, with how much it differs; what is alike is not, however it is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tritonparam import Box, Parameter, save
from tritonparam.checkpoint import RECORD_NAME
from tritonparam.cli import diff
from tritonparam.cli.diff import differences

Run = Callable[..., tuple[int, str, str]]
TINY = "examples/tiny-llama.json"


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "w": torch.randn(6, 5),
        "h": torch.randn(4, 3).bfloat16(),
        "n": torch.arange(5),
        "c": torch.randn(3, dtype=torch.complex64),
        "f": torch.randn(4).to(torch.float8_e4m3fn),
        "s": torch.tensor(2.5),
        "e": torch.empty(0, 3),
    }


def both(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> tuple[Path, Path]:
    """Two files, the tensors of the second changed."""
    one, other = tensors(), tensors()
    change(other)
    save(one, folder / "one.safetensors", overwrite=True)
    save(other, folder / "other.safetensors", overwrite=True)
    return folder / "one.safetensors", folder / "other.safetensors"


def test_what_is_alike_has_no_difference(run: Run, tmp_path: Path) -> None:
    """In one file, in files of an index, in shards of other cuts."""
    save(tensors(), tmp_path / "one.safetensors")
    save(tensors(), tmp_path / "many", max_shard_size=50)
    for other in ("one.safetensors", "many", "many/model.safetensors.index.json"):
        assert run("diff", tmp_path / "one.safetensors", tmp_path / other) == (0, "no difference\n", "")
    code, out, err = run("diff", tmp_path / "many", tmp_path / "one.safetensors", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    want = {"first": str(tmp_path / "many"), "second": str(tmp_path / "one.safetensors")}
    assert json.loads(out) == want | {"equal": True, "differences": []}


def test_values_are_told_by_count_largest_difference_first_index_and_bits(run: Run, tmp_path: Path) -> None:
    def change(other: dict[str, torch.Tensor]) -> None:
        other["w"][2, 3] += 0.5
        other["w"][4, 1] -= 2.0
        other["n"][4] = -7
        other["s"].neg_()

    one, other = both(tmp_path, change)
    code, out, err = run("diff", one, other)
    assert (code, err) == (1, "")
    n, s, w, summary = out.splitlines()
    assert n == "n: 1 of 5 elements differ, by at most 11; first at [4]: 0x0000000000000004 and 0xfffffffffffffff9"
    assert s == "s: 1 of 1 elements differ, by at most 5; first at []: 0x40200000 and 0xc0200000"
    bits = [f"{each['w'][2, 3].view(torch.int32).item() & 0xFFFFFFFF:08x}" for each in (tensors(), changed(change))]
    assert w == f"w: 2 of 30 elements differ, by at most 2; first at [2, 3]: 0x{bits[0]} and 0x{bits[1]}"
    assert summary == "3 tensors not alike"
    row = json.loads(run("diff", one, other, "--json")[1])["differences"][2]
    facts = {"dtype": "float32", "shape": [6, 5]}
    values = {"count": 2, "of": 30, "largest": pytest.approx(2.0, rel=1e-6), "first": [2, 3], "bits": bits}
    assert row == {"name": "w", "kind": "values", "first": facts, "second": facts, "values": values}


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> dict[str, torch.Tensor]:
    other = tensors()
    change(other)
    return other


def test_names_shapes_and_dtypes(run: Run, tmp_path: Path) -> None:
    def change(other: dict[str, torch.Tensor]) -> None:
        other["new"] = other.pop("s")
        other["w"] = other["w"].view(5, 6)
        other["h"] = other["h"].float()

    one, other = both(tmp_path, change)
    assert run("diff", one, other)[1].splitlines() == [
        "h: bfloat16 [4, 3] and float32 [4, 3]",
        "new: only in the second",
        "s: only in the first",
        "w: float32 [6, 5] and float32 [5, 6]",
        "4 tensors not alike",
    ]
    rows = {row["name"]: row for row in json.loads(run("diff", one, other, "--json")[1])["differences"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "h": "dtype",
        "new": "missing",
        "s": "missing",
        "w": "shape",
    }
    assert rows["s"]["second"] is rows["new"]["first"] is None


@pytest.mark.parametrize(
    ("name", "change", "largest", "text"),
    [
        (
            "c",
            lambda x: x.view(torch.float32)[3:4].add_(1.0),
            1.0,
            "of 3 elements differ, by at most 1; first at [1]: 0x",
        ),
        ("f", lambda x: x.view(torch.uint8)[2].bitwise_xor_(128), None, "1 of 4 elements differ, by at most"),
        ("w", lambda x: x[0, 0].fill_(math.nan), None, "1 of 30 elements differ; first at [0, 0]: 0x"),
        ("w", lambda x: x[5, 4].fill_(-math.inf), math.inf, "1 of 30 elements differ, by at most inf; first at [5, 4]"),
    ],
)
def test_numbers_of_every_kind(
    name: str, change: Callable[[torch.Tensor], object], largest: float | None, text: str, run: Run, tmp_path: Path
) -> None:
    one, other = both(tmp_path, lambda tensors: change(tensors[name]))
    (found,) = differences(one, other, quiet=True)
    assert found.values is not None
    assert found.values.count == 1
    if name != "f":
        assert found.values.largest == (largest if largest is None else pytest.approx(largest, rel=1e-6))
    assert text in str(found)
    row = json.loads(run("diff", one, other, "--json")[1])["differences"][0]["values"]  # no number that JSON lacks
    assert row["largest"] == ("inf" if largest == math.inf else found.values.largest)


@pytest.mark.parametrize(
    ("one", "other", "largest"),
    [
        (torch.tensor([2**53, 4]), torch.tensor([2**53 + 1, 4]), 1.0),
        (torch.tensor([-(2**63), 4]), torch.tensor([2**63 - 1, 4]), 2.0**64),
        (torch.tensor([0, 2**64 - 1], dtype=torch.uint64), torch.tensor([2, 2**64 - 2], dtype=torch.uint64), 2.0),
    ],
)
def test_integers_that_a_float_has_not_are_apart(
    one: torch.Tensor, other: torch.Tensor, largest: float, tmp_path: Path
) -> None:
    for name, tensor in (("one", one), ("other", other)):
        save({"n": tensor}, tmp_path / name)
    (found,) = differences(tmp_path / "one", tmp_path / "other")
    assert found.values is not None
    assert found.values.largest == largest


def test_the_sign_of_a_zero_is_a_difference_of_no_size(tmp_path: Path) -> None:
    save({"z": torch.zeros(3)}, tmp_path / "one.safetensors")
    save({"z": torch.tensor([0.0, 0.0, -0.0])}, tmp_path / "other.safetensors")
    (found,) = differences(tmp_path / "one.safetensors", tmp_path / "other.safetensors", quiet=True)
    assert str(found) == "z: 1 of 3 elements differ; first at [2]: 0x00000000 and 0x80000000"


def test_a_nan_hides_no_difference_of_numbers(tmp_path: Path) -> None:
    save({"x": torch.zeros(4)}, tmp_path / "one.safetensors")
    save({"x": torch.tensor([math.nan, 0.0, 2.0, math.nan])}, tmp_path / "other.safetensors")
    (found,) = differences(tmp_path / "one.safetensors", tmp_path / "other.safetensors", quiet=True)
    assert found.values == diff.Values(3, 4, 2.0, (0,), ("00000000", "7fc00000"))


def test_pieces_and_shards_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first index is that of the whole, in whatever order it is read."""
    one, other = torch.zeros(7, 9), torch.zeros(7, 9)
    other[0, 8], other[5, 0], other[1, 2] = -2.0, 3.0, 1.0  # the first in the second part by columns
    save({"w": one}, tmp_path / "one.safetensors")
    save({"w": other}, tmp_path / "other.safetensors")
    for rank, (start, stop) in enumerate([(0, 4), (4, 9)]):  # by columns, so that rows are read in two parts
        part = Parameter(other[:, start:stop].clone(), "w")
        part._within = (Box((0, start), (7, stop - start)), (7, 9))
        save([part], tmp_path / "shards", rank=rank, world_size=2)
    (want,) = differences(tmp_path / "one.safetensors", tmp_path / "other.safetensors", quiet=True)
    assert want.values == diff.Values(3, 63, 3.0, (0, 8), ("00000000", "c0000000"))
    for size in (1, 4, 10):
        monkeypatch.setattr(diff, "_PIECE", size)
        assert differences(tmp_path / "one.safetensors", tmp_path / "other.safetensors", quiet=True) == [want]
        assert differences(tmp_path / "one.safetensors", tmp_path / "shards", quiet=True) == [want]
    assert differences(tmp_path / "other.safetensors", tmp_path / "shards", quiet=True) == []


def test_records_are_compared_by_fingerprints(run: Run, tmp_path: Path) -> None:
    """With a record, a checkpoint or another record; which tensors differ is named."""
    for seed in (0, 1):
        assert run("init", TINY, "--out", tmp_path / str(seed), "--seed", seed)[0] == 0
    record = tmp_path / "0" / RECORD_NAME
    assert run("diff", record, tmp_path / "0") == (0, "no difference\n", "")
    assert run("diff", record, record)[0] == 0
    code, out, _ = run("diff", record, tmp_path / "1" / RECORD_NAME)
    assert code == 1
    lines = out.splitlines()
    assert "model.embed_tokens.weight: other values" in lines
    assert not any("norm" in line for line in lines)  # constants are alike
    assert run("diff", tmp_path / "1", record)[1] == out
    copied = tmp_path / "elsewhere.json"
    copied.write_text(record.read_text())
    assert run("diff", copied, tmp_path / "0")[0] == 0
    values = json.loads(record.read_text())
    values = {key: each for key, each in values.items() if key != "fingerprint"}
    for row in values["tensors"].values():
        del row["fingerprint"]
    copied.write_text(json.dumps(values))
    code, out, err = run("diff", copied, tmp_path / "0")
    assert (code, out) == (2, "")
    assert "elsewhere.json has no fingerprints: an earlier version wrote it; give its checkpoint" in err


def test_what_is_no_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    save(tensors(), tmp_path / "one.safetensors")
    code, out, err = run("diff", tmp_path / "one.safetensors", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'nothing'} does not exist\n"
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 20)
    code, out, err = run("diff", tmp_path / "one.safetensors", tmp_path / "bad.safetensors")
    assert (code, out) == (1, "")
    assert "bad.safetensors" in err
    assert run("diff", tmp_path / "one.safetensors")[0] == 2


def test_names_are_no_more_than_text(run: Run, tmp_path: Path) -> None:
    save_file({"a\x1b[31m\n": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2)}, tmp_path / "other.safetensors")
    out = run("diff", tmp_path / "one.safetensors", tmp_path / "other.safetensors")[1]
    assert out.splitlines()[0] == "a\\x1b[31m\\n: only in the first"
