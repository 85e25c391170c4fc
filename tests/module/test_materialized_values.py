"""Every value that materialize makes is a function of (seed, name, index), and of nothing else."""

import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.module.deferred_models import deferred_model, drawn, real, same, tensors
from tritonparam import Normal, Uniform, deferred_init, materialize
from tritonparam.cli.init.job import prepare
from tritonparam.cli.init.writing import write_checkpoint

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


def test_the_draw_that_is_a_tensor_has_the_key_of_its_name():
    """derive_key(seed, fully qualified name), index in the whole tensor, whatever part of it is left."""
    with deferred_init():
        module = nn.Sequential(nn.Sequential(nn.Embedding(6, 4, padding_idx=2)), nn.Linear(4, 5))
    materialize(module, seed=11)
    want = drawn(Normal(), "0.0.weight", (6, 4), seed=11)
    want[2] = 0
    assert torch.equal(module[0][0].weight, want)
    assert torch.equal(module[1].bias, drawn(Uniform(low=-0.5, high=0.5), "1.bias", (5,), seed=11))


def test_parts_of_a_tensor_that_are_drawn_apart_have_the_indices_of_the_whole():
    def make():
        w = torch.empty(7, 6)
        w[:4].normal_(0, 1)
        w[4:, :2].normal_(0, 2)
        w[4:, 2:].uniform_(3, 4)
        return {"w": w}

    got, want = real(make).w, drawn(Normal(mean=0, std=1), "w", (7, 6))
    assert torch.equal(got[:4], want[:4])
    assert torch.equal(got[4:, :2], drawn(Normal(mean=0, std=2), "w", (7, 6))[4:, :2])
    assert torch.equal(got[4:, 2:], drawn(Uniform(low=3, high=4), "w", (7, 6))[4:, 2:])


def test_a_draw_over_another_one_is_independent_of_it():
    """`kept` holds what `w` was drawn over with: the same numbers under new ones would make the two equal."""

    def make():
        w = torch.randn(10, 4)
        kept = w[:5].clone()
        w[:5].normal_()
        return {"w": w, "kept": kept}

    got = real(make)
    whole = drawn(Normal(), "w", (10, 4))
    assert torch.equal(got.w[5:], whole[5:])
    assert torch.equal(got.kept, whole[:5])
    assert torch.equal(got.w[:5], drawn(Normal(), "w", (10, 4), occurrence=1)[:5])


def test_copies_and_parts_of_one_draw_agree():
    def make():
        w = torch.randn(12, 3)
        q, k, _ = torch.randn(30, 4).chunk(3)
        parts = {"q": q.clone(), "k": k, "last": w[-2:].clone(), "row": w[3].clone(), "scaled": w * 2}
        return {"w": w, "same": w.clone(), "t": w.t().contiguous(), "flat": w.reshape(-1).clone(), **parts}

    got = real(make, seed=5)
    assert torch.equal(got.w, drawn(Normal(), "w", (12, 3), seed=5))
    assert torch.equal(got.same, got.w)
    assert torch.equal(got.t, got.w.T)
    assert torch.equal(got.flat, got.w.flatten())
    assert torch.equal(got.last, got.w[-2:])
    assert torch.equal(got.row, got.w[3])
    assert torch.equal(got.scaled, got.w * 2)
    assert torch.equal(torch.cat([got.q, got.k]), drawn(Normal(), "q", (30, 4), seed=5)[:20])


def test_layers_that_torch_copies_start_equal_as_in_torch():
    with deferred_init():
        layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 3).layers
    materialize(layers)
    assert torch.equal(layers[0].linear1.weight, layers[2].linear1.weight)


def test_random_numbers_behind_a_tensor_have_further_occurrences_of_its_name():
    """What is computed from hidden draws depends on seed and name, and differs from tensor to tensor."""

    def make():
        a, b = (nn.init.orthogonal_(torch.empty(4, 4)) for _ in range(2))
        return {"a": a, "b": b, "sum": torch.randn(9) + torch.rand(9), "order_buffer": torch.randperm(100)}

    got, again, other = real(make), real(make), real(make, seed=1)
    assert same(got, again)
    for name, tensor in tensors(got).items():
        assert not torch.equal(tensor, tensors(other)[name])
    assert not torch.equal(got.a, got.b)
    want = drawn(Normal(), "sum", (9,), occurrence=1) + drawn(Uniform(), "sum", (9,), occurrence=2)
    assert torch.equal(got.sum, want)
    assert sorted(got.order_buffer.tolist()) == list(range(100))


def pieces(names, order):
    def make():
        made = {}
        for name in order:
            if name == "hidden":
                made[name] = torch.randn(6) * torch.randn(6)
            elif name == "flips_buffer":
                made[name] = torch.bernoulli(torch.full((40,), 0.5))
            elif name == "ortho":
                made[name] = nn.init.orthogonal_(torch.empty(3, 5))
            else:
                made[name] = torch.randn(6)
        return {name: made[name] for name in names}

    return make


