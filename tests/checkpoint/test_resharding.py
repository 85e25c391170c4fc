"""Boxes saved by any number of processes, cut in any way, are loaded by any other number, cut in another way: bit for
bit, and so by torch's distributed checkpoint, whose boxes are loaded here too.
"""

import itertools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import load_file

from tests.fake_mesh import mesh_of
from tritonparam import Box, Generator, Parameter, load, save
from tritonparam.checkpoint.errors import CheckpointError, UsageError
from tritonparam.checkpoint.stored import SHARDING_KEY
from tritonparam.initializer import initializer

distributed = pytest.importorskip("torch.distributed.tensor")
dcp = pytest.importorskip("torch.distributed.checkpoint")
hf = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
Replicate, Shard = distributed.Replicate, distributed.Shard

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


def declare(name, shape, dtype="float32", init="normal"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), name)


@st.composite
def grids(draw, shape):
    """A grid of boxes that is a tensor of `shape`, one for each process: any cuts, empty boxes too, but not the first:
    what one process holds whole is the first's to write.
    """
    cuts = [sorted(draw(st.lists(st.integers(0, size), max_size=2))) for size in shape]
    edges = [[0, *cut, size] for cut, size in zip(cuts, shape, strict=True)]
    boxes = [Box((), ())]
    for edge in edges:
        spans = list(itertools.pairwise(edge))
        boxes = [Box((*b.offsets, low), (*b.sizes, high - low)) for b in boxes for low, high in spans]
    return sorted(boxes, key=lambda box: not math.prod(box.sizes))


@st.composite
def cases(draw):
    shapes = draw(st.lists(st.lists(st.integers(1, 7), max_size=3), min_size=1, max_size=3))
    saved = [draw(grids(shape)) for shape in shapes]
    wanted = [draw(grids(shape)) for shape in shapes]
    return (
        shapes,
        saved,
        wanted,
        draw(st.sampled_from(FLOATS)),
        draw(st.sampled_from([None, *FLOATS])),
        draw(st.booleans()),
    )


@given(cases())
@settings(deadline=None, max_examples=60)
def test_boxes_that_are_saved_make_up_the_boxes_that_are_loaded(case):
    """Parameters cut by any grid, saved by as many processes as it takes, in files of a few bytes; loaded by another
    grid, into lazy and into real ones, with casts when saving and loading: every box is the whole's.
    """
    shapes, saved, wanted, stored, loaded, small = case
    names = [f"w{index}" for index in range(len(shapes))]
    whole = {name: declare(name, shape).init_data().torch.detach() for name, shape in zip(names, shapes, strict=True)}
    world = max(map(len, saved))
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world):
            mine = []
            for name, shape, boxes in zip(names, shapes, saved, strict=True):
                if rank < len(boxes):
                    mine.append(declare(name, shape))
                    if boxes[rank].sizes:
                        make_box(mine[-1], boxes[rank])
                    else:
                        mine[-1].init_data()
            size = 8 if small else "5GB"
            report = save(mine, f"{folder}/out", rank=rank, world_size=world, dtype=stored, max_shard_size=size)
            assert report.complete == (rank == world - 1)
        assert os.listdir(folder) == ["out"]
        for rank in range(max(map(len, wanted))):
            lazy = {n: declare(n, s) for n, s, boxes in zip(names, shapes, wanted, strict=True) if rank < len(boxes)}
            boxes = {n: each[rank] for n, each in zip(names, wanted, strict=True) if rank < len(each)}
            load(lazy, f"{folder}/out", layouts=boxes, dtype=loaded, strict=False)
            for name, parameter in lazy.items():
                want = boxes[name].of(whole[name]).to(stored).to(loaded or torch.float32)
                assert same(parameter.torch, want)
                parameter.torch.detach().zero_()
            load(lazy, f"{folder}/out", strict=False)
            for name, parameter in lazy.items():
                want = boxes[name].of(whole[name]).to(stored).to(loaded or torch.float32)
                assert same(parameter.torch, want)


def make_box(parameter, box):
    """Make a lazy parameter that box of itself, as no layout would cut it."""
    from tritonparam.tensor.tensor import realize

    whole = parameter.shape
    realize([parameter], boxes={parameter: box})
    parameter._place = (box, whole)


