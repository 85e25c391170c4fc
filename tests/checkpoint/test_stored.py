"""Folders, indices, files and boxes of a checkpoint are found, and damage is told before anything is written."""

import json
import os
import re

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import contents, declare, deferred
from tritonparam import Box, load
from tritonparam.checkpoint import stored
from tritonparam.checkpoint.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def test_file_whose_tensors_are_not_aligned(tmp_path):
    """Headers need not be padded: torch's consolidation writes such files."""
    values = torch.randn(5, 3)
    header = json.dumps({"w": {"dtype": "F32", "shape": [5, 3], "data_offsets": [0, 60]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    for dtype in (torch.float32, torch.float16):
        target = {"w": torch.zeros(5, 3, dtype=dtype)}
        load(target, tmp_path / "w.safetensors")
        assert same(target["w"], values.to(dtype))


def split(values, folder):
    """The files of transformers' layout, one tensor each, and the index."""
    names = {name: f"model-{i:05}-of-{len(values):05}.safetensors" for i, name in enumerate(values, start=1)}
    for name, file in names.items():
        save_file({name: values[name]}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


def test_folders_and_indices(checkpoint, tmp_path):
    source, _ = checkpoint
    folder = tmp_path / "sharded"
    folder.mkdir()
    split(contents(source), folder)
    single = tmp_path / "single"
    single.mkdir()
    save_file(contents(source), single / "model.safetensors")
    save_file({"other": torch.ones(1)}, single / "adapter.safetensors")
    for path in (folder, folder / INDEX, str(folder), single, single / "model.safetensors"):
        net = deferred()
        load(net, path)
        assert all(same(net.state_dict()[name], want) for name, want in source.state_dict().items())


def test_half_an_index_is_found_out(checkpoint, tmp_path, unchanged):
    source, _ = checkpoint
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = split(contents(source), folder)
    index = folder / INDEX
    whole = index.read_text()
    index.write_text(json.dumps({"weight_map": {name: file for name, file in names.items() if name != "odd"}}))
    unchanged(folder, ValueError, "missing in it: odd")
    index.write_text(json.dumps({"weight_map": names | {"odd": names["steps"]}}))
    unchanged(folder, CheckpointError, f"{names['steps']} does not hold 'odd'")
    save_file({"odd": torch.ones(3, 5), "steps": torch.tensor(1)}, folder / names["steps"])
    index.write_text(json.dumps({"weight_map": {name: file for name, file in names.items() if name != "odd"}}))
    for strict in (True, False):
        unchanged(folder, CheckpointError, f"{names['steps']} holds 'odd', and the index", strict=strict)
    index.write_text(whole)
    (folder / names["steps"]).unlink()
    unchanged(folder, CheckpointError, f"{names['steps']} is missing: .*'steps'")
    for text in ("{", "[]", "{}", '{"weight_map": 3}'):
        index.write_text(text)
        unchanged(folder, CheckpointError, f"{INDEX} is not the index")


def test_paths_that_are_no_checkpoint(tmp_path, unchanged):
    unchanged(tmp_path / "nothing", CheckpointError, "nothing does not exist")
    (tmp_path / "folder").mkdir()
    unchanged(tmp_path / "folder", CheckpointError, "folder has no safetensors files")
    for name in ("a", "b"):
        save_file({"steps": torch.tensor(1)}, tmp_path / "folder" / f"{name}.safetensors")
    unchanged(tmp_path / "folder", CheckpointError, "both hold 'steps'")


@pytest.mark.parametrize(
    "damage", ["cut", "short", "empty", "length", "json", "dtype", "shape", "offsets", "hole", "long"]
)
def test_damaged_files_are_found_out_before_anything_is_written(damage, checkpoint, unchanged):
    path = checkpoint[1]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    row = table["odd"]

    def rewritten():
        header = json.dumps(table).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]

    if damage == "dtype":
        row["dtype"] = "F4"
    if damage == "shape":
        row["shape"] = [3, -5]
    if damage == "offsets":
        row["data_offsets"][1] += 4
    if damage == "hole":
        table["norm.bias"]["data_offsets"] = table["norm.weight"]["data_offsets"]
    path.write_bytes(
        {
            "cut": data[:-1],
            "short": data[: length // 2],
            "empty": b"",
            "length": b"\xff" * 8 + data[8:],
            "json": data[:8] + b"!" + data[9:],
            "long": data + b"\0",
        }.get(damage)
        or (b"" if damage == "empty" else rewritten())
    )
    unchanged(path, CheckpointError, r"net\.safetensors is not a whole safetensors file")


def shard(folder, rank, boxes, **extra):
    """One process's file, as HuggingFaceStorageWriter writes it: name -> (offsets, values)."""
    rows = {name: {"saved_offsets": list(offsets), **extra} for name, (offsets, _) in boxes.items()}
    path = folder / f"shard-{rank:05}-model-00001-of-00001.safetensors"
    save_file(
        {name: values.contiguous() for name, (_, values) in boxes.items()},
        path,
        {stored.SHARDING_KEY: json.dumps(rows)},
    )
    return path


def test_boxes_that_do_not_cover_a_tensor_are_an_error_that_names_both(tmp_path):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:2])})
    shard(tmp_path, 3, {"w": ((4, 0), whole[4:])})
    parameter, real = declare(shape=(6, 4)), {"w": torch.zeros(6, 4)}
    text = re.escape(f"{tmp_path} has only parts of 'w': no file has its {Box((2, 0), (2, 4))}")
    for target in (parameter, real):
        with pytest.raises(CheckpointError, match=text):
            load(target, tmp_path)
    assert parameter.has_init
    assert not real["w"].any()
    load(parameter, tmp_path, layouts=Box((4, 1), (2, 2)))  # what is there can be had
    assert same(parameter.torch, whole[4:, 1:3])