NAMES = ["plain", "other", "hidden", "flips_buffer", "ortho"]


@settings(max_examples=40, deadline=None)
@given(st.permutations(NAMES), st.lists(st.sampled_from(NAMES), unique=True))
def test_values_depend_neither_on_the_order_of_construction_nor_on_other_tensors(order, names):
    """A model with some of the tensors, made and registered in any order, has the same bits in them as the full one."""
    want, got = tensors(real(pieces(NAMES, NAMES), seed=2)), tensors(real(pieces(names, order), seed=2))
    assert sorted(got) == sorted(names)
    assert all(torch.equal(got[name], want[name]) for name in names)


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_rounds_once_and_leaves_integers_alone(dtype):
    """The cast of the float32 values, also of replayed ones; what is not floating-point stays."""
    want = tensors(materialize(deferred_model(), seed=6))
    got = tensors(materialize(deferred_model(), seed=6, dtype=dtype))
    assert got["1.mask"].dtype == torch.bool
    for name, tensor in want.items():
        assert got[name].dtype == (dtype if tensor.is_floating_point() else tensor.dtype)
        assert torch.equal(got[name].float(), tensor.to(got[name].dtype).float())


def test_a_model_made_in_another_dtype_has_the_same_values():
    with deferred_init():
        narrow = nn.Linear(5, 4, dtype=torch.bfloat16)
        wide = nn.Linear(5, 4)
    materialize(narrow)
    materialize(wide)
    assert torch.equal(narrow.weight, wide.weight.bfloat16())


def test_backend_and_device_change_no_value():
    want = materialize(deferred_model())
    assert same(materialize(deferred_model(), device="cpu", backend="numpy"), want)
    assert same(materialize(deferred_model(), device=torch.device("cpu")), want)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_values_on_cuda_are_those_of_the_host():
    got = materialize(deferred_model(), device="cuda")
    assert all(tensor.is_cuda for tensor in tensors(got).values())
    assert same(got.cpu(), materialize(deferred_model()))


def test_random_states_are_neither_used_nor_changed():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    module, other = deferred_model(), deferred_model()
    before = states()
    materialize(module)
    assert states() == before
    torch.manual_seed(99)
    assert same(materialize(other), module)


def test_a_checkpoint_of_an_odd_module_has_the_values_of_materialize(tmp_path, monkeypatch):
    """Draws that are shared, cut, turned, drawn over or hidden take the same numbers on both ways."""
    safetensors = pytest.importorskip("safetensors.torch")
    (tmp_path / "odd_module_for_a_checkpoint.py").write_text(
        """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        w = torch.randn(10, 4)
        self.kept = nn.Parameter(w[:5].clone())
        w[:5].normal_()
        self.w = nn.Parameter(w)
        self.q, self.k, self.v = (nn.Parameter(part) for part in torch.randn(9, 2).chunk(3))
        self.turned = nn.Parameter(w.t().contiguous())
        self.flat = nn.Parameter(w.reshape(-1).clone())
        self.ortho = nn.Parameter(nn.init.orthogonal_(torch.empty(5, 3)))
        self.column = nn.Linear(1, 6)
        self.row = nn.Linear(6, 1)
        self.register_buffer("flips", torch.bernoulli(torch.full((20,), 0.5)))
"""
    )
    monkeypatch.chdir(tmp_path)
    job = prepare("odd_module_for_a_checkpoint:Odd", seed=8)
    with_origin = {entry.name for entry in job.entries if any(entry.origins)}
    assert with_origin <= {"kept", "w", "q", "k", "v", "turned", "flat"}
    write_checkpoint(job, tmp_path / "out", device=torch.device("cpu"))
    with deferred_init():
        module = sys.modules["odd_module_for_a_checkpoint"].Odd()
    want, got = materialize(module, seed=8).state_dict(), safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert set(got) == set(want)
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


@pytest.mark.filterwarnings("ignore:the constructor looks at random values")
def test_what_was_looked_at_takes_no_key_from_what_comes_after():
    """A draw that is looked at has its source already; the next one is the first of the tensor's further ones."""
    seen = []

    def make():
        x = torch.randn(3)
        seen.append(x.tolist())
        return {"w": (x * torch.randn(3)).sort()[0]}

    got = real(make).w
    assert torch.equal(got, (torch.tensor(seen[0]) * drawn(Normal(), "w", (3,), occurrence=1)).sort()[0])


def test_a_part_of_a_draw_that_begins_before_the_tensor_is_a_draw_of_its_own():
    """The last rows of a longer draw: the whole of it lies nowhere in the tensor."""
    got = real(lambda: {"w": torch.randn(6)[2:].clone()}).w
    assert torch.equal(got, drawn(Normal(), "w", (6,))[2:])


def test_one_row_of_a_draw_is_that_row():
    got = real(lambda: {"w": torch.randn(6, 4)[2].clone()}).w
    assert torch.equal(got, drawn(Normal(), "w", (6, 4))[2])
