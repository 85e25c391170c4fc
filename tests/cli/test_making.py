"""Values are made and hashed ahead of the writer: the same bytes, little memory, and no error or thread gets lost."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.cli.jobs import CPU, NORMAL, job, write
from tritonparam.cli.init import making, prepare
from tritonparam.cli.init.job import Job
from tritonparam.cli.init.making import Making
from tritonparam.cli.init.pieces import Source, pieces_of, split
from tritonparam.cli.record import Entry, Origin
from tritonparam.module import BoxLaw
from tritonparam.stream import Constant, derive_key

MODEL = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drawn = torch.nn.Linear(37, 41)
        self.padded = torch.nn.Embedding(53, 7, padding_idx=5)
        self.replayed = torch.nn.Parameter(torch.randn(29, 11).exp())
        self.copied = torch.nn.Parameter(self.drawn.weight.detach().clone())
        self.none = torch.nn.Parameter(torch.zeros(0, 3))
"""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("piece", [1, 1000, 4096])
@pytest.mark.parametrize("ahead", [1, 4])
def test_no_byte_depends_on_the_pieces(piece: int, ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors cut anywhere, replayed, of several laws, or with numbers of another place."""
    (tmp_path / "making_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    work = prepare("making_model:Model", max_shard_size=4000)
    kinds = {each.name: (each.laws is None, bool(each.origins), len(each.laws or ())) for each in work.entries}
    assert kinds["replayed"][0]
    assert kinds["drawn.weight"][1]
    assert kinds["padded.weight"][2] == 3
    want = write(work, tmp_path / "want")
    monkeypatch.setattr(making, "PIECE", piece)
    monkeypatch.setattr(making, "AHEAD", ahead)
    got = write(work, tmp_path / "got")
    assert got.digest == want.digest
    assert files_of(tmp_path / "got") == files_of(tmp_path / "want")
    assert len(want.shards) > 1


def test_small_shards_of_odd_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 8 and of 11 bytes: elements lie at multiples of their size all the same."""
    (tmp_path / "odd_sizes.py").write_text(
        "import torch\n\n\nclass Model(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = torch.nn.Parameter(torch.randn(2))\n"
        "        self.register_buffer('m', torch.ones(3, dtype=torch.uint8))\n"
        "        self.b = torch.nn.Parameter(torch.randn(2))\n"
        "        self.register_buffer('n', torch.ones(1, dtype=torch.int64))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    want = write(prepare("odd_sizes:Model"), tmp_path / "want")
    got = write(prepare("odd_sizes:Model", max_shard_size=11), tmp_path / "got")
    assert len(got.shards) > 2
    assert got.digest == want.digest


def test_a_tensor_whose_numbers_are_of_another_place_is_cut_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = derive_key(0, "w")
    turned = Origin((6, 8), (1, 6), 0, key, (6, 8), (0, 0))
    whole = Entry("w", (), "parameter", torch.float32, (6, 8), (BoxLaw((0, 0), (6, 8), NORMAL),))
    other = Entry("v", (), "parameter", torch.float32, (8, 6), (BoxLaw((0, 0), (8, 6), NORMAL),), (turned,))
    monkeypatch.setattr(making, "PIECE", 40)
    write(Job((other, whole), job().settings), tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(got["v"], got["w"].t())


@pytest.mark.parametrize("size", [8, 100, 10**6])
def test_pieces_follow_each_other_as_the_file_has_them(size: int) -> None:
    (shard,) = split(job().entries, 10**9)
    extents = shard.extents()
    begin = 0
    for piece in pieces_of(shard, size):
        assert piece[0].start == 0
        assert 0 < piece[-1].stop <= size
        at = {part.entry.name: extents[part.entry.name].start for part in piece}
        for part in piece:
            assert at[part.entry.name] <= begin + part.start < at[part.entry.name] + part.entry.nbytes
            assert part.start % part.entry.dtype.itemsize == 0
        begin += piece[-1].stop
    assert begin == shard.nbytes


def started(monkeypatch: pytest.MonkeyPatch, piece: int = 1000, **options: Any) -> tuple[Any, Making]:
    monkeypatch.setattr(making, "PIECE", piece)
    work = job(scale=5)
    (shard,) = split(work.entries, 10**9)
    return shard, Making(work, [shard], CPU, None)


def test_no_more_pieces_are_made_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    write_piece = Source.write

    def counted(self: Source, piece: Any, out: torch.Tensor) -> None:
        made.append(len(out))
        write_piece(self, piece, out)

    monkeypatch.setattr(Source, "write", counted)
    shard, pieces = started(monkeypatch)
    with pieces:
        read = 0
        for part in pieces.parts(shard):
            time.sleep(0.02)
            read += 1
            assert len(made) <= read - 1 + making.AHEAD
            assert len(part) == made[read - 1]
    assert len(made) == read > 2 * making.AHEAD


def test_a_piece_stays_as_it_is_until_it_is_written_and_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who hash, and the writer, may each be the slower one."""
    update = making._update

    def slow(work: Any) -> None:
        time.sleep(0.01)
        update(work)

    monkeypatch.setattr(making, "_update", slow)
    shard, pieces = started(monkeypatch, 2000)
    with pieces:
        data = b"".join(bytes(part) for part in pieces.parts(shard))
        digests = pieces.digests(shard)
    want = {
        name: hashlib.sha256(data[each.start : each.start + each.nbytes]).hexdigest()
        for name, each in shard.extents().items()
    }
    assert digests == want
    assert list(digests) == [entry.name for entry in shard.entries]


class Broken(Exception):
    """What goes wrong in a test."""


@pytest.mark.parametrize("where", ["_update", "Source.write"])
@pytest.mark.parametrize("after", [0, 3])
def test_what_goes_wrong_in_a_thread_is_raised_and_leaves_nothing(
    where: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = making if where == "_update" else Source
    name = where.removeprefix("Source.")
    before = getattr(owner, name)
    calls: list[int] = []

    def broken(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            raise Broken("memory is gone")
        before(*arguments)

    monkeypatch.setattr(owner, name, broken)
    monkeypatch.setattr(making, "PIECE", 1000)
    with pytest.raises(Broken, match="memory is gone"):
        write(job(scale=5), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*.safetensors*")] == []
    monkeypatch.setattr(owner, name, before)
    assert write(job(scale=5), tmp_path / "out").digest == write(job(scale=5), tmp_path / "want").digest


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_or_a_full_disk_ends_all_threads(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "PIECE", 1000)
    told: list[int] = []

    def progress(count: int) -> None:
        told.append(count)
        if len(told) == 3:
            raise error

    with pytest.raises(error):
        write(job(scale=5), tmp_path / "out", progress=progress)
    assert [path.name for path in tmp_path.rglob("*.safetensors*")] == []


def test_a_shard_is_made_while_the_one_before_it_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()
    write_piece = Source.write

    def noted(self: Source, piece: Any, out: torch.Tensor) -> None:
        write_piece(self, piece, out)
        if piece[0].entry.name == "second":
            made.set()

    monkeypatch.setattr(Source, "write", noted)
    entries = tuple(
        Entry(name, (), "parameter", torch.float32, (10,), (BoxLaw((0,), (10,), Constant(1.0)),))
        for name in ("first", "second")
    )
    settings = job(max_shard_size=40).settings
    waited: list[bool] = []
    write(Job(entries, settings), tmp_path / "out", progress=lambda _: waited.append(made.wait(30)))
    assert waited == [True, True]
