"""fingerprint: one for a model, its checkpoint and its shards; another for whatever differs; refusals."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from tests.fake_mesh import mesh_of
from tritonparam import (
    Fingerprint,
    Parameter,
    deferred_init,
    fingerprint,
    initializer,
    load,
    materialize,
    save,
)
from tritonparam.checkpoint import CheckpointError, slots_of
from tritonparam.distributed import fingerprints
from tritonparam.distributed.groups import Groups
from tritonparam.plan import Box


class Model(torch.nn.Module):
    """Tied, frozen and odd tensors, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(6)
        self.thin = torch.nn.Parameter(torch.randn(3, 5).bfloat16(), requires_grad=False)
        self.register_buffer("scratch", torch.randn(4), persistent=False)


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model()


def test_a_model_its_checkpoint_and_what_is_loaded_have_one(tmp_path: Path) -> None:
    want = fingerprint(model())
    norm = [f"norm.{each}" for each in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")]
    assert [*want.tensors] == ["embed.weight", *norm, "thin"]
    save(model(), tmp_path / "whole")
    save(model(), tmp_path / "one.safetensors")
    save(model(), tmp_path / "shards", max_shard_size=100)
    for path in ("whole", "one.safetensors", "shards", "shards/model.safetensors.index.json"):
        assert fingerprint(tmp_path / path) == fingerprint(str(tmp_path / path)) == want
    other = model(1)
    assert fingerprint(other) != want
    load(other, tmp_path / "shards")
    assert fingerprint(other) == want
    assert fingerprint(other.state_dict()).tensors["thin"] == want.tensors["thin"]


@pytest.mark.parametrize("backend", ["numpy", "cpu", pytest.param("triton", marks=pytest.mark.kernels)])
def test_every_backend_finds_the_same(backend: str, tmp_path: Path) -> None:
    if backend == "cpu":
        pytest.importorskip("numba")
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    want = fingerprint(model())
    assert fingerprint(model().to(device), backend=backend) == want
    if device == "cpu":
        save(model(), tmp_path / "whole")
        assert fingerprint(tmp_path / "whole", backend=backend) == want


def test_whatever_differs_is_seen_and_named() -> None:
    want = fingerprint(model())

    def differing(changed: torch.nn.Module) -> list[str]:
        found = fingerprint(changed)
        assert found.total != want.total
        assert hash(found) != hash(want)
        return [name for name in found.tensors if found.tensors[name] != want.tensors.get(name)]

    changed = model()
    changed.embed.weight.data[3, 2] = torch.nextafter(changed.embed.weight.data[3, 2], torch.tensor(9.0))
    assert differing(changed) == ["embed.weight"]
    changed = model()
    changed.norm.running_mean[2] = -0.0
    assert differing(changed) == ["norm.running_mean"]
    changed = model()
    changed.norm.weight, changed.norm.bias = changed.norm.bias, changed.norm.weight
    assert differing(changed) == ["norm.bias", "norm.weight"]
    assert differing(model().half()) == [name for name in want.tensors if name != "norm.num_batches_tracked"]
    changed = model()
    changed.extra = torch.nn.Parameter(torch.zeros(0))
    assert differing(changed) == ["extra"]
    changed = model()
    changed.thin = torch.nn.Parameter(changed.thin.data.view(5, 3))
    assert differing(changed) == ["thin"]
    changed = model()
    changed.scratch.zero_()
    assert fingerprint(changed) == want


def test_layout_order_and_holder_do_not_matter() -> None:
    x, y = torch.randn(6, 4), torch.arange(5)
    want = fingerprint({"x": x, "y": y})
    assert fingerprint({"y": y, "x": x.T.clone().T}) == want
    assert fingerprint([Parameter(y, "y"), Parameter(x, "x")]) == want
    assert fingerprint({"x": torch.stack([x, x], -1)[..., 0], "y": y}) == want


def test_it_is_a_value_that_can_be_kept() -> None:
    found = fingerprint({"b": torch.ones(2), "a": torch.zeros(1)})
    assert pickle.loads(pickle.dumps(found)) == found
    assert Fingerprint.of({"a": found.tensors["a"], "b": found.tensors["b"]}) == found
    assert str(found) == f"{found.total} (2 tensors)"
    assert len({found, fingerprint({"a": torch.zeros(1), "b": torch.ones(2)})}) == 1
    parts = fingerprint({"a": torch.zeros(1)}), fingerprint({"b": torch.ones(2)})
    assert f"{sum(int(each.total, 16) for each in parts) % 2**128:032x}" == found.total


def test_large_tensors_of_a_file_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(model(), tmp_path / "whole")
    want, asked = fingerprint(tmp_path / "whole"), []
    monkeypatch.setattr(fingerprints, "_BATCH", 24)
    sums = fingerprints.sums
    monkeypatch.setattr(
        fingerprints,
        "sums",
        lambda rows, backend: asked.extend(each.source.nbytes for each in rows) or sums(rows, backend),
    )
    assert fingerprint(tmp_path / "whole") == want
    assert max(asked) <= 24
    assert sum(asked) == sum(each.nbytes for each in model().state_dict().values()) - model().head.weight.nbytes


def test_deferred_and_lazy_tensors_are_named() -> None:
    with deferred_init():
        deferred = torch.nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match="target must have values: materialize or init_data it first; without are bias, we"
    ):
        fingerprint(deferred)
    materialize(deferred, seed=1)
    assert len(fingerprint(deferred).tensors) == 2
    lazy = Parameter(initializer.initializer("normal", [2, 3]), "lazy")
    with pytest.raises(ValueError, match="without are lazy"):
        fingerprint([lazy])


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: fingerprint(3), TypeError, "target must be a torch.nn.Module"),
        (lambda: fingerprint({"x": torch.zeros(2)}, group="all"), TypeError, "group must be a torch.distributed.Proc"),
        (lambda: fingerprint("nowhere", group=1), ValueError, "group must be None for a checkpoint"),
        (lambda: fingerprint({"x": torch.zeros(2)}, progress=3), TypeError, "progress must be True, False or None"),
        (lambda: fingerprint({"x": torch.zeros(2)}, backend="gpu"), ValueError, "backend must be one of"),
        (lambda: fingerprint({"x": torch.zeros(2).to_sparse()}), ValueError, "target, 'x': source must be a strided"),
        (lambda: fingerprint({"\ud800": torch.zeros(2)}), ValueError, "name must be encodable"),
        (lambda: fingerprint("/nowhere/at/all"), CheckpointError, "/nowhere/at/all"),
    ],
)
def test_what_is_wrong_is_refused(act: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        act()  # type: ignore[operator]


def test_a_box_alone_is_refused() -> None:
    part = Parameter(torch.ones(2, 3), "w")
    part._within = (Box((0, 0), (2, 3)), (4, 3))
    with pytest.raises(
        ValueError, match="group must be the processes that hold the other boxes, got None; boxes are w"
    ):
        fingerprint([part])


def test_a_checkpoint_that_lacks_a_box_is_refused(tmp_path: Path) -> None:
    part = Parameter(torch.ones(2, 3), "w")
    part._within = (Box((0, 0), (2, 3)), (4, 3))
    save([part], tmp_path / "part", rank=0, world_size=2)
    save({}, tmp_path / "part", rank=1, world_size=2)
    with pytest.raises(CheckpointError, match=r"no file has Box\(offsets=\(2, 0\), sizes=\(2, 3\)\) of 'w'"):
        fingerprint(tmp_path / "part")


def test_processes_of_a_mesh_add_up_to_the_whole() -> None:
    """Every process of meshes of two dimensions, one after the other: replicas and empty shards count once."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    whole = torch.randn(5, 7)
    name, want = "w", fingerprint({"w": whole})
    for placements in ([Shard(0), Shard(1)], [Replicate(), Shard(0)], [Shard(-1), Replicate()], [Replicate()] * 2):
        added, facts = None, set()
        for rank in range(6):
            with mesh_of((3, 2), rank) as mesh:
                box = _box(mesh, placements, whole)
                tensor = DTensor.from_local(
                    box.of(whole).clone(), mesh, placements, shape=(5, 7), stride=(7, 1), run_check=False
                )
                (slot,) = slots_of({name: tensor})
                groups = Groups.of(None, [slot.mesh])
                assert not groups.alone
                assert groups.is_first == (rank == 0)
                own = fingerprints._own_sums([slot], groups, None)
                added = own if added is None else added + own
                facts.add(slot.shape)
        assert fingerprints._finished(slot, added[0].tolist()) == (name, want.tensors[name])
        assert facts == {(5, 7)}


def _box(mesh: object, placements: list, whole: torch.Tensor) -> Box:
    from tritonparam.tensor import mesh_box

    return mesh_box((mesh, tuple(placements)), tuple(whole.shape))


def test_meshes_of_different_processes_need_a_group() -> None:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Shard

    with mesh_of((2,), 0, world=4) as one:
        other = DeviceMesh("cpu", torch.tensor([0, 3]))
        tensors = {
            str(n): DTensor.from_local(torch.zeros(2), mesh, [Shard(0)], run_check=False)
            for n, mesh in enumerate((one, other))
        }
        with pytest.raises(
            ValueError, match="group must be given where the tensors' meshes are of different processes"
        ):
            fingerprint(tensors)


def test_the_largest_mesh_has_all_processes() -> None:
    """Of a model some of whose tensors are on a part of the mesh, in whatever order."""
    from torch.distributed.device_mesh import DeviceMesh

    with mesh_of((4,), 1) as whole:
        part = DeviceMesh("cpu", torch.tensor([1, 2]))
        world = torch.distributed.group.WORLD
        assert Groups.of(None, [part, whole]).groups == Groups.of(None, [whole, part]).groups == (world,)
        assert Groups.of(None, [part]).groups == (part.get_group(0),)
        assert Groups.of(None, []).alone