@st.composite
def meshes(draw, ndim):
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    placement = st.one_of(st.builds(Shard, st.integers(-ndim, ndim - 1)), st.just(Replicate()))
    return sizes, draw(st.lists(placement, min_size=len(sizes), max_size=len(sizes)))


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_dtensors_on_one_mesh_are_loaded_on_another(data):
    """Uneven and empty shards, replicas, a dimension cut twice; each box is written by one process only."""
    shape = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
    sizes, placements = data.draw(meshes(len(shape)))
    other_sizes, other_placements = data.draw(meshes(len(shape)))
    whole = declare("w", shape).init_data().torch.detach()
    world = math.prod(sizes)
    written = 0
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world):
            with mesh_of(sizes, rank) as mesh:
                tensor = distributed.distribute_tensor(whole, mesh, placements, src_data_rank=None)
                report = save({"w": tensor}, f"{folder}/out", rank=rank, world_size=world)
                written += report.nbytes
        assert written == whole.numel() * 4
        for rank in range(math.prod(other_sizes)):
            with mesh_of(other_sizes, rank) as mesh:
                empty = torch.zeros(shape, dtype=torch.bfloat16)
                tensor = distributed.distribute_tensor(empty, mesh, other_placements, src_data_rank=None)
                load({"w": tensor}, f"{folder}/out")
                want = distributed.distribute_tensor(whole.bfloat16(), mesh, other_placements, src_data_rank=None)
                assert same(tensor.to_local(), want.to_local())
                lazy = declare("w", shape)
                load(lazy, f"{folder}/out", layouts=(mesh, other_placements))
                want = distributed.distribute_tensor(whole, mesh, other_placements, src_data_rank=None)
                assert same(lazy.torch, want.to_local())


def test_module_of_dtensors(tmp_path):
    """Each process's parameters are its boxes, before and after; what is whole is in rank 0's file only."""
    torch.manual_seed(0)
    source = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))

    def placed(mesh, values):
        net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))
        net.load_state_dict(values)
        for name, parameter in list(net[0].named_parameters()):
            tensor = distributed.distribute_tensor(parameter.detach(), mesh, [Shard(0)], src_data_rank=None)
            net[0]._parameters[name] = tensor  # torch.nn.Parameter would take the mesh of another rank from a cache
        return net

    for rank in range(3):
        with mesh_of([3], rank) as mesh:
            net = placed(mesh, source.state_dict())
            report = save(net, tmp_path / "out", rank=rank, world_size=3, mapping=lambda name: f"m.{name}")
            assert ("m.1.weight" in report.tensors) == (rank == 0)
    zeros = {name: torch.zeros_like(each) for name, each in source.state_dict().items()}
    for rank in range(2):
        with mesh_of([2], rank) as mesh:
            net = placed(mesh, zeros)
            load(net, tmp_path / "out", mapping=lambda name: f"m.{name}")
            assert same(net[0].weight.to_local(), source[0].weight[4 * rank : 4 * rank + 4])
            assert same(net[1].weight, source[1].weight)
    whole = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))
    load(whole, tmp_path / "out", mapping=lambda name: f"m.{name}")
    assert all(same(whole.state_dict()[name], want) for name, want in source.state_dict().items())


# ------------------------------------------------------------------ torch.distributed.checkpoint


def tensors():
    torch.manual_seed(1)
    return {
        "a.weight": torch.randn(7, 5),
        "a.bias": torch.randn(7).bfloat16(),
        "half": torch.randn(4, 3, 2).half(),
        "steps": torch.arange(5),
        "scalar": torch.tensor(2.5),
    }


