"""`tritonparam inspect`: says ok of what was drawn as promised, names what was not, rarely cries wolf."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("typer")

from safetensors.torch import load_file, save_file

import tritonparam
from tritonparam import fingerprint, stream
from tritonparam.checkpoint.files import RECORD_NAME
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.writing import write_checkpoint
from tritonparam.cli.inspect.expected import RandomLaw, expect
from tritonparam.cli.inspect.inspection import inspect_checkpoint
from tritonparam.cli.inspect.plot import families, plot_inspection
from tritonparam.cli.inspect.stats import TESTS, Group
from tritonparam.cli.record import Entry
from tritonparam.module import BoxLaw
from tritonparam.plan import cut_boxes

TINY = Path(__file__).parents[2] / "examples" / "tiny-llama.json"
LAWS: tuple[RandomLaw, ...] = (
    stream.Normal(mean=0.0, std=0.02),
    stream.Normal(mean=3.0, std=0.5),
    stream.Uniform(low=-0.07, high=0.07),
    stream.Uniform(low=1.0, high=3.0),
    stream.TruncatedNormal(mean=0.0, std=0.02, low=-0.04, high=0.04),
    stream.TruncatedNormal(mean=0.0, std=1.0, low=0.5, high=math.inf),
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
Run = Callable[..., tuple[int, str, str]]


def entry(name: str, shape: tuple[int, ...], *laws: stream.Law, dtype: torch.dtype = torch.float32) -> Entry:
    """A tensor whose first rows follow the first law, one row each, and the rest the last one."""
    boxes = [BoxLaw((row,) + (0,) * (len(shape) - 1), (1, *shape[1:]), law) for row, law in enumerate(laws[:-1])]
    first = len(boxes)
    boxes.append(BoxLaw((first,) + (0,) * (len(shape) - 1), (shape[0] - first, *shape[1:]), laws[-1]))
    return Entry(name, (), "parameter", dtype, shape, tuple(boxes))


def checkpoint(folder: Path, *entries: Entry, max_shard_size: int = 10**9) -> Path:
    settings = {"spec": {}, "seed": 1, "dtype": None, "max_shard_size": max_shard_size, "files": {}}
    write_checkpoint(Job(entries, settings), folder, device=torch.device("cpu"))
    return folder


def verdicts(folder: Path) -> dict[str, str]:
    return {report.name: report.verdict for report in inspect_checkpoint(folder).reports}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_law_is_ok_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    """Rounding is part of what is expected: 8-bit floats change the standard deviation by more than the tests allow."""
    entries = [entry(f"w{number}", (300, 700), law, dtype=dtype) for number, law in enumerate(LAWS)]
    got = verdicts(checkpoint(tmp_path / "m", *entries, entry("c", (5,), stream.Constant(0.1), dtype=dtype)))
    assert got == dict.fromkeys(got, "ok")


def test_rounding_to_eight_bits_would_be_noticed_without_its_expectation(tmp_path: Path) -> None:
    """The previous test can fail: the numbers of an 8-bit float are not ok as float32 ones."""
    folder = checkpoint(tmp_path / "m", entry("w", (300, 700), LAWS[0], dtype=torch.float8_e4m3fn))
    group = Group(LAWS[0], torch.float32)
    group.add(load_file(folder / "model.safetensors")["w"].float().flatten())
    assert any(problem.startswith("shape") for problem in group.problems(1e-6))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_expected_moments_are_those_of_drawn_numbers(law: RandomLaw, dtype: torch.dtype) -> None:
    """Mean and standard deviation over 400,000 torch-drawn numbers within five standard errors (1 in 1e6)."""
    generator = torch.Generator().manual_seed(0)
    count = 400_000
    u = (torch.rand(count, generator=generator, dtype=torch.float64) + 2**-54).clamp(max=1 - 2**-53)
    if isinstance(law, stream.Uniform):
        numbers = law.low + u * (law.high - law.low)
    else:
        low, high = (law.low, law.high) if isinstance(law, stream.TruncatedNormal) else (-math.inf, math.inf)
        ends = [float(torch.special.ndtr(torch.tensor((end - law.mean) / law.std).double())) for end in (low, high)]
        numbers = law.mean + law.std * torch.special.ndtri(ends[0] + u * (ends[1] - ends[0]))
    numbers = numbers.float().to(dtype).double()
    expected = expect(law, dtype)
    error = math.sqrt(expected.variance / count)
    assert abs(float(numbers.mean()) - expected.mean) < 5 * error
    spread = math.sqrt((expected.fourth - expected.variance**2) / count)
    assert abs(float(((numbers - expected.mean) ** 2).mean()) - expected.variance) < 5 * spread
    assert float(expected.shares.sum()) == pytest.approx(1, abs=1e-9)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """4,000 small groups at a total rate of 0.1: more than 4 alarms would have a chance below 1e-7 (Poisson)."""
    generator = torch.Generator().manual_seed(0)
    alarms, total = 0, 4000
    for number in range(total):
        count = 1 + number % 97
        if number % 2:
            group, numbers = Group(LAWS[0], torch.float32), torch.randn(count, generator=generator) * 0.02
        else:
            group, numbers = Group(LAWS[3], torch.float32), torch.rand(count, generator=generator) * 2 + 1
        group.add(numbers)
        alarms += bool(group.problems(0.1 / (TESTS * total)))
    assert alarms <= 4


DAMAGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "mean": (lambda w: w + 0.0005, "mean 0.0005"),
    "std": (lambda w: w * 1.03, "std 0.0206"),
    "shape": (lambda w: (torch.rand(w.shape) * 2 - 1) * 0.02 * math.sqrt(3), "shape off by"),
    "range": (lambda w: w.index_fill(0, torch.tensor([0]), 0.2), "range ["),
    "nan": (lambda w: w.index_fill(0, torch.tensor([0]), math.nan), "200 NaN"),
    "inf": (lambda w: w.index_fill(0, torch.tensor([3]), -math.inf), "200 Inf"),
    "zero": (torch.zeros_like, "std 0, expected 0.02"),
    "dtype": (lambda w: w.half(), "expected float32 [300, 200]"),
    "transposed": (lambda w: w.T.contiguous(), "expected float32 [300, 200]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_disagrees_is_named(tmp_path: Path, damage: str) -> None:
    """Each damage is found by its own test, in the damaged tensor only, and by the digest besides."""
    torch.manual_seed(0)
    folder = checkpoint(tmp_path / "m", entry("a", (300, 200), LAWS[0]), entry("b", (300, 200), LAWS[0]))
    tensors = load_file(folder / "model.safetensors")
    change, problem = DAMAGES[damage]
    save_file(tensors | {"b": change(tensors["b"])}, folder / "model.safetensors")
    got = verdicts(folder)
    assert got["a"] == "ok"
    assert problem in got["b"]
    assert "other bytes than the record says" in got["b"]


def test_one_wrong_bit_is_found_by_the_digest(run: Run, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (300, 200), LAWS[0]))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    code, out, _ = run("inspect", folder, "--json")
    assert code == 1
    assert [row["verdict"] for row in json.loads(out)["tensors"]] == ["other bytes than the record says"]


def test_constants_are_equal_to_the_bit(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (9,), stream.Constant(1.0)), entry("z", (9,), stream.Constant(0.0)))
    tensors = load_file(folder / "model.safetensors")
    tensors["a"][4] += 2**-23
    tensors["z"][0] = -0.0
    save_file(tensors, folder / "model.safetensors")
    got = verdicts(folder)
    assert got["a"].startswith("1 of 9 differ from constant(1)")
    assert got["z"].startswith("1 of 9 differ from constant(0)")


def test_tensors_that_repeat_each_other_are_found(tmp_path: Path) -> None:
    """The defect of initializers that give two shards the same numbers."""
    folder = checkpoint(tmp_path / "m", entry("a", (30, 20), LAWS[0]), entry("b", (600,), LAWS[0]))
    tensors = load_file(folder / "model.safetensors")
    save_file({"a": tensors["a"], "b": tensors["a"].flatten().clone()}, folder / "model.safetensors")
    assert "the same values as a" in verdicts(folder)["b"]


def test_tensors_that_must_agree_are_no_alarm(tmp_path: Path) -> None:
    """All numbers of this law are rounded to 1: that two tensors have the same values says nothing."""
    narrow = stream.Normal(mean=1.0, std=1e-4)
    entries = [entry(name, (30, 20), narrow, dtype=torch.bfloat16) for name in "ab"]
    assert verdicts(checkpoint(tmp_path / "m", *entries)) == {"a": "ok", "b": "ok"}


def test_missing_and_unknown_tensors_are_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (30, 20), LAWS[0]), entry("b", (600,), LAWS[0]))
    tensors = load_file(folder / "model.safetensors")
    save_file({"a": tensors["a"], "c": tensors["b"]}, folder / "model.safetensors")
    assert verdicts(folder) == {"a": "ok", "b": "missing", "c": "not in the model"}
    assert inspect_checkpoint(folder).digest is None


def test_a_missing_file_is_missing_tensors(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", entry("a", (30, 20), LAWS[0]), entry("b", (600,), LAWS[0]), max_shard_size=2400)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert verdicts(folder) == {"a": "ok", "b": "missing"}


def test_boxes_are_judged_by_their_own_laws(tmp_path: Path) -> None:
    """A padding row of zeros is no reason for a verdict; one wrong number in it is."""
    folder = checkpoint(tmp_path / "m", entry("e", (400, 50), stream.Constant(0.0), LAWS[2]))
    inspection = inspect_checkpoint(folder)
    assert inspection.ok
    assert inspection.reports[0].expected == "constant(0) + uniform(-0.07, 0.07)"
    assert inspection.reports[0].moments.count == 20_000
    tensors = load_file(folder / "model.safetensors")
    tensors["e"][0, 7] = 0.01
    save_file(tensors, folder / "model.safetensors")
    assert verdicts(folder)["e"].startswith("1 of 50 differ from constant(0)")


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 4), (2, 3, 4), (3, 1, 1, 5), (1, 30)])
@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pieces_follow_each_other_and_cover_the_tensor(shape: tuple[int, ...], limit: int) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    parts = []
    for box in cut_boxes(shape, limit):
        part = whole
        for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
            part = part.narrow(dimension, offset, size)
        assert part.numel() <= limit
        parts.append(part.flatten())
    assert torch.equal(torch.cat(parts), whole.flatten())


def test_large_tensors_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics and digests do not depend on the size of the pieces."""
    folder = checkpoint(
        tmp_path / "m", entry("e", (40, 50), stream.Constant(0.0), LAWS[2]), entry("v", (999,), LAWS[0])
    )
    want = [report.to_json() for report in inspect_checkpoint(folder).reports]
    monkeypatch.setattr("tritonparam.cli.inspect.inspection._PIECE", 17)
    for got, whole in zip([report.to_json() for report in inspect_checkpoint(folder).reports], want, strict=True):
        assert got == whole | {"mean": pytest.approx(whole["mean"], abs=1e-15), "std": pytest.approx(whole["std"])}


