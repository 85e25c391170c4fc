"""save: files that load and safetensors read back bit for bit, or an error and no file."""

import json
import os

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tritonparam
from tests.checkpoint.bits import same
from tests.checkpoint.models import declare
from tritonparam import deferred_init, load, materialize, save
from tritonparam.checkpoint import outgoing
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.saving import SaveReport

INDEX = "model.safetensors.index.json"


def everything():
    """Tensors of every dtype and many strides."""
    integers = {
        str(dtype).removeprefix("torch."): torch.arange(6).to(dtype)
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64)
    }
    floats = {
        f"floats/{dtype}": torch.randn(5, 3).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    }
    strides = {
        "t": torch.randn(7, 5).t(),
        "steps": torch.randn(20, 6)[::3, 1::2],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
        "mask": torch.tensor([True, False, True]),
        "größe.层": torch.ones(3),
        "complex": torch.randn(3, dtype=torch.complex64),
        "grad": nn.Parameter(torch.randn(3)),
    }
    return integers | floats | strides


@pytest.mark.parametrize("staged", [16, 40, 1 << 25], ids=["tiny", "small", "usual"])
def test_safetensors_reads_what_was_saved(staged, tmp_path, monkeypatch):
    """Any dtype, strides, size and name, bit for bit, whatever the size of the staging buffer."""
    monkeypatch.setattr(outgoing.ByteStream.__init__, "__defaults__", (staged,))
    tensors = everything()
    report = save(tensors, tmp_path / "all.safetensors")
    got = load_file(tmp_path / "all.safetensors")
    assert set(got) == set(report.tensors) == set(tensors)
    assert all(same(got[name], each) for name, each in tensors.items())
    assert report == SaveReport(tmp_path / "all.safetensors", tuple(tensors), ("all.safetensors",), report.nbytes, True)
    assert report.nbytes == sum(each.numel() * each.element_size() for each in tensors.values())
    into = {name: torch.zeros(each.shape, dtype=each.dtype) for name, each in tensors.items()}
    load(into, tmp_path / "all.safetensors")
    assert all(same(into[name], each) for name, each in tensors.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float64, "float32"], ids=str)
def test_floats_are_cast_and_nothing_else(dtype, tmp_path):
    tensors = {name: each for name, each in everything().items() if not each.is_complex()}
    save(tensors, tmp_path / "all.safetensors", dtype=dtype)
    wanted = torch.float32 if dtype == "float32" else dtype
    got = load_file(tmp_path / "all.safetensors")
    for name, each in tensors.items():
        assert same(got[name], each.to(wanted) if each.is_floating_point() else each), name


def test_lazy_parameters_are_drawn_on_the_way_and_stay_lazy(tmp_path):
    target = [declare("normal", name="a"), declare("orthogonal", name="b"), declare("ones", (3,), "c", "int32")]
    kept = [each.torch for each in target]
    save(target, tmp_path / "w.safetensors")
    assert all(each.has_init and each.torch is one for each, one in zip(target, kept, strict=True))
    got = load_file(tmp_path / "w.safetensors")
    assert all(same(got[each.name], each.init_data().torch) for each in target)


def test_files_of_at_most_the_size_asked_for(tmp_path):
    tensors = {f"w{i}": torch.randn(10, 10) for i in range(7)} | {"large": torch.randn(500)}
    report = save(tensors, tmp_path / "out", max_shard_size=900)
    assert report.files == tuple(f"model-{i:05}-of-00005.safetensors" for i in range(1, 6))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"] == {"total_parameters": 1200, "total_size": 4800}
    assert set(index["weight_map"]) == set(tensors)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert same(opened.get_tensor(name), tensors[name])
    into = {name: torch.zeros_like(each) for name, each in tensors.items()}
    load(into, tmp_path / "out")
    assert all(same(into[name], each) for name, each in tensors.items())
    assert str(report) == f"{tmp_path / 'out'}: 8 tensors, 4.8 KB, 5 files"