def saved_by_rows(values, folder, world):
    """Everything cut by rows over `world` processes, but for the scalar."""
    for rank in range(world):
        mine = {}
        for name, each in values.items():
            mine[name] = each
            if each.ndim:
                step = -(-each.shape[0] // world)
                start = min(rank * step, each.shape[0])
                box = Box((start, *(0,) * (each.ndim - 1)), (min(step, each.shape[0] - start), *each.shape[1:]))
                mine[name] = Parameter(box.of(each), name)
                mine[name]._place = (box, tuple(each.shape))
        save(mine, folder, rank=rank, world_size=world)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoint_reads_what_was_saved(tmp_path):
    """Whole and in shards, through HuggingFaceStorageReader."""
    values = tensors()
    save(values, tmp_path / "whole", max_shard_size=150)
    saved_by_rows(values, tmp_path / "shards", 3)
    for folder in ("whole", "shards"):
        into = {name: torch.zeros_like(each) for name, each in values.items()}
        dcp.load(into, storage_reader=hf.HuggingFaceStorageReader(str(tmp_path / folder)), no_dist=True)
        assert all(same(into[name], each) for name, each in values.items())


def test_torch_puts_the_shards_together(tmp_path):
    """consolidate_safetensors_files, which takes floats of one dimension or more; its file is loaded here again."""
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

    values = {name: each for name, each in tensors().items() if each.is_floating_point() and each.ndim}
    saved_by_rows(values, tmp_path / "shards", 2)
    (tmp_path / "whole").mkdir()
    consolidate_safetensors_files(
        str(tmp_path / "shards"), str(tmp_path / "whole"), fqn_to_index_mapping=dict.fromkeys(values, 1)
    )
    into = {name: torch.zeros_like(each) for name, each in values.items()}
    load(into, tmp_path / "whole")
    assert all(same(into[name], each) for name, each in values.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mapping", [None, {"a.weight": 1, "a.bias": 2, "half": 1, "steps": 2, "scalar": 2}])
@pytest.mark.parametrize("spread", [False, True])
def test_what_distributed_checkpoint_writes_is_loaded(mapping, spread, tmp_path):
    values = tensors()
    writer = hf.HuggingFaceStorageWriter(str(tmp_path / "out"), fqn_to_index_mapping=mapping, save_distributed=spread)
    dcp.save(dict(values), storage_writer=writer, no_dist=True)
    into = {name: torch.zeros_like(each) for name, each in values.items()}
    load(into, tmp_path / "out")
    assert all(same(into[name], each) for name, each in values.items())


WORKER = """
import sys
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import tritonparam

rank, world, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
whole = torch.arange(35.0).view(7, 5)
state = {"w": distribute_tensor(whole, mesh, [Shard(0)]), "b": torch.arange(3.0)}
dcp.save(state, storage_writer=HuggingFaceStorageWriter(folder + "/theirs", save_distributed=True))
for turn in range(2):
    report = tritonparam.save(state, folder + "/ours", overwrite=bool(turn))
    assert report.complete and sorted(report.tensors) == (["b", "w"] if rank == 0 else ["w"]), report
other = {"w": distribute_tensor(torch.zeros(7, 5), mesh, [Shard(1)]), "b": torch.zeros(3)}
for who in ("theirs", "ours"):
    tritonparam.load(other, folder + "/" + who)
    start = [0, 3][rank]
    assert torch.equal(other["w"].to_local(), whole[:, start : start + 3]), other["w"]
    assert torch.equal(other["b"], state["b"])
    other["w"].to_local().zero_()
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_save_and_load_together(tmp_path):
    """A gloo world of two: torch's writer and this one's; each loads what both wrote, cut the other way."""
    (tmp_path / "ours.partial" / "state").mkdir(parents=True)  # of a save that was cut short: it does not matter
    (tmp_path / "ours.partial" / "state" / "run.json").write_text('{"metadata": {}, "save": 2}')
    (tmp_path / "ours.partial" / "state" / "done-00001").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(rank), "2", str(port), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [each.communicate(timeout=120)[1] for each in work]
    assert [each.returncode for each in work] == [0, 0], "\n".join(told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    values = {"w": torch.zeros(7, 5), "b": torch.zeros(3)}
    load(values, tmp_path / "ours")
    assert torch.equal(values["w"], torch.arange(35.0).view(7, 5))


# ------------------------------------------------------------------ the folder


def halves(values):
    """A Parameter for each of two processes."""
    made = []
    for rank in range(2):
        box = Box((2 * rank, 0), (2, 3))
        made.append(Parameter(box.of(values), "w"))
        made[-1]._place = (box, (4, 3))
    return made


def test_files_are_called_and_described_as_torch_does(tmp_path):
    values = torch.randn(4, 3)
    for rank, half in enumerate(halves(values)):
        target = {"w": half, "whole": torch.ones(5), "zero": torch.zeros(0, 2)}
        save(target, tmp_path / "out", rank=rank, world_size=2, max_shard_size=24, metadata={"step": "3"})
    names = ["shard-00001-model-00001-of-00002", "shard-00001-model-00002-of-00002", "shard-00002-model-00001-of-00001"]
    assert sorted(os.listdir(tmp_path / "out")) == [f"{name}.safetensors" for name in names]
    with safe_open(tmp_path / "out" / f"{names[2]}.safetensors", "pt") as opened:
        metadata = opened.metadata()
        assert same(opened.get_tensor("w"), values[2:])
    rows = json.loads(metadata.pop(SHARDING_KEY))
    assert rows == {"w": {"saved_offsets": [2, 0], "global_shape": [4, 3]}}
    assert metadata == {"format": "pt", "DCP_VERSION": "1.0", "step": "3"}


def test_folder_has_no_name_until_the_last_process_is_done(tmp_path):
    first, second = halves(torch.randn(4, 3))
    report = save([second], tmp_path / "out", rank=1, world_size=2)
    assert (report.complete, os.listdir(tmp_path)) == (False, ["out.partial"])
    assert str(report).endswith("; other processes have not written theirs")
    with pytest.raises(CheckpointError, match="out does not exist"):
        load({"w": torch.zeros(4, 3)}, tmp_path / "out")
    assert save([first], tmp_path / "out", rank=0, world_size=2).complete
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(UsageError, match="overwrite=True"):
        save([first], tmp_path / "out", rank=0, world_size=2)


def test_old_checkpoint_is_there_until_the_last_process_is_done(tmp_path):
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    for values in (old, new):
        for rank, half in enumerate(halves(values)):
            save([half], tmp_path / "out", rank=rank, world_size=2, overwrite=True)
            into = {"w": torch.zeros(4, 3)}
            if values is new:
                load(into, tmp_path / "out")
                assert same(into["w"], old if rank == 0 else new)
    assert os.listdir(tmp_path) == ["out"]


def test_a_process_that_begins_again_begins_all_again(tmp_path):
    """What is left of a save that was cut short is not mixed with the next one's."""
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2)
    for rank in (1, 0):
        save([halves(new)[rank]], tmp_path / "out", rank=rank, world_size=2)
    into = {"w": torch.zeros(4, 3)}
    load(into, tmp_path / "out")
    assert same(into["w"], new)
    shutil.rmtree(tmp_path / "out")
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2)
    (tmp_path / "out.partial" / "state" / "begun-00000").touch()  # rank 0 was cut short
    assert not save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2).complete
    assert save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2).complete
    load(into, tmp_path / "out")
    assert same(into["w"], new)
    shutil.rmtree(tmp_path / "out")
    save([halves(old)[1]], tmp_path / "out", rank=1, world_size=2, metadata={"step": "1"})
    save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2, metadata={"step": "2"})
    assert os.listdir(tmp_path) == ["out.partial"]
    assert save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2, metadata={"step": "2"}).complete
    load(into, tmp_path / "out")
    assert same(into["w"], new)


