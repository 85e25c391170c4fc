"""A checkpoint on disk: its bytes depend on the job alone, it appears only when whole, it takes little memory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import load_file

from tests.cli.jobs import NORMAL, entry, job, write
from tritonparam import fingerprint, stream
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.files import INDEX_NAME, RECORD_NAME, hash_tensor, read_header
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.writing import split
from tritonparam.cli.record import Entry
from tritonparam.module import BoxLaw


def load(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def test_shards_are_filled_in_order_and_a_larger_tensor_gets_its_own() -> None:
    entries = tuple(entry(name, (size,)) for name, size in (("a", 10), ("b", 10), ("c", 90), ("d", 5), ("e", 5)))
    shards = split(entries, 80)
    assert [[each.name for each in shard.entries] for shard in shards] == [["a", "b"], ["c"], ["d", "e"]]
    assert [shard.name for shard in shards] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [shard.name for shard in split(entries, 10**6)] == ["model.safetensors"]


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    written = write(job(), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    got = load(tmp_path / "out")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in got.items()} == {
        each.name: (each.dtype, each.shape) for each in job().entries
    }
    assert got["scalar"].item() == 2.5
    assert got["steps"].tolist() == [7, 7, 7]
    assert got["wide.weight"].std() == pytest.approx(0.02, rel=0.2)
    assert written.nbytes == sum(value.nbytes for value in got.values())
    assert written.parameters == sum(value.numel() for value in got.values())


def test_values_and_digest_do_not_depend_on_the_sharding(tmp_path: Path) -> None:
    one, many = write(job(), tmp_path / "one"), write(job(max_shard_size=1000), tmp_path / "many")
    assert (len(one.shards), len(many.shards)) == (1, 2)
    assert one.digest == many.digest
    left, right = load(tmp_path / "one"), load(tmp_path / "many")
    assert all(torch.equal(left[name], right[name]) for name in left | right)
    assert write(job(seed=1), tmp_path / "other").digest != one.digest


def test_the_index_names_the_file_of_every_tensor(tmp_path: Path) -> None:
    written = write(job(max_shard_size=1000), tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX_NAME).read_text())
    assert index["metadata"] == {"total_parameters": written.parameters, "total_size": written.nbytes}
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / file)
    assert set(index["weight_map"]) == {each.name for each in job().entries}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_digest_is_the_documented_one(tmp_path: Path) -> None:
    """The definition in `checkpoint_digest`'s docstring, computed from the files by another reader."""
    written = write(job(max_shard_size=1000), tmp_path / "out")
    want = hashlib.sha256()
    for name, value in sorted(load(tmp_path / "out").items()):
        shape = "[" + ",".join(map(str, value.shape)) + "]"
        data = value.flatten().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        line = f'"{name}" {str(value.dtype).removeprefix("torch.")} {shape} {hashlib.sha256(data).hexdigest()}\n'
        want.update(line.encode())
    assert written.digest == want.hexdigest()
    assert json.loads((tmp_path / "out" / RECORD_NAME).read_text())["digest"] == written.digest


def test_boxes_are_filled_each_with_its_own_law(tmp_path: Path) -> None:
    boxes = (BoxLaw((0, 0), (1, 6), stream.Constant(0.0)), BoxLaw((1, 0), (7, 6), NORMAL))
    settings = job().settings
    cut = Job((Entry("e", (), "parameter", torch.float32, (8, 6), boxes),), settings)
    write(cut, tmp_path / "cut")
    write(Job((entry("e", (8, 6)),), settings), tmp_path / "whole")
    got, want = load(tmp_path / "cut")["e"], load(tmp_path / "whole")["e"]
    assert not got[0].any()
    assert torch.equal(got[1:], want[1:])


class Stop(Exception):
    """Raised by a progress callback to cut a run short."""