def test_without_a_record_the_config_says_what_to_expect(run: Run, tmp_path: Path) -> None:
    assert run("init", TINY, "--out", tmp_path / "m", "--max-shard-size", "200KB")[0] == 0
    (tmp_path / "m" / RECORD_NAME).unlink()
    code, out, err = run("inspect", tmp_path / "m", "--json")
    values = json.loads(out)
    assert (code, err, values["ok"], values["source"]) == (0, "", True, "config.json")
    rows = {row["name"]: row for row in values["tensors"]}
    assert rows["model.embed_tokens.weight"]["expected"] == "normal(0, 0.02)"
    assert rows["model.norm.weight"] | {"sha256": "", "fingerprint": ""} == {
        "name": "model.norm.weight",
        "shape": [64],
        "dtype": "bfloat16",
        "mean": 1.0,
        "std": 0.0,
        "min": 1.0,
        "max": 1.0,
        "expected": "constant(1)",
        "sha256": "",
        "fingerprint": "",
        "verdict": "ok",
    }
    (tmp_path / "m" / "config.json").unlink()
    code, out, _ = run("inspect", tmp_path / "m")
    assert code == 0
    assert "not known  not compared" in out
    assert "compared with nothing: there is no tritonparam.json and no config.json; name their model by --spec" in out
    code, out, _ = run("inspect", tmp_path / "m", "--spec", TINY)
    assert code == 0
    assert f"against {TINY}: all ok" in out


