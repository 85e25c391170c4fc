"""Boxes saved by any number of processes, cut in any way, are loaded bit for bit by any other, cut in another way."""

import itertools
import math
import os
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors")

from safetensors.torch import load_file

from tests.checkpoint.bits import same
from tests.checkpoint.halves import halves
from tests.fake_mesh import mesh_of
from tritonparam import Box, Generator, Parameter, load, save
from tritonparam.initializer import initializer
from tritonparam.tensor import mesh_boxes

distributed = pytest.importorskip("torch.distributed.tensor")
Replicate, Shard = distributed.Replicate, distributed.Shard
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


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
    parameter._within = (box, whole)


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


def test_rows_of_fully_shard_over_tensor_parallelism_are_saved_and_loaded(tmp_path):
    """Strided shards that are one box: process (d, t) of a mesh of 2 x 2 has row 2 t + d of four."""
    placements = [distributed.placement_types._StridedShard(0, split_factor=2), Shard(0)]
    whole = torch.randn(4, 3)
    rows = [whole[2 * t + d : 2 * t + d + 1] for d in range(2) for t in range(2)]
    for rank, row in enumerate(rows):
        with mesh_of([2, 2], rank) as mesh:
            local = distributed.DTensor.from_local(row.clone(), mesh, placements, run_check=False)
            save({"w": local}, tmp_path / "out", rank=rank, world_size=4)
    into = {"w": torch.zeros(4, 3)}
    load(into, tmp_path / "out")
    assert same(into["w"], whole)
    for rank, row in enumerate(rows):
        with mesh_of([2, 2], rank) as mesh:
            local = distributed.DTensor.from_local(torch.zeros(1, 3), mesh, placements, run_check=False)
            load({"w": local}, tmp_path / "out")
            assert same(local.to_local(), row)


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


def test_dtensors_whose_local_tensors_are_not_as_their_placements_say_are_refused(tmp_path):
    wrong = torch.zeros(1, 3)
    with mesh_of([2, 2]) as mesh:
        tensor = distributed.DTensor.from_local(
            wrong, mesh, [Shard(0), Replicate()], run_check=False, shape=(6, 3), stride=(3, 1)
        )
        for call in (load, save):
            with pytest.raises(ValueError, match=r"'w' has none: a local tensor must have the shape \(3, 3\)"):
                call({"w": tensor}, tmp_path / "out")


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_strided_shards_are_saved_and_loaded(data):
    """As fully_shard cuts what tensor parallelism has cut, uneven rows too: several boxes of a tensor in a process."""
    strided = distributed.placement_types._StridedShard
    size = data.draw(st.sampled_from([12, 1000]))
    rows, outer, inner = data.draw(st.integers(1, 13)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    whole = torch.arange(rows * 3.0).view(rows, 3)
    placements = [strided(0, split_factor=inner), data.draw(st.sampled_from([Shard(0), Replicate()]))]
    with tempfile.TemporaryDirectory() as folder:
        locals_ = []
        for rank in range(outer * inner):
            with mesh_of([outer, inner], rank) as mesh:
                held = mesh_boxes((mesh, placements), (rows, 3), rank)
                local = torch.cat([torch.zeros(0, 3), *(each.box.of(whole) for each in held)])
                tensor = distributed.DTensor.from_local(
                    local, mesh, placements, run_check=False, shape=(rows, 3), stride=(3, 1)
                )
                locals_.append(local)
                save({"w": tensor}, f"{folder}/out", rank=rank, world_size=outer * inner, max_shard_size=size)
        found = {"w": torch.zeros(rows, 3)}
        load(found, f"{folder}/out")
        assert torch.equal(found["w"], whole)
        for rank, local in enumerate(locals_):
            with mesh_of([outer, inner], rank) as mesh:
                tensor = distributed.DTensor.from_local(
                    torch.zeros_like(local), mesh, placements, run_check=False, shape=(rows, 3), stride=(3, 1)
                )
                load({"w": tensor}, f"{folder}/out")
                assert torch.equal(tensor.to_local(), local)
