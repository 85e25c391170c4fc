"""Meshes by the names of their dimensions: what is read, in which order ranks lie, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tritonparam.distributed import DIMENSIONS, MeshShape


def test_the_order_of_the_text_says_nothing() -> None:
    want = MeshShape(pp=2, dp_shard=3, tp=4)
    assert MeshShape.parse("tp=4,dp_shard=3,pp=2") == MeshShape.parse(" pp = 2 , dp_shard=3, tp=4 ") == want
    assert str(want) == "pp=2,dp_shard=3,tp=4"
    assert str(MeshShape()) == "1 rank"


def test_ranks_lie_as_in_a_device_mesh_with_pp_outermost_and_tp_innermost() -> None:
    mesh = MeshShape(pp=2, dp_replicate=3, dp_shard=2, cp=2, tp=2)
    ranks = torch.arange(mesh.ranks).view(*mesh.sizes().values())
    for rank in range(mesh.ranks):
        (want,) = (ranks == rank).nonzero().tolist()
        assert mesh.coordinate(rank) == dict(zip(DIMENSIONS, want, strict=True))


@pytest.mark.parametrize(
    ("mesh", "error", "text"),
    [
        ("", ValueError, "must be sizes by name, such as 'dp_shard=128,tp=8', got ''"),
        ("tp", ValueError, "must be sizes by name"),
        ("tp=8,", ValueError, "must be sizes by name"),
        ("tp=8=8", ValueError, "must be sizes by name"),
        ("tp=two", ValueError, "must be sizes by name"),
        ("tp=" + "9" * 5000, ValueError, "must be sizes by name"),
        ("tp=2,tp=2", ValueError, "must name each dimension once, got tp twice"),
        ("ep=2", ValueError, "among pp, dp_replicate, dp_shard, cp, tp, got 'ep'"),
        ("fsdp=2", ValueError, "got 'fsdp'"),
        ("tp=0", ValueError, "tp must be from 1 to 1,048,576, got 0"),
        ("dp_shard=-1", ValueError, "dp_shard must be from 1"),
        ("dp_shard=1048577", ValueError, "dp_shard must be from 1"),
        ("dp_shard=1024,tp=1025", ValueError, "at most 1,048,576 ranks, got dp_shard=1024,tp=1025 with 1,049,600"),
        ({"tp": 1.5}, TypeError, "tp must be an int"),
        ({"tp": True}, TypeError, "tp must be an int"),
        ({3: 4}, ValueError, "got 3"),
        (8, TypeError, "mesh must be a MeshShape, a string or a mapping of sizes, got 8 of type int"),
    ],
)
def test_what_is_no_mesh_is_refused(mesh: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MeshShape.of(mesh)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rank", "error"), [(6, ValueError), (-1, ValueError), (True, TypeError), ("0", TypeError)])
def test_ranks_that_are_not_there_are_refused(rank: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="rank must be"):
        MeshShape(tp=6).coordinate(rank)  # type: ignore[arg-type]
