"""torch's distributed checkpoint reads what is saved here, and what it writes is loaded, in one process and in two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors import safe_open

from tests.checkpoint.bits import same
from tests.checkpoint.halves import halves
from tritonparam import Box, Parameter, load, save
from tritonparam.checkpoint.stored import SHARDING_KEY

distributed = pytest.importorskip("torch.distributed.tensor")
dcp = pytest.importorskip("torch.distributed.checkpoint")
hf = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
Replicate, Shard = distributed.Replicate, distributed.Shard


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
                mine[name]._within = (box, tuple(each.shape))
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
