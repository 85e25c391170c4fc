"""Clones of a group lie in one buffer, made by one plan, and are ordinary parameters all the same."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

from tests.parameter.contents import bits
from tests.parameter.declared import mixed, normal
from tritonparam import Parameter, ParameterTuple, Tensor
from tritonparam.initializer import Normal


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    size = file.tell()
    file.seek(0)
    return torch.load(file, weights_only=False), size


@pytest.mark.parametrize("init", ["same", "zeros", 1, Normal(3.0)])
def test_clones_lie_in_one_buffer_but_have_storages_of_their_own(init):
    """At multiples of 256 bytes, in order, each with its own bytes only, and no autograd views."""
    group = mixed()
    clones = [clone.torch for clone in group.clone("m", init) if clone.size]
    at = [tensor.data_ptr() for tensor in clones]
    assert all(address % 256 == 0 for address in at)
    assert at == sorted(at)
    assert at[-1] - at[0] <= sum(-(-tensor.nbytes // 256) * 256 for tensor in clones[:-1])
    for tensor in clones:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert (tensor._base, tensor.is_contiguous(), tensor.storage_offset()) == (None, True, 0)
    if init == "same":
        for clone, member in zip(group.clone("m"), group, strict=True):
            assert torch.equal(bits(clone.torch), bits(member.torch))


@pytest.mark.parametrize("init", ["same", "ones", Tensor(np.full((2, 3), 5.0, np.float32))])
def test_clones_of_a_group_are_one_allocation_and_one_plan(init, plans, monkeypatch):
    """What torch.empty is asked for: a buffer of bytes, and tensors without any."""
    group = ParameterTuple([normal(f"w{n}", dtype=dtype).init_data() for n, dtype in enumerate(["float32"] * 5)])
    made, empty = [], torch.empty

    def counted(*arguments, **keywords):
        tensor = empty(*arguments, **keywords)
        if tensor.numel() and not tensor.is_meta:
            made.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(torch, "empty", counted)
    del plans[:]
    clones = group.clone("m", init)
    assert made == [torch.uint8]
    assert [len(plan.operations) for plan in plans] == [5]
    del made[:], plans[:]
    clones[0].clone(init)
    assert made == [torch.float32]
    assert len(plans) == 1


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), lambda p: through_a_file(p)[0]]
)
def test_copy_of_one_clone_takes_its_bytes_alone(duplicate):
    big = Parameter(np.zeros(100_000, np.float32), "big")
    clones = ParameterTuple([normal("a").init_data(), big, normal("b", dtype="bfloat16").init_data()]).clone("m")
    for index in (0, 2):
        other = duplicate(clones[index])
        assert other.torch.untyped_storage().nbytes() == clones[index].nbytes
        assert torch.equal(bits(other.torch), bits(clones[index].torch))
        assert max(len(pickle.dumps(clones[index])), through_a_file(clones[index].torch)[1]) < 8000


def test_clones_go_to_safetensors_and_come_back(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    group = ParameterTuple(member for member in mixed() if member.size)
    clones = group.clone("m")
    safetensors.save_file({clone.name: clone.torch.detach() for clone in clones}, tmp_path / "clones.safetensors")
    back = safetensors.load_file(tmp_path / "clones.safetensors")
    for clone, member in zip(clones, group, strict=True):
        assert torch.equal(bits(back[clone.name]), bits(member.torch))
    safetensors.save_model(
        torch.nn.ParameterList(c.torch for c in clones if c.dtype.is_floating_point), tmp_path / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.AdamW, {"fused": True}),
    ],
)
def test_clones_train_like_any_parameter(kind, options):
    group = ParameterTuple([normal("w", (3, 2)).init_data(), normal("b", (2,)).init_data()])
    clones = group.clone("m")
    plain = [torch.nn.Parameter(member.torch.detach().clone()) for member in group]
    mine = [clone.torch for clone in clones]
    for parameters in (mine, plain):
        optimizer = kind(parameters, lr=0.1, **options)
        for _ in range(3):
            optimizer.zero_grad()
            (torch.ones(4, 3) @ parameters[0] + parameters[1]).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(mine, plain, strict=True))
    clones[0].set_data(np.zeros(6, np.float32), slice_shape=True)  # swapped for other storage
    assert (mine[0].shape, clones[0].torch is mine[0]) == ((6,), True)
    assert torch.equal(mine[1], plain[1])


def test_clone_can_be_shared_and_its_storage_cannot_be_resized():
    group = ParameterTuple([normal("w").init_data(), normal("v").init_data()])
    clones = group.clone("m")
    clones[0].torch.share_memory_()
    assert clones[0].torch.is_shared()
    assert not clones[1].torch.is_shared()
    assert torch.equal(clones[0].torch, group[0].torch)
    with pytest.raises(RuntimeError, match="not resizable"):
        clones[1].torch.detach().resize_(100)


def _double(queue, tensor):
    with torch.no_grad():
        tensor.mul_(2)
    queue.put(None)


def test_clone_goes_to_another_process_by_shared_memory():
    context = torch.multiprocessing.get_context("spawn")
    clone = ParameterTuple([normal("w").init_data(), normal("v").init_data()]).clone("m")[1].torch.detach()
    want, queue = clone * 2, context.SimpleQueue()
    process = context.Process(target=_double, args=(queue, clone))
    process.start()
    process.join(60)
    assert (process.exitcode, torch.equal(clone, want)) == (0, True)


def test_one_clone_keeps_the_memory_of_all_until_it_goes():
    group = ParameterTuple(Parameter(np.full(2**18, n, np.float32), f"w{n}") for n in range(4))
    clones = list(group.clone("m"))
    clone = clones.pop(2)
    del clones
    junk = [torch.full((2**18,), 9.0) for _ in range(8)]
    assert torch.equal(clone.torch, group[2].torch), len(junk)


@pytest.mark.gpu
def test_clones_on_a_gpu_are_one_block_that_is_given_back():
    group = ParameterTuple(normal(f"w{n}", (300, n + 1), "bfloat16").init_data(device="cuda") for n in range(9))
    before = torch.cuda.memory_allocated()
    clones = group.clone("m", dtype="float32")
    nbytes = sum(clone.nbytes for clone in clones)
    assert nbytes <= torch.cuda.memory_allocated() - before <= nbytes + 256 * 10 + 512
    for clone, member in zip(clones, group, strict=True):
        assert clone.torch.data_ptr() % 256 == 0
        assert clone.torch.untyped_storage().nbytes() == clone.nbytes
        assert torch.equal(clone.torch, member.torch.float())
    other = pickle.loads(pickle.dumps(clones[3]))
    assert torch.equal(other.torch, clones[3].torch)
    del clones, clone, other
    assert torch.cuda.memory_allocated() == before