def test_what_save_wrote_is_compared_with_the_model_that_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or with a record, whose digests count too."""
    (tmp_path / "inspected_spec.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(300, 200)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with tritonparam.deferred_init():
        module = torch.nn.Linear(300, 200)
    tritonparam.materialize(module, seed=3)
    tritonparam.save(module, tmp_path / "m")
    assert run("inspect", tmp_path / "m")[0] == 0
    code, out, err = run("inspect", tmp_path / "m", "--spec", "inspected_spec:build")
    assert (code, err) == (0, "")
    assert "2 tensors against inspected_spec:build: all ok" in out
    for seed, status in (("3", 0), ("4", 1)):
        assert run("init", "inspected_spec:build", "--out", tmp_path / seed, "--seed", seed)[0] == 0
        assert run("inspect", tmp_path / "m", "--spec", tmp_path / seed / RECORD_NAME, "-q")[0] == status
    module.weight.data.mul_(1.1)
    tritonparam.save(module, tmp_path / "m", overwrite=True)
    assert run("inspect", tmp_path / "m", "--spec", "inspected_spec:build", "-q")[0] == 1
    assert run("inspect", tmp_path / "m", "--spec", "nowhere")[0] == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_histogram_counts_as_numpy_does(law: RandomLaw, dtype: torch.dtype) -> None:
    """Numbers on edges, NaN and infinities among them; where numbers lie dense, those on an edge do not matter."""
    expected = expect(law, dtype)
    generator = torch.Generator().manual_seed(1)
    low, high = float(expected.edges[0]), float(expected.edges[-1])
    numbers = (low + (high - low) * (torch.rand(5000, generator=generator) * 1.2 - 0.1)).to(dtype)
    if dtype.itemsize <= 2:
        numbers = torch.cat([numbers, expected.edges.to(dtype), torch.tensor([math.nan, math.inf, 0.0]).to(dtype)])
    group = Group(law, dtype)
    group.add(numbers)
    wide = numbers.double()
    finite = wide[wide.isfinite()].numpy()
    edges = expected.edges.numpy()
    want = [(finite < low).sum(), *np.histogram(finite, edges)[0], (finite > high).sum()]
    assert group.histogram.tolist() == list(want)


def test_tensors_are_read_side_by_side_and_an_error_in_one_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers meet, so there are two at a time; after an error no more is read."""
    from tritonparam.cli.inspect import inspection

    folder = checkpoint(tmp_path / "m", *(entry(f"w{number}", (300,), LAWS[0]) for number in range(50)))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meeting, read, seen = threading.Barrier(2, timeout=60), inspection.read_chunks, []

    def chunks(path: Path, start: int, size: int) -> Iterator[bytearray]:
        seen.append(start)
        if len(seen) <= 2:
            meeting.wait()
        if len(seen) > 2:
            raise OSError("the disk is gone")
        return read(path, start, size)

    monkeypatch.setattr(inspection, "read_chunks", chunks)
    with pytest.raises(OSError, match="the disk is gone"):
        inspect_checkpoint(folder)
    assert len(seen) < 10


