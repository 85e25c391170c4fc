"""Processes of torch.distributed that save one checkpoint: each its part, or an error in all of them, and no half."""

import json
import os
import signal
import time

import pytest
import torch

from tests.checkpoint.bits import same
from tritonparam import Parameter, load, save
from tritonparam.checkpoint import CheckpointError
from tritonparam.initializer import initializer

distributed = pytest.importorskip("torch.distributed.tensor")
Replicate, Shard = distributed.Replicate, distributed.Shard


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(7)
        self.up, self.down = torch.nn.Linear(7, 11), torch.nn.Linear(11, 7, bias=False)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


def net():
    """The same values in every process."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), Block(), Block(), torch.nn.Linear(7, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def blank():
    model = net()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model


def caught(call):
    try:
        return f"none: {call()}"
    except (CheckpointError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def files(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def check_net(folder):
    """A single process finds in `folder` what `net` holds."""
    model = blank()
    load(model, folder)
    assert all(same(model.state_dict()[name], each) for name, each in net().state_dict().items())


def _replicas(rank, world, folder):
    return save(net(), folder / "out", max_shard_size=400).files


def test_replicas_are_written_once_as_by_one_process(launch, tmp_path):
    written = launch(_replicas, 3, folder=tmp_path)
    save(net(), tmp_path / "one", max_shard_size=400)
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert "model.safetensors.index.json" in files(tmp_path / "out")
    assert all(written)  # each writes some of it
    assert sorted(os.listdir(tmp_path)) == ["one", "out"]


def _model(rank, world, folder):
    from tests.checkpoint.test_transformers import built

    torch.manual_seed(5)
    return save(built("llama"), folder / "out", max_shard_size="20KB").files


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_what_replicas_saved(launch, tmp_path):
    transformers = pytest.importorskip("transformers")
    from tests.checkpoint.test_transformers import built

    assert all(launch(_model, 2, folder=tmp_path))
    torch.manual_seed(5)
    want = built("llama").state_dict()
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(same(again[name], each) for name, each in want.items())


def _stages(rank, world, folder):
    model = net()
    stage = {name: each for name, each in model.state_dict().items() if name[0] in ("01", "23")[rank]}
    return save(stage, folder / "out", max_shard_size=400).tensors


def test_stages_of_a_pipeline_are_one_checkpoint(launch, tmp_path):
    written = launch(_stages, 2, folder=tmp_path)
    assert sorted(written[0] + written[1]) == sorted(net().state_dict())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(net().state_dict())
    assert index["metadata"]["total_parameters"] == sum(each.numel() for each in net().state_dict().values())
    check_net(tmp_path / "out")


WRONG = {
    "overwrite": {"overwrite": 1},
    "dtype": {"dtype": "int8"},
    "max_shard_size": {"max_shard_size": "none"},
    "metadata": {"metadata": {"a": 1}},
    "mapping": {"mapping": lambda name: "one"},
    "progress": {"progress": "yes"},
    "deadline": {"deadline": 0},
    "rank": {"rank": 1},
}


def _wrong(rank, world, folder):
    """Process 1 makes each mistake in turn; then one save is right."""
    told = {}
    for name, arguments in WRONG.items():
        told[name] = caught(lambda given=arguments: save(net(), folder / "out", **given if rank == 1 else {}))
    told["path"] = caught(lambda: save(net(), "" if rank == 1 else folder / "out"))
    lost = torch.nn.Linear(2, 2, device="meta")
    told["meta"] = caught(lambda: save(lost if rank == 1 else net(), folder / "out"))
    shape = {"w": torch.zeros(2 + rank)}
    told["shape"] = caught(lambda: save(shape, folder / "out"))
    told["dtypes"] = caught(lambda: save({"w": torch.zeros(2, dtype=[torch.half, torch.int8][rank])}, folder / "out"))
    told["limits"] = caught(lambda: save(net(), folder / "out", max_shard_size=400 + rank))
    told["strings"] = caught(lambda: save(net(), folder / "out", metadata={"step": str(rank)}))
    told["complex"] = caught(
        lambda: save({"w": torch.zeros(2), f"c{rank}": torch.zeros(2)} | bad(rank), folder / "out")
    )
    torch.distributed.barrier()  # until process 0 has removed what it had begun
    there = sorted(os.listdir(folder))
    save(net(), folder / "out")
    told["exists"] = caught(lambda: save(net(), folder / "out"))
    return told, there


def bad(rank):
    return {"bad": torch.zeros(2, dtype=torch.complex32)} if rank == 1 else {}


def test_a_wrong_argument_of_one_process_is_an_error_of_all(launch, tmp_path):
    found = launch(_wrong, 2, folder=tmp_path)
    for name in (*WRONG, "path", "meta"):
        own, other = found[1][0][name], found[0][0][name]
        assert own.startswith(("ValueError", "TypeError")), (name, own)
        assert other.startswith("CheckpointError: save to ")
        assert f"process 1 of 2: {own[:60]}" in other
    for name in ("shape", "dtypes", "limits", "strings"):
        assert found[0][0][name].startswith("CheckpointError: processes that save together must")
        assert found[0][0][name] == found[1][0][name]
    assert "complex32" in found[0][0]["complex"]
    assert "complex32" in found[1][0]["complex"]
    assert all("exists" in each[0]["exists"] for each in found)
    assert [each[1] for each in found] == [[], []]
    check_net(tmp_path / "out")


def _sharded(rank, world, folder, shape, dims, there=False):
    """A model on a mesh of fully_shard and, where there are two dimensions, tensor parallelism of its blocks."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def placed():
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=dims)
        model = net()
        if "tp" in dims:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            for block in (model[1], model[2]):
                parallelize_module(block, mesh["tp"], plan)
        data = mesh[tuple(each for each in dims if each != "tp")]
        fully_shard(model[1], mesh=data)
        fully_shard(model, mesh=data)
        return model

    def zeroed():
        model = placed()
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                (tensor.to_local() if hasattr(tensor, "to_local") else tensor).zero_()
        return model

    model = placed()
    if not there:
        save(model, folder / "saved", max_shard_size=300)
    else:
        other = zeroed()
        load(other, folder / "saved")
        want, found = (
            {name: each.to_local() if hasattr(each, "to_local") else each for name, each in one.state_dict().items()}
            for one in (model, other)
        )
        assert all(same(found[name], each) for name, each in want.items())


