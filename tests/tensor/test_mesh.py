"""init_data with a device mesh and placements: each process holds what torch's DTensor would give it of the whole."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_mesh import mesh_of
from tritonparam import Generator, Parameter
from tritonparam.initializer import initializer
from tritonparam.tensor import mesh_boxes

distributed = pytest.importorskip("torch.distributed.tensor")
Partial, Replicate, Shard = distributed.Partial, distributed.Replicate, distributed.Shard
StridedShard = distributed.placement_types._StridedShard


def declare(init, shape, dtype="float32"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), "w")


def places_of(shape, mesh, placements):
    """The flat positions of the elements that DTensor gives to this process."""
    whole = torch.arange(math.prod(shape)).view(*shape)
    return distributed.distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


@st.composite
def meshes(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    dims = st.integers(-len(shape), len(shape) - 1)
    placement = st.one_of(st.builds(Shard, dims), st.just(Replicate()))
    return sizes, shape, draw(st.lists(placement, min_size=len(sizes), max_size=len(sizes)))


@st.composite
def strided_meshes(draw):
    sizes, shape, _ = draw(meshes())
    dims = st.integers(0, len(shape) - 1)
    strided = st.builds(lambda dim, split: StridedShard(dim, split_factor=split), dims, st.integers(1, 4))
    placement = st.one_of(st.builds(Shard, dims), st.just(Replicate()), strided)
    return sizes, shape, draw(st.lists(placement, min_size=len(sizes), max_size=len(sizes)))


@given(strided_meshes())
@settings(deadline=None)
@pytest.mark.skipif(not hasattr(Shard, "_custom_chunk"), reason="this torch cuts strided shards evenly only")
def test_boxes_are_what_the_placements_of_torch_cut_one_after_the_other(case):
    """Strided shards too, which leave a process several boxes: each where it lies in the local tensor."""
    sizes, shape, placements = case
    whole = torch.arange(math.prod(shape)).view(*shape)
    for rank in range(math.prod(sizes)):
        with mesh_of(sizes, rank) as mesh:
            want = whole
            for placement, index, parts in zip(placements, mesh.get_coordinate(), sizes, strict=True):
                if not placement.is_replicate():
                    want = placement._split_tensor(want, parts, with_padding=False)[0][index]
            got = torch.full_like(want, -1)
            for each in mesh_boxes((mesh, placements), tuple(shape), local=tuple(want.shape)):
                each.place.of(got).copy_(each.box.of(whole))
        assert torch.equal(got, want)


@pytest.mark.parametrize("rows", range(1, 18))
@pytest.mark.parametrize("sizes", [(2, 2), (4, 2), (3, 4)])
def test_rows_that_fully_shard_cuts_after_tensor_parallelism(rows, sizes):
    """What comes uneven is cut by rows of the tensor-parallel shard, whatever the placements read in turn say."""
    whole = torch.arange(rows)
    for rank in range(math.prod(sizes)):
        with mesh_of(sizes, rank) as mesh:
            over, within = mesh.get_coordinate()
            outer = [*whole.chunk(sizes[1]), *[whole[:0]] * sizes[1]][within]
            want = [*outer.chunk(sizes[0]), *[whole[:0]] * sizes[0]][over]
            layout = mesh, (StridedShard(0, split_factor=sizes[1]), Shard(0))
            got = [each.box.of(whole) for each in mesh_boxes(layout, (rows,), local=(len(want),))]
        assert torch.equal(torch.cat([whole[:0], *got]), want)


def test_local_tensor_that_no_reading_of_its_placements_gives_is_refused():
    with mesh_of([2]) as mesh, pytest.raises(ValueError, match=r"must have the shape \(2,\) .* got \(3,\)"):
        mesh_boxes((mesh, [Shard(0)]), (4,), local=(3,))


def test_fully_shard_over_experts_that_are_not_here_cuts_nothing_in_its_own_way():
    """Its local tensor of a tensor of no rows that it cuts along another dimension has no columns either."""
    with mesh_of([2, 4], 3) as mesh:
        layout = mesh, (Shard(1), Shard(0))
        assert mesh_boxes(layout, (6, 12, 14), local=(0, 0, 14)) == mesh_boxes(layout, (6, 12, 14)) == []
        with pytest.raises(ValueError, match=r"must have the shape \(0, 6, 14\) .* got \(0, 14\)"):
            mesh_boxes(layout, (6, 12, 14), local=(0, 14))
    with mesh_of([2, 4]) as mesh, pytest.raises(ValueError, match=r"\(2, 6, 14\) .* got \(0, 0, 14\)"):
        mesh_boxes((mesh, (Shard(1), Shard(0))), (6, 12, 14), local=(0, 0, 14))


@given(meshes(), st.sampled_from(["normal", "uniform", "truncated_normal"]), st.sampled_from(["float32", "bfloat16"]))
@settings(deadline=None)
def test_every_process_has_what_dtensor_gives_it_and_together_they_have_the_whole(case, init, dtype):
    """Any mesh of one or two dimensions, uneven and empty shards, one tensor dimension cut twice: bit for bit."""
    sizes, shape, placements = case
    whole = declare(init, shape, dtype).init_data().torch.detach()
    put_together, written = torch.full_like(whole, 7).view(-1), torch.zeros(whole.numel(), dtype=torch.bool)
    for rank in range(math.prod(sizes)):
        with mesh_of(sizes, rank) as mesh:
            places = places_of(shape, mesh, placements)
            parameter = declare(init, shape, dtype)
            assert parameter.init_data((mesh, placements), set_sliced=True) is parameter
        got = parameter.torch.detach()
        assert (parameter.shape, parameter.sliced, parameter.has_init) == (tuple(places.shape), True, False)
        assert torch.equal(got, whole.view(-1)[places])
        put_together[places], written[places] = got, True
        with mesh_of(sizes, 0) as mesh:
            other = declare(init, shape, dtype).init_data((mesh, tuple(placements)), rank=rank)
        assert torch.equal(other.torch, parameter.torch)
    assert written.all()
    assert torch.equal(put_together, whole.view(-1))


@pytest.mark.parametrize("init", ["identity", "dirac", "orthogonal", "sparse", "ones", "he_normal"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("placements", [(Shard(0), Shard(0)), (Shard(1), Shard(0)), (Replicate(), Shard(1))], ids=str)
def test_uneven_and_empty_shards_of_every_kind_of_initializer(init, dtype, placements):
    """Seven rows over 4 x 2 processes leave some with none."""
    if init == "sparse":
        from tritonparam.initializer import Sparse

        init = Sparse(0.5)
    shape = [7, 5, 3] if init == "dirac" else [7, 5]
    whole = declare(init, shape, dtype).init_data().torch.detach()
    for rank in range(8):
        with mesh_of([4, 2], rank) as mesh:
            places = places_of(shape, mesh, placements)
            parameter = declare(init, shape, dtype).init_data((mesh, placements))
        assert torch.equal(parameter.torch, whole.view(-1)[places])


def test_local_tensor_of_a_dtensor_is_what_it_takes():
    whole = declare("normal", [7, 6]).init_data().torch.detach()
    with mesh_of([3], 2) as mesh:
        local = declare("normal", [7, 6]).init_data((mesh, [Shard(0)])).torch
        made = distributed.DTensor.from_local(local, mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())
        want = distributed.distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
        assert (made.shape, made.placements) == (want.shape, want.placements)
        assert torch.equal(made.to_local(), want.to_local())
        made.to_local().sum().backward()
    assert local.grad is not None


def test_shard_of_ten_terabytes_is_written_alone():
    parameter = declare("normal", [2_500_000, 1_000_000])
    with mesh_of([1000, 1000], 999_833) as mesh:
        parameter.init_data((mesh, (Shard(0), Shard(0))))
    assert parameter.shape == (1, 1_000_000)  # 2500 rows over 1000 processes: three each, and the last row
    assert parameter.torch.isfinite().all()


@pytest.mark.parametrize(
    ("placements", "error", "text"),
    [
        ([Shard(0)], ValueError, "each of the 2 dimensions of the mesh"),
        ([Shard(0)] * 3, ValueError, "each of the 2 dimensions of the mesh"),
        ([Shard(0), Partial()], ValueError, "Shard and Replicate only, got Partial"),
        ([Replicate(), StridedShard(0, split_factor=2)], ValueError, "must give each process one box"),
        ([Shard(2), Replicate()], ValueError, "one of the 2 dimensions"),
        ([Replicate(), Shard(-3)], ValueError, "one of the 2 dimensions"),
        ([0, 1], TypeError, r"placements \(layout\[1\]\) must be"),
        (None, TypeError, "placements"),
        (Shard(0), TypeError, "placements"),
    ],
)
def test_bad_placements_leave_the_parameter_lazy(placements, error, text):
    parameter = declare("normal", [4, 4])
    with mesh_of([2, 2]) as mesh, pytest.raises(error, match=text):
        parameter.init_data((mesh, placements), True)
    assert (parameter.has_init, parameter.shape, parameter.sliced) == (True, (4, 4), False)


def test_layout_is_a_mesh_and_placements_and_nothing_else():
    parameter = declare("normal", [4, 4])
    with mesh_of([2, 2]) as mesh:
        with pytest.raises(TypeError, match=r"or \(device_mesh, placements\)"):
            parameter.init_data(mesh)
        for layout in ((mesh,), (mesh, [Shard(0), Shard(1)], 0)):
            with pytest.raises(ValueError, match=r"must be \(device_mesh, placements\)"):
                parameter.init_data(layout)
    assert parameter.has_init


@pytest.mark.parametrize(
    ("rank", "error", "text"),
    [
        (4, ValueError, "one of the 4 ranks of the device mesh, got 4"),
        (-1, ValueError, "one of the 4 ranks"),
        (1.0, TypeError, "rank must be an int"),
        (True, TypeError, "rank must be an int"),
        (None, ValueError, "it is rank 5, which is none of the mesh's 4"),
    ],
)
def test_process_outside_the_mesh_has_to_say_for_whom(rank, error, text):
    layout = [Shard(0), Shard(1)]
    parameter = declare("normal", [4, 4])
    with mesh_of([2, 2], rank=5, world=6) as mesh:
        with pytest.raises(error, match=text):
            parameter.init_data((mesh, layout), rank=rank)
        assert parameter.has_init
        parameter.init_data((mesh, layout), rank=3)
    assert torch.equal(parameter.torch, declare("normal", [4, 4]).init_data().torch[2:, 2:])


def test_scalar_can_only_be_replicated():
    whole = declare("ones", []).asnumpy()
    with mesh_of([2]) as mesh:
        assert declare("ones", []).init_data((mesh, [Replicate()])).asnumpy() == whole
        with pytest.raises(ValueError, match="one of the 0 dimensions"):
            declare("ones", []).init_data((mesh, [Shard(0)]))