def test_last_box_that_is_missing_is_known_where_the_files_say_the_shape(tmp_path):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])})
    with pytest.raises(ValueError, match=r"of shape \(6, 4\), in the checkpoint of \(4, 4\)"):
        load({"w": torch.zeros(6, 4)}, tmp_path)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])}, global_shape=[6, 4])
    with pytest.raises(CheckpointError, match="no file has its Box"):
        load({"w": torch.zeros(6, 4)}, tmp_path)


def test_boxes_that_overlap_are_read_once(tmp_path, plans):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])})
    shard(tmp_path, 2, {"w": ((2, 0), whole[2:])})
    target = {"w": torch.zeros(6, 4)}
    load(target, tmp_path)
    assert same(target["w"], whole)
    assert sum(each.out.numel() for plan in plans for each in plan.operations) == 24


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "does not place 'w'"),
        ('{"w": {"saved_offsets": [0]}}', "does not place 'w'"),
        ('{"w": {"saved_offsets": [0, -1]}}', "does not place 'w'"),
        ('{"w": {"saved_offsets": [0, 0], "global_shape": [1, 1]}}', "is of shape"),
    ],
)
def test_sharding_information_that_makes_no_sense(text, match, tmp_path):
    save_file({"w": torch.ones(2, 3)}, tmp_path / "w.safetensors", {stored.SHARDING_KEY: text})
    target = {"w": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=match) as caught:
        load(target, tmp_path / "w.safetensors")
    assert str(tmp_path) in str(caught.value)
    assert not target["w"].any()


def test_more_files_than_may_be_open_at_once(tmp_path):
    resource = pytest.importorskip("resource")
    for number in range(300):
        save_file({f"w{number}": torch.full((3,), float(number))}, tmp_path / f"{number}.safetensors")
    target = {f"w{number}": torch.zeros(3) for number in range(300)}
    probe = os.open(tmp_path, os.O_RDONLY)
    os.close(probe)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 200, limits[1]))
    try:
        load(target, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [tensor[2].item() for tensor in target.values()] == list(range(300))


def test_paths_that_the_system_refuses(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        load({"w": torch.zeros(2)}, tmp_path / ("x" * 300))
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"w": "x" * 300}}))
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        load({"w": torch.zeros(2)}, tmp_path / "index.json")