def test_the_plot_shows_every_family(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    entries = [entry(f"layers.{number}.w", (60, 50), LAWS[0]) for number in range(3)]
    folder = checkpoint(tmp_path / "m", *entries, entry("u", (900,), LAWS[2], dtype=torch.bfloat16))
    found = families(inspect_checkpoint(folder))
    assert [(family.name, family.tensors, int(family.histogram.sum())) for family in found] == [
        ("layers.*.w", 3, 9000),
        ("u", 1, 900),
    ]
    assert run("inspect", folder, "--plot", tmp_path / "p.png")[0] == 0
    data = (tmp_path / "p.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    code, out, err = run("inspect", folder, "--plot", tmp_path / "p.nonsense")
    assert (code, out) == (2, "")
    assert err.startswith("error: --plot must end in one of .eps, .jpg")
    assert err.count("\n") == 1


def test_a_picture_that_cannot_be_written_costs_no_table(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = checkpoint(tmp_path / "m", entry("u", (900,), LAWS[2]))
    code, out, err = run("inspect", folder, "--plot", tmp_path / "absent" / "p.png")
    assert code == 1
    assert "1 tensors against tritonparam.json: all ok\n" in out
    assert err.endswith("No such file or directory\n")


def test_a_missing_matplotlib_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "m", entry("u", (900,), LAWS[2]))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("inspect", folder, "--plot", tmp_path / "p.png")
    assert code == 1
    assert "--plot needs matplotlib, as in the extra plot: pip install it" in err
    assert not (tmp_path / "p.png").exists()


def test_nothing_to_plot_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    inspection = inspect_checkpoint(checkpoint(tmp_path / "m", entry("c", (9,), stream.Constant(1.0))))
    with pytest.raises(Exception, match="nothing to plot"):
        plot_inspection(inspection, tmp_path / "p.png", "m")


def test_the_fingerprint_is_that_of_what_is_there(run: Run, tmp_path: Path) -> None:
    """In all and of each tensor; a record that says another one is found out."""
    folder = checkpoint(tmp_path / "m", entry("a", (30, 20), LAWS[0]), entry("b", (600,), LAWS[0]))
    want = fingerprint(folder)
    values = json.loads(run("inspect", folder, "--json")[1])
    assert values["fingerprint"] == want.total
    assert {row["name"]: row["fingerprint"] for row in values["tensors"]} == want.tensors
    assert run("inspect", folder)[1].splitlines()[-1] == f"fingerprint {want.total}"
    record = json.loads((folder / RECORD_NAME).read_text())
    assert record["fingerprint"] == want.total
    a, b = (record["tensors"][name] for name in "ab")
    a["fingerprint"], b["fingerprint"] = b["fingerprint"], a["fingerprint"]  # of one total
    (folder / RECORD_NAME).write_text(json.dumps(record))
    code, out, _ = run("inspect", folder)
    assert code == 1
    assert out.count("another fingerprint than the record says") == 2
