"""What a load would write twice, or cannot write, is refused before anything is written."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import declare
from tritonparam import load, save
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.matching import landing

needs_maps = pytest.mark.skipif(not landing._MAPS.exists(), reason="this system does not tell what is mapped")


def values_for(target):
    return {name: torch.rand(each.shape).to(each.dtype) for name, each in target.items()}


def refused(target, path, match):
    before = {name: each.detach().clone() for name, each in target.items()}
    with pytest.raises(ValueError, match=match):
        load(target, path, strict=False)
    assert all(same(target[name], want) for name, want in before.items())


X = torch.zeros(12)
Y = torch.zeros(6, 8)
OVERLAPS = {
    "a view of another": {"a": X, "b": X[3:5]},
    "ends": {"a": X[:7], "b": X[6:]},
    "another shape": {"a": X, "b": X.view(3, 4)},
    "another order": {"a": Y.view(-1)[:36].view(6, 6), "b": Y.view(-1)[:36].view(6, 6).t()},
    "another dtype": {"a": X, "b": X.view(torch.int32)},
    "bytes": {"a": X, "b": X.view(torch.uint8)[47:]},
    "rows and columns": {"a": Y[2], "b": Y[:, 5]},
    "one of many columns": {f"c{d}": Y.view(-1).as_strided((3,), (16,), d) for d in range(16)} | {"a": Y[4, 7:]},
    "a third": {"a": X[:4], "b": X[4:8], "c": X[7:]},
    "a parameter": {"a": nn.Parameter(X), "b": X.view(4, 3)},
}


@pytest.mark.parametrize("few", [64, 1])
@pytest.mark.parametrize("kind", OVERLAPS)
def test_tensors_that_overlap_are_refused(kind, few, tmp_path, monkeypatch):
    monkeypatch.setattr(landing, "_FEW", few)
    target = OVERLAPS[kind]
    save_file(values_for(target), tmp_path / "w.safetensors")
    refused(target, tmp_path / "w.safetensors", "must hold tensors that do not overlap: . shares memory with")


@pytest.mark.parametrize("few", [64, 1])
def test_views_that_only_lie_among_each_other_are_loaded(few, tmp_path, monkeypatch):
    monkeypatch.setattr(landing, "_FEW", few)
    grid, line = torch.zeros(6, 8), torch.zeros(20, dtype=torch.uint8)
    target = {f"column{d}": grid[:, d] for d in range(8)} | {
        "a": line[:4].view(torch.float32),
        "b": line[4:5],
        "c": line[5:],
    }
    target |= {"none": line[:0], "again": line[:0], "one": torch.zeros(3)[1]}
    values = values_for(target)
    save_file(values, tmp_path / "w.safetensors")
    load(target, tmp_path / "w.safetensors")
    assert all(same(each, values[name]) for name, each in target.items())


def test_a_tensor_that_overlaps_itself_is_refused(tmp_path):
    save_file({"a": torch.ones(3, 4)}, tmp_path / "w.safetensors")
    for target in (torch.zeros(4).expand(3, 4), torch.zeros(6).as_strided((3, 4), (1, 1))):
        refused({"a": target}, tmp_path / "w.safetensors", "a cannot be written to: .* overlap itself")


def test_lazy_parameters_stay_lazy_where_others_overlap(tmp_path):
    parameter = declare(shape=(12,))
    save_file({"w": torch.ones(12), "a": torch.ones(12), "b": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="do not overlap"):
        load({"w": parameter, "a": X, "b": X[3:5]}, tmp_path / "w.safetensors")
    assert parameter.has_init
    assert not X.any()


@needs_maps
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_memory_that_is_mapped_for_reading_is_refused(tmp_path):
    """Writing to it would end the process."""
    np.zeros(5000, np.float32).tofile(tmp_path / "data")
    mapped = torch.from_numpy(np.memmap(tmp_path / "data", np.float32, "r"))
    save_file({"a": torch.ones(5000), "b": torch.ones(7)}, tmp_path / "w.safetensors")
    for target in ({"a": mapped}, {"b": torch.zeros(7), "a": mapped}, {"b": mapped[4990:4997]}):
        refused(target, tmp_path / "w.safetensors", "[ab] cannot be written to: it lies in read-only memory")
    for mode in ("c", "r+"):
        writable = torch.from_numpy(np.memmap(tmp_path / "data", np.float32, mode))
        load({"a": writable}, tmp_path / "w.safetensors", strict=False)
        assert writable.sum() == 5000


@needs_maps
def test_a_tensor_that_is_mapped_from_the_file_that_is_read_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.arange(2000.0), "b": torch.ones(2000)}, path)
    before = path.read_bytes()
    start = len(before) - 16000
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    target = {"b": torch.from_numpy(np.memmap(path, np.float32, "r+", start, (2000,)))}
    for read in (path, link, tmp_path / "." / "w.safetensors"):
        refused(target, read, "b cannot be written to: it is mapped from .*, which is read")
    assert path.read_bytes() == before
    alone = {"b": torch.from_numpy(np.memmap(path, np.float32, "c", start, (2000,)))}  # writes stay in memory
    load(alone, path, strict=False)
    assert alone["b"].sum() == 2000
    assert path.read_bytes() == before


def test_what_is_mapped_from_a_file_is_saved_over_it(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.arange(2000.0), "b": torch.ones(2000)}, path)
    mapped = load_file(path)
    save({"b": mapped["b"] * 2, "a": mapped["a"]}, path, overwrite=True)
    got = load_file(path)
    assert torch.equal(got["a"], torch.arange(2000.0))
    assert got["b"].sum() == 4000


def test_systems_that_do_not_tell_what_is_mapped_load_as_well(tmp_path, monkeypatch):
    save_file({"a": torch.ones(3)}, tmp_path / "w.safetensors")
    target = {"a": torch.zeros(3)}
    for text in (None, b"0-1\n", b"\xff\n", b"7f-80 r--p"):
        if text is not None:
            (tmp_path / "maps").write_bytes(text)
        monkeypatch.setattr(landing, "_MAPS", tmp_path / "maps")
        load(target, tmp_path / "w.safetensors")
        assert target["a"].sum() == 3


def test_a_pipe_among_the_files_of_a_checkpoint_stops_it(tmp_path):
    """The first file is good, and the load has not begun."""
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(bytes(7))
    target = {"a": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"b\.safetensors is not a whole safetensors file"):
        load(target, tmp_path)
    assert not target["a"].any()