def cut_short(work: Job, out: Path, after: int, **options: Any) -> None:
    """Run `work` until `after` bytes are written."""
    seen = 0

    def progress(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > after:
            raise Stop

    with pytest.raises(Stop):
        write(work, out, progress=progress, **options)


def test_a_run_cut_short_is_continued(tmp_path: Path) -> None:
    want = write(job(1000, scale=5), tmp_path / "whole")
    cut_short(job(1000, scale=5), tmp_path / "out", after=24_500)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == ["out.partial"]
    left = {path.name for path in (tmp_path / "out.partial" / "weights").iterdir()}
    assert not {"config.json", INDEX_NAME, RECORD_NAME} & left
    got = write(job(1000, scale=5), tmp_path / "out")
    assert (got.digest, got.fingerprint, got.shards) == (want.digest, want.fingerprint, want.shards)
    records = [json.loads((tmp_path / name / RECORD_NAME).read_text()) for name in ("out", "whole")]
    assert records[0]["tensors"] == records[1]["tensors"]
    assert records[0]["fingerprint"] == want.fingerprint == fingerprint(tmp_path / "out").total
    assert got.reused >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_progress_is_told_of_each_piece_that_has_been_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = write(job(scale=5), tmp_path / "whole")
    header = read_header(tmp_path / "whole" / "model.safetensors").begin
    monkeypatch.setattr("tritonparam.cli.init.making.PIECE", 4000)
    counts: list[int] = []

    def progress(count: int) -> None:
        counts.append(count)
        (file,) = (tmp_path / "out.partial" / "weights").iterdir()
        assert file.stat().st_size == header + sum(counts)

    got = write(job(scale=5), tmp_path / "out", progress=progress)
    assert got.digest == want.digest
    assert sum(counts) == got.nbytes
    assert max(counts) <= 4000


def test_a_damaged_shard_is_written_again(tmp_path: Path) -> None:
    want = write(job(1000, scale=5), tmp_path / "whole")
    cut_short(job(1000, scale=5), tmp_path / "out", after=24_500)
    shard = tmp_path / "out.partial" / "weights" / want.shards[0]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    got = write(job(1000, scale=5), tmp_path / "out")
    assert got.digest == want.digest
    assert all(torch.equal(value, load(tmp_path / "whole")[name]) for name, value in load(tmp_path / "out").items())


def test_a_finished_shard_that_was_put_there_is_made_again(tmp_path: Path) -> None:
    """Its digests prove nothing, as they lie beside it: a file system does not give a copy what the original had."""
    write(job(2000), tmp_path / "want")
    want = load_all(tmp_path / "want")

    def stop(_: int) -> None:
        if len(list((tmp_path / "out.partial" / "state").glob("*.safetensors.json"))) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(job(2000), tmp_path / "out", progress=stop)
    partial = tmp_path / "out.partial"
    (state,) = (partial / "state").glob("*.safetensors.json")
    weights = partial / "weights" / state.name.removesuffix(".json")
    header = read_header(weights)
    weights.write_bytes(weights.read_bytes()[: header.begin] + b"\x11" * (weights.stat().st_size - header.begin))
    said = json.loads(state.read_text())
    said["digests"] = {name: hash_tensor(weights, header.begin, extent) for name, extent in header.extents.items()}
    state.write_text(json.dumps(said))
    shutil.copytree(partial, tmp_path / "unpacked", copy_function=shutil.copy2)
    shutil.rmtree(partial)
    (tmp_path / "unpacked").rename(partial)
    assert write(job(2000), tmp_path / "out").reused == 0
    assert load_all(tmp_path / "out") == want


def load_all(folder: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in load(folder).items()}


def test_an_unfinished_run_of_another_job_is_refused_or_discarded(tmp_path: Path) -> None:
    cut_short(job(1000, scale=5), tmp_path / "out", after=24_500)
    with pytest.raises(UsageError, match="unfinished run with other seed"):
        write(job(1000, seed=3, scale=5), tmp_path / "out")
    want = write(job(1000, seed=3, scale=5), tmp_path / "whole")
    assert write(job(1000, seed=3, scale=5), tmp_path / "out", overwrite=True).digest == want.digest


def test_a_foreign_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"out\.partial is in the way"):
        write(job(), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "years of work"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    def again(count: int) -> None:
        with pytest.raises(UsageError, match="another process is writing"):
            write(job(), tmp_path / "out")
        raise Stop

    with pytest.raises(Stop):
        write(job(), tmp_path / "out", progress=again)


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = write(job(), out)
    with pytest.raises(UsageError, match="--overwrite"):
        write(job(seed=1), out)
    cut_short(job(1000, seed=1, scale=5), out, after=24_500, overwrite=True)
    assert json.loads((out / RECORD_NAME).read_text())["digest"] == old.digest
    new = write(job(1000, seed=1, scale=5), out, overwrite=True)
    assert json.loads((out / RECORD_NAME).read_text())["digest"] == new.digest != old.digest
    assert not (out / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_overwrite_replaces_nothing_but_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a checkpoint"):
        write(job(), tmp_path / "home", overwrite=True)
    with pytest.raises(UsageError, match="not a folder"):
        write(job(), tmp_path / "home" / "letter.txt", overwrite=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_failed_swap_puts_the_old_checkpoint_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(job(), tmp_path / "out")
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "weights":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        write(job(seed=1), tmp_path / "out", overwrite=True)
    assert json.loads((tmp_path / "out" / RECORD_NAME).read_text())["digest"] == old.digest


def test_a_swap_cut_in_the_middle_loses_no_checkpoint(tmp_path: Path) -> None:
    """Killed between its two renames, a run leaves the old checkpoint aside; the next one puts it back first."""
    out, aside = tmp_path / "out", tmp_path / "out.partial" / "replaced"
    old = write(job(), out)
    cut_short(job(1000, seed=1, scale=5), out, after=24_500, overwrite=True)
    out.rename(aside)
    with pytest.raises(UsageError, match="exists; use --overwrite"):
        write(job(1000, seed=1, scale=5), out)
    assert json.loads((out / RECORD_NAME).read_text())["digest"] == old.digest
    out.rename(aside)
    new = write(job(1000, seed=1, scale=5), out, overwrite=True)
    assert json.loads((out / RECORD_NAME).read_text())["digest"] == new.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_other_bytes_than_the_record_promises_are_an_error(tmp_path: Path) -> None:
    promised = {each.name: "0" * 64 for each in job().entries}
    with pytest.raises(CheckpointError, match="other bytes than the record promises"):
        write(Job(job().entries, job().settings, expected=promised), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SUBPROCESS = """
import os, resource, signal, sys
from pathlib import Path
import torch
from tritonparam import Constant, Normal
from tritonparam.cli.init.job import Job
from tritonparam.cli.record import Entry
from tritonparam.cli.init.writing import write_checkpoint
from tritonparam.module import BoxLaw

def entry(name, count, law):
    return Entry(name, (), "parameter", torch.float32, (count,), (BoxLaw((0,), (count,), law),))

def run(out, entries, size, progress=None):
    settings = dict(spec={}, seed=5, dtype=None, max_shard_size=size, files={"config.json": "{}"})
    return write_checkpoint(Job(tuple(entries), settings), Path(out), device=torch.device("cpu"), progress=progress)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""


def python(code: str, *arguments: str, code_is: int = 0) -> str:
    done = subprocess.run([sys.executable, "-c", SUBPROCESS + code, *arguments], capture_output=True, check=False)
    assert done.returncode == code_is, done.stderr.decode()
    return done.stdout.decode()


def test_memory_does_not_grow_with_the_model_or_its_shards(tmp_path: Path) -> None:
    """400 MB in one shard: the peak grows by a few pieces at most, after a small model has warmed up."""
    code = """
run(sys.argv[1] + "/small", [entry("w", 100_000, Normal())], 10**6)
before = peak()
laws = [Normal() if number == 3 else Constant(float(number)) for number in range(40)]
written = run(sys.argv[1] + "/large", [entry(f"w{n}", 2_500_000, law) for n, law in enumerate(laws)], int(sys.argv[2]))
print(peak() - before, len(written.shards), written.nbytes)
"""
    for size, files in ((40_000_000, 10), (10**9, 1)):
        growth, shards, nbytes = map(int, python(code, str(tmp_path / str(files)), str(size)).split())
        assert (shards, nbytes) == (files, 400_000_000)
        assert growth < 80_000_000


def test_a_killed_run_is_completed_by_the_next(tmp_path: Path) -> None:
    """SIGKILL midway leaves nothing under the final name; the rerun reuses shards and ends with the same bytes."""
    code = """
entries = [entry(f"w{n}", 50_000, Normal()) for n in range(6)]
seen = 0
def progress(count):
    global seen
    seen += count
    if sys.argv[2] == "kill" and seen > 500_000:
        os.kill(os.getpid(), signal.SIGKILL)
written = run(sys.argv[1], entries, 200_000, progress)
print(written.digest, written.reused)
"""
    out = tmp_path / "out"
    python(code, str(out), "kill", code_is=-signal.SIGKILL)
    assert not out.exists()
    assert not list(tmp_path.rglob("config.json"))
    digest, reused = python(code, str(out), "go").split()
    whole, none = python(code, str(tmp_path / "whole"), "go").split()
    assert digest == whole
    assert (int(reused), int(none)) == (2, 0)
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))