def test_what_a_process_that_died_has_left_is_discarded_by_any(tmp_path, monkeypatch):
    old, new = torch.randn(4, 3), torch.randn(4, 3)
    with monkeypatch.context() as patch:
        patch.setattr("tritonparam.checkpoint.saving.write_file", cut_short)
        with pytest.raises(KeyboardInterrupt):
            save([halves(old)[0]], tmp_path / "out", rank=0, world_size=2)
    assert (tmp_path / "out.partial" / "state" / "begun-00000").exists()
    assert not save([halves(new)[1]], tmp_path / "out", rank=1, world_size=2).complete
    assert save([halves(new)[0]], tmp_path / "out", rank=0, world_size=2).complete
    into = {"w": torch.zeros(4, 3)}
    load(into, tmp_path / "out")
    assert same(into["w"], new)


def cut_short(*_):
    raise KeyboardInterrupt


def test_boxes_need_to_know_how_many_save(tmp_path):
    with pytest.raises(ValueError, match=r"rank and world_size must be given where tensors are boxes.*such are w"):
        save([halves(torch.randn(4, 3))[0]], tmp_path / "out")
    with pytest.raises(ValueError, match="must be a folder"):
        save([halves(torch.randn(4, 3))[0]], tmp_path / "out.safetensors", rank=0, world_size=2)
    assert os.listdir(tmp_path) == []


def test_a_process_that_holds_nothing_writes_no_file(tmp_path):
    save({"w": torch.ones(3)}, tmp_path / "out", rank=1, world_size=2)
    assert save({"w": torch.ones(3)}, tmp_path / "out", rank=0, world_size=2).complete
    assert os.listdir(tmp_path / "out") == ["shard-00001-model-00001-of-00001.safetensors"]
    assert load_file(tmp_path / "out" / "shard-00001-model-00001-of-00001.safetensors")["w"].all()


def test_dtensors_whose_local_tensors_are_no_boxes_are_refused(tmp_path):
    strided = distributed.placement_types._StridedShard
    with mesh_of([2, 2]) as mesh:
        local = torch.zeros(1, 3)
        tensor = distributed.DTensor.from_local(local, mesh, [strided(0, split_factor=2), Shard(0)], run_check=False)
        with pytest.raises(ValueError, match="'w' is none"):
            save({"w": tensor}, tmp_path / "out")
        wrong = distributed.DTensor.from_local(
            torch.zeros(1, 3), mesh, [Shard(0), Replicate()], run_check=False, shape=(6, 3), stride=(3, 1)
        )
        with pytest.raises(ValueError, match="cut as torch cuts them"):
            load({"w": wrong}, tmp_path / "out")