@pytest.mark.slow
def test_tp_over_fsdp_to_hsdp(launch, tmp_path):
    launch(_sharded, 8, folder=tmp_path, shape=(2, 4), dims=("dp", "tp"))
    check_net(tmp_path / "saved")
    launch(_sharded, 6, folder=tmp_path, shape=(2, 3), dims=("rep", "dp"), there=True)


def test_fsdp_of_three_to_tp_over_fsdp(launch, tmp_path):
    launch(_sharded, 3, folder=tmp_path, shape=(3,), dims=("dp",))
    check_net(tmp_path / "saved")
    launch(_sharded, 4, folder=tmp_path, shape=(2, 2), dims=("dp", "tp"), there=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_tp_over_fsdp_saves_is_read_by_torch(launch, tmp_path):
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    hf = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
    launch(_sharded, 4, folder=tmp_path, shape=(2, 2), dims=("dp", "tp"))
    into = blank().state_dict()
    dcp.load(into, storage_reader=hf.HuggingFaceStorageReader(str(tmp_path / "saved")), no_dist=True)
    assert all(same(into[name], each) for name, each in net().state_dict().items())


def _gathered(rank, world, folder):
    """A module under fully_shard whose parameters are gathered is refused until it is sharded again."""
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(net())
    save(model, folder / "before")
    model.unshard()
    told = caught(lambda: save(model, folder / "out")), caught(lambda: load(model, folder / "before"))
    model.reshard()
    load(model, folder / "before")
    return told


def test_gathered_parameters_are_refused(launch, tmp_path):
    for saved, loaded in launch(_gathered, 2, folder=tmp_path):
        for told in (saved, loaded):
            assert told.startswith("ValueError: target must be sharded")
            assert "call reshard() on it first" in told
    assert os.listdir(tmp_path) == ["before"]


def _flat(rank, world, folder, original, strategy):
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    def wrapped(model):
        options = {
            "use_orig_params": original,
            "device_id": torch.device("cpu"),
            "sharding_strategy": ShardingStrategy[strategy],
        }
        model[1] = FullyShardedDataParallel(model[1], **options)
        return FullyShardedDataParallel(model, **options)

    model = wrapped(net())
    model(torch.ones(2, 5)).sum().backward()  # after which flat parameters have their final form
    report = save(model, folder / "out", max_shard_size=200)
    other = wrapped(blank())
    load(other, folder / "out")
    mine, found = ([each._local_shard for each in _flats(one)] for one in (model, other))
    assert all(same(one, two) for one, two in zip(mine, found, strict=True))
    with FullyShardedDataParallel.summon_full_params(model):
        told = caught(lambda: save(model, folder / "gathered"))
    return report.tensors, told


def _flats(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    for each in FullyShardedDataParallel.fsdp_modules(model):
        flat = each._handle.flat_param
        flat._local_shard = getattr(flat, "_local_shard", flat.detach())
        yield flat


@pytest.mark.parametrize(("original", "strategy"), [(True, "FULL_SHARD"), (False, "FULL_SHARD"), (True, "NO_SHARD")])
@pytest.mark.filterwarnings("ignore")
def test_flat_parameters_are_saved_under_their_first_names(launch, tmp_path, original, strategy):
    found = launch(_flat, 3, folder=tmp_path, original=original, strategy=strategy)
    assert {name for tensors, _ in found for name in tensors} == set(net().state_dict())
    check_net(tmp_path / "out")
    if strategy == "FULL_SHARD":
        assert all("leave summon_full_params" in told for _, told in found)


def _lost(rank, world, folder, how):
    """Process 1 is gone while it writes."""
    if rank == 1:
        from tritonparam.checkpoint import saving

        def die(*_):
            os.kill(os.getpid(), how)

        saving.write_file = die
    begin = time.monotonic()
    told = caught(lambda: save(net(), folder / "out", max_shard_size=400, deadline=2))
    return told, time.monotonic() - begin < 60, os.listdir(folder)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_leaves_nothing_that_looks_whole(launch, tmp_path, how):
    for told, soon, there in launch(_lost, 3, lost=(1,), folder=tmp_path, how=how)[::2]:
        assert "process 1 of 3 has not come for 2 s" in told
        assert soon
        assert there in ([], ["out.partial"])
    launch(_replicas, 2, folder=tmp_path)
    assert os.listdir(tmp_path) == ["out"]
    check_net(tmp_path / "out")


def _gone_before(rank, world, folder):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    begin = time.monotonic()
    return caught(lambda: save(net(), folder / "out", deadline=2)), time.monotonic() - begin < 60


def test_a_process_that_never_comes_is_missed_at_the_deadline_that_was_asked_for(launch, tmp_path):
    for told, soon in launch(_gone_before, 3, lost=(1,), folder=tmp_path)[::2]:
        assert "process 1 of 3 has not come for 2 s" in told
        assert soon
    assert os.listdir(tmp_path) == []


def _boxes_here(rank, world, folder):
    """Of a Parameter, one holds a box, the other all."""
    w = Parameter(initializer("ones", [4, 6]), name="w")
    w.init_data(([2], [0, -1], [2, 6], 0, True, ""), rank=0) if rank else w.init_data()
    return caught(lambda: save(w, folder / "out"))


def test_a_tensor_is_whole_everywhere_or_nowhere(launch, tmp_path):
    for told in launch(_boxes_here, 2, folder=tmp_path):
        assert "'w' is whole in process 0, and boxes in process 1" in told


def _replicated(rank, world, folder):
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))
    whole = torch.arange(12.0).view(4, 3)
    target = {
        "all": distributed.distribute_tensor(whole, mesh, [Replicate()]),
        "short": distributed.distribute_tensor(whole[:1], mesh, [Shard(0)]),
        "none": distributed.distribute_tensor(whole[:0], mesh, [Shard(1)]),
    }
    return save(target, folder / "out").tensors


def test_dtensors_that_somebody_holds_whole_are_in_files_for_everybody(launch, tmp_path):
    launch(_replicated, 2, folder=tmp_path)
    found = {"all": torch.zeros(4, 3), "short": torch.zeros(1, 3), "none": torch.zeros(0, 3)}
    load(found, tmp_path / "out")
    assert found["all"].sum() == 66
    assert found["short"].tolist() == [[0, 1, 2]]
    assert not any(name.startswith("shard") for name in os.listdir(tmp_path / "out"))