def test_deferred_modules_have_nothing_to_save(tmp_path):
    with deferred_init():
        net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(ValueError, match=r"materialize it first; deferred are 0\.weight, 0\.bias"):
        save(net, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    save(materialize(net), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_shard_size": "huge"}, ValueError, "max_shard_size must be"),
        ({"max_shard_size": 0}, ValueError, "max_shard_size must be"),
        ({"max_shard_size": 1.5}, TypeError, "max_shard_size must be"),
        ({"dtype": torch.int8}, ValueError, "floating-point dtype"),
        ({"overwrite": "yes"}, TypeError, "overwrite must be a bool"),
        ({"progress": 1}, TypeError, "progress must be"),
        ({"metadata": {"step": 3}}, TypeError, "metadata must map strings to strings"),
        ({"metadata": {"format": "np"}}, ValueError, "must not have the keys"),
        ({"mapping": 3}, TypeError, "mapping must be"),
        ({"rank": 0}, ValueError, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, ValueError, r"rank must be in \[0, world_size\)"),
        ({"rank": 0.0, "world_size": 2}, TypeError, "rank must be an int"),
    ],
)
def test_bad_arguments(options, error, text, tmp_path):
    with pytest.raises(error, match=text):
        save({"w": torch.ones(2)}, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


def test_dtype_that_safetensors_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot hold the dtype torch\.complex128 of 'w'"):
        save({"w": torch.ones(2, dtype=torch.complex128)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    save({"w": torch.ones(2)}, tmp_path / "out")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_and_progress_change_nothing(mode, tmp_path, capsys):
    with mode():
        save(nn.Linear(2, 2), tmp_path / "quiet")
        assert capsys.readouterr() == ("", "")
        save([declare()], tmp_path / "out", progress=True)
    assert "saving" in capsys.readouterr().err
    assert same(load_file(tmp_path / "out" / "model.safetensors")["w"], declare().init_data().torch)


def test_public_names():
    assert tritonparam.save is save
    assert tritonparam.SaveReport is SaveReport


def test_what_safetensors_saves_is_the_same_file_content(tmp_path):
    """Of aligned, contiguous tensors even the bytes of the data are laid out alike."""
    tensors = {"b": torch.randn(3, 4), "a": torch.randn(5).half()}
    save(tensors, tmp_path / "ours.safetensors")
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    ours, theirs = ((tmp_path / f"{who}.safetensors").read_bytes() for who in ("ours", "theirs"))
    assert ours[-58:] == theirs[-58:]


@pytest.mark.parametrize("path", ["out", "out.safetensors"])
@pytest.mark.parametrize(
    ("name", "tensor", "error", "text"),
    [
        ("w", torch.ones(2, dtype=torch.complex128), CheckpointError, r"complex128 of 'w'"),
        ("w", torch.ones(2, dtype=torch.complex64).conj(), ValueError, "'w' cannot be saved: .* conjugate"),
        ("w", torch.eye(2).to_sparse(), ValueError, "'w' cannot be saved: .* strided"),
        ("__metadata__", torch.ones(2), ValueError, "'__metadata__'"),
        ("\ud800", torch.ones(2), ValueError, r"'\\ud800'"),
    ],
)
def test_what_no_file_can_hold_is_known_before_anything_is_written(path, name, tensor, error, text, tmp_path):
    with pytest.raises(error, match=text):
        save({"first": torch.ones(3), name: tensor}, tmp_path / path)
    assert os.listdir(tmp_path) == []


def test_one_process_of_several_saves_alone_what_it_holds_whole(tmp_path):
    alone = {"rank": 0, "world_size": 1}
    assert save({"w": torch.ones(2)}, tmp_path / "out", **alone).files == ("model.safetensors",)
    assert save({"w": torch.ones(2)}, tmp_path / "out.safetensors", **alone).complete
