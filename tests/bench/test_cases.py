"""The cases that the bench times are those promised, of the models' own shapes, in memory without overlap."""

from itertools import groupby
from math import prod

import pytest
import torch

from bench.cases import CHANNELS_LAST, COLUMN_SHARD, DTYPES, LAWS, PROVIDERS, cases, gpt2_shapes
from bench.memory import Memory
from tests.bench.samples import case


def test_cases_are_those_promised():
    """Four ops, two dtypes, one tensor and whole models, each by all makers of the device and beside a plain fill."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = cases(device, quick)
            assert len(set(found)) == len(found)
            assert {(c.op, c.dtype, len(c.shapes) > 1) for c in found} == {
                (op, dtype, many) for op in LAWS for dtype in DTYPES for many in (False, True)
            }
            every = set(PROVIDERS[device])
            jobs = [[c.provider for c in group] for _, group in groupby(found, lambda c: c.job)]
            assert len(jobs) == len({c.job for c in found})
            assert all(set(job) in (every, every - {"tritonparam numpy"}) for job in jobs)
            assert {(c.op, c.dtype, c.workload) for c in found if c.provider.startswith("tritonparam")} == {
                (c.op, c.dtype, c.workload) for c in found
            }
    whole = next(c for c in cases("cuda") if c.workload == "GPT-2 124M" and c.dtype == "bfloat16")
    assert len(whole.shapes) == 148
    assert whole.elements == 124_439_808
    assert whole.moved == 248_879_616
    models = {device: {c.workload for c in cases(device)} & {"GPT-2 124M", "Llama 2 7B"} for device in ("cpu", "cuda")}
    assert models == {"cpu": {"GPT-2 124M"}, "cuda": {"GPT-2 124M", "Llama 2 7B"}}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_boxes_are_timed_too(device):
    """A column shard, in memory of its own, and a convolution's weight in channels_last; of the one tensor's bytes."""
    found = cases(device, quick=True)
    strided = [c for c in found if c.layout in (COLUMN_SHARD, CHANNELS_LAST)]
    assert {c.layout: c.workload for c in strided} == {
        layout: f"{layout} of 4 MiB" for layout in (COLUMN_SHARD, CHANNELS_LAST)
    }
    for c in strided:
        ((shape,), (tensor,)) = c.shapes, Memory(c, "cpu").tensors
        assert 0.99 <= c.moved / 2**22 <= 1
        assert tensor.shape == shape
        whole, offsets = c.place(shape)
        if c.layout == COLUMN_SHARD:
            assert tensor.is_contiguous()
            assert (whole, offsets) == ((len(tensor), 8 * 1024), (0, 6 * 1024))
        else:
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()
            assert (whole, offsets) == (shape, (0, 0, 0, 0))


def test_gpt2_shapes_are_those_of_the_model():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2))
    assert [tuple(p.shape) for p in model.parameters()] == list(gpt2_shapes(layers=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_holds_the_tensors_of_a_case_without_overlap(dtype):
    memory = Memory(case(dtype=dtype, shapes=((3, 5), (0, 2), (), (130,))), "cpu")
    assert [tuple(t.shape) for t in memory.tensors] == [(3, 5), (0, 2), (), (130,)]
    assert {t.dtype for t in memory.tensors} == {DTYPES[dtype]}
    memory.poison()
    assert all(bool(t.isnan().all()) for t in memory.tensors)
    for value, tensor in enumerate(memory.tensors):
        tensor.fill_(value)
    assert all(bool((t == value).all()) for value, t in enumerate(memory.tensors))


def test_shapes_add_up():
    assert sum(map(prod, case().shapes)) == case().elements == 70_017
