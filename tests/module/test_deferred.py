"""deferred_init: any constructor runs as it would, but allocates and draws nothing, and the tape knows what it did."""

import copy
import math
import pickle
import resource

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from tritonparam import declarations, deferred_init, materialize
from tritonparam.module.replay import Replay
from tritonparam.module.tape import History
from tritonparam.plan.views import View

LOOKS = pytest.mark.filterwarnings("ignore:the constructor looks at random values")


class Holder(nn.Module):
    """A module with what `make` returns as buffers: a tensor as `w`, a dict under its keys."""

    def __init__(self, make):
        super().__init__()
        made = make()
        for name, tensor in (made if isinstance(made, dict) else {"w": made}).items():
            self.register_buffer(name, tensor)


def deferred(make):
    with deferred_init(), torch.no_grad():
        return Holder(make)


def value(make, seed=0):
    """What the tensor that `make` returns becomes."""
    return materialize(deferred(make), seed=seed).w


def test_a_model_of_four_terabytes_is_built_without_memory():
    deferred(lambda: torch.zeros(1).add(1))  # what torch imports for it
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with deferred_init():
        model = nn.Sequential(*(nn.Linear(1_000_000, 100_000) for _ in range(10)))
        model.append(copy.deepcopy(model[0]))
    assert sum(parameter.nbytes for parameter in model.parameters()) > 4 * 10**12
    assert all(parameter.is_meta for parameter in model.parameters())
    assert [each.laws is None for each in declarations(model)] == [False] * 22
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_nothing_stays_patched_after_the_last_block():
    original = nn.init._no_grad_trunc_normal_
    with deferred_init():
        with deferred_init():
            assert nn.init._no_grad_trunc_normal_ is not original
        assert nn.init._no_grad_trunc_normal_ is not original
        assert torch.ones(1).sum() == 1
        w = nn.init.trunc_normal_(torch.empty(3))
    assert w.is_meta
    assert nn.init._no_grad_trunc_normal_ is original
    assert not nn.init.trunc_normal_(torch.empty(3)).is_meta


def test_tensors_look_as_if_they_were_where_they_were_made_for():
    with deferred_init():
        w = nn.Linear(3, 2).weight
        assert (w.device, w.is_cpu, w.is_meta, w.is_cuda, w.get_device()) == (
            torch.device("cpu"),
            True,
            False,
            False,
            -1,
        )
        assert w.to("cpu") is w.cpu() is w
        assert w.to(torch.bfloat16).dtype == torch.bfloat16
        assert torch.zeros_like(w).device == torch.device("cpu")
    assert w.is_meta


@pytest.mark.parametrize(
    "move",
    [
        lambda module: module.to("cpu"),
        lambda module: module.to("cpu", non_blocking=True),
        lambda module: module.to(torch.float32),
        lambda module: module.to("cpu", torch.float32),
        lambda module: module.cpu().float(),
    ],
)
def test_a_move_to_where_a_module_is_keeps_ties_and_attributes(move):
    with deferred_init():
        module = nn.Module()
        module.register_buffer("a", torch.zeros(2))
        module.register_buffer("b", module.a)
        module.a.tag = "kept"
        move(module)
    materialize(module)
    assert module.a is module.b
    assert module.a.tag == "kept"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_made_for_cuda_become_real_there():
    with deferred_init(), torch.device("cuda"):
        model = nn.Linear(3, 2)
        assert (model.weight.is_cuda, model.weight.get_device()) == (True, 0)
        assert (model.weight + 1).device.type == "cuda"
    assert materialize(model).weight.is_cuda


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor([[1.0, 2], [3, 4]]),
        lambda: torch.tensor(5),
        lambda: torch.tensor([True, False]),
        lambda: torch.as_tensor([1.5]),
        lambda: torch.arange(3, 17, 2),
        lambda: torch.linspace(0, 1, 7, dtype=torch.float64),
        lambda: torch.eye(3),
        lambda: 1.0 / 10000 ** (torch.arange(0, 8, 2, dtype=torch.int64).float() / 8),
        lambda: torch.triu(torch.full((4, 4), -math.inf), diagonal=1),
        lambda: torch.ones(3, 3).tril().bool(),
        lambda: torch.arange(12).view(3, 4).t().contiguous(),
        lambda: torch.arange(4).expand(3, 4),
        lambda: torch.stack([torch.zeros(2), torch.ones(2)]),
        lambda: torch.cat([torch.arange(2), torch.arange(3)]).sort().values,
        lambda: torch.einsum("i,j->ij", torch.arange(3.0), torch.arange(4.0)),
        lambda: torch.zeros(4).index_fill_(0, torch.tensor([1, 3]), 2.0),
        lambda: torch.zeros(5).masked_fill_(torch.arange(5) > 2, 7.0),
        lambda: torch.linalg.inv(torch.tensor([[2.0, 0], [0, 4]])),
        lambda: torch.view_as_complex(torch.arange(6.0).view(3, 2)),
        lambda: torch.polar(torch.ones(3), torch.arange(3.0)),
        lambda: torch.randperm(1).to(torch.int32),
        lambda: nn.init.dirac_(torch.empty(3, 3, 3)),
        lambda: nn.functional.pad(torch.ones(2, 2), (1, 1)),
        lambda: torch.bincount(torch.tensor([1, 1, 3])),
        lambda: torch.tensor([1.0, 2.0]).unique(),
        lambda: torch.hann_window(5),
        lambda: torch.nonzero(torch.tensor([0, 1, 1])),
    ],
)
def test_what_is_not_random_comes_out_as_torch_computes_it(make):
    """Bits, dtype, shape and strides."""
    got, want = value(make), make()
    assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride())
    assert torch.equal(got, want)


def sinusoids():
    table = torch.zeros(10, 6)
    position = torch.arange(10, dtype=torch.float).unsqueeze(1)
    rate = torch.exp(torch.arange(0, 6, 2).float() * (-math.log(10000.0) / 6))
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table.unsqueeze(0)


def test_a_table_written_in_strides_is_whole():
    assert torch.equal(value(sinusoids), sinusoids())


def test_the_default_dtype_of_the_constructor_holds():
    def make():
        torch.set_default_dtype(torch.float64)
        try:
            return torch.arange(3) / 7 + torch.tensor(0.1)
        finally:
            torch.set_default_dtype(torch.float32)

    got, want = value(make), make()
    assert got.dtype == torch.float64
    assert torch.equal(got, want)


@LOOKS
def test_constructors_may_ask_for_values():
    """What they see is what the tensor becomes, whatever the seed; known values are seen as they are."""
    seen = []

    def make():
        w = torch.randn(5)
        seen.append(w.tolist())
        assert torch.arange(4).sum().item() == 6
        assert np.asarray(torch.ones(2)).tolist() == [1, 1]
        assert 3 in torch.arange(4)
        assert repr(torch.zeros(2)) == "tensor([0., 0.])"
        assert [int(i) for i in torch.arange(2)] == [0, 1]
        return w if w.max() > w.min() else None

    assert value(make, seed=0).tolist() == value(make, seed=1).tolist() == seen[0] == seen[1]


@LOOKS
def test_random_numbers_without_a_law_may_be_asked_for_too():
    seen = []

    def make():
        order = torch.randperm(50)
        seen.append(order.tolist())
        return order

    assert value(make, seed=0).tolist() == value(make, seed=1).tolist() == seen[0] == seen[1]
    assert sorted(seen[0]) == list(range(50))


@LOOKS
def test_values_seen_from_two_draws_differ_and_later_draws_depend_on_the_seed():
    def make():
        first, second = torch.randn(50), torch.randn(50)
        assert not torch.equal(first, second)
        return {"first": first, "second": second, "free": torch.randn(50)}

    one, two = (materialize(deferred(make), seed=seed) for seed in (0, 1))
    assert torch.equal(one.first, two.first)
    assert torch.equal(one.second, two.second)
    assert not torch.equal(one.free, two.free)


def test_values_that_were_never_written_cannot_be_asked_for():
    with deferred_init(), pytest.raises(RuntimeError, match=r"shape \(3,\) were asked for before"):
        torch.empty(3).tolist()


def test_tensors_from_outside_are_used_at_once():
    """They stay real, are written to at once, and as they were when a deferred tensor took them in."""
    outside, target, drawn = torch.arange(3.0), torch.zeros(3), torch.full((1000,), 9.0)

    def make():
        assert not (outside + 1).is_meta
        taken = torch.zeros(3) + outside
        target.copy_(torch.full((3,), 2.0))
        outside.add_(10)
        nn.init.trunc_normal_(drawn)
        return taken

    module = deferred(make)
    assert outside.tolist() == [10, 11, 12]
    assert target.tolist() == [2, 2, 2]
    assert 1 < drawn.abs().max() <= 2
    assert materialize(module).w.tolist() == [0, 1, 2]


def test_a_block_may_be_entered_again():
    with deferred_init():
        model = nn.Linear(4, 4)
    with deferred_init():
        nn.init.constant_(model.bias, 3)
        model.weight.data.mul_(0).add_(5)
    assert materialize(model).bias.tolist() == [3] * 4
    assert model.weight.unique().tolist() == [5]


def test_copies_are_remembered_and_pickles_are_not():
    """Copies made inside a block, and after it, start as the model does."""
    with deferred_init():
        model = nn.Sequential(nn.Linear(3, 3))
        inside = copy.deepcopy(model)
    outside, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    want = materialize(model).state_dict()
    for each in (inside, outside):
        got = materialize(each).state_dict()
        assert all(torch.equal(got[name], want[name]) for name in want)
    for lost in (pickled, nn.Linear(3, 3, device="meta")):
        with pytest.raises(ValueError, match=r"on the meta device that do not know their values: .*weight, .*bias"):
            materialize(lost)


def test_a_meta_tensor_that_a_constructor_asks_for_counts_as_any_other():
    """Constructors of transformers build on the meta device by name."""
    with deferred_init(), torch.device("meta"):
        model = nn.Linear(3, 3)
    assert materialize(model).weight.device == torch.device("cpu")


def test_a_replay_makes_any_state_of_a_storage():
    """The earlier one is not overwritten on the way to the later one."""
    with deferred_init():
        w = torch.arange(3)
    states = [History.of(w).head]
    with deferred_init():
        w.add_(10)
    states.append(History.of(w).head)
    storages = Replay(0, {}).run(states)
    assert [View.of(w).on(storage).tolist() for storage in storages] == [[0, 1, 2], [10, 11, 12]]


OPS = ["fill", "add", "mul", "copy_row", "transpose", "slice", "clone", "cumsum", "cat", "where", "index", "out", "own"]
PROGRAMS = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 11)), max_size=8)


def run(program, dtype):
    """A small constructor: operations on two tensors of 4 x 4, in place and not, through views of them."""
    a, b = torch.zeros(4, 4, dtype=dtype), torch.arange(16, dtype=dtype).view(4, 4)
    for op, n in program:
        if op == "fill":
            a[n % 4, : n % 3 + 1].fill_(n)
        elif op == "add":
            a = a + b
        elif op == "mul":
            b[:, n % 4].mul_(2)
        elif op == "copy_row":
            a[n % 4].copy_(b[:, (n + 1) % 4])
        elif op == "transpose":
            a, b = b.t(), a
        elif op == "slice":
            b.view(-1)[n % 8 :: 3].add_(1) if b.is_contiguous() else b.add_(1)
        elif op == "clone":
            b = a.clone()
        elif op == "cumsum":
            a = a.cumsum(n % 2) % 97
        elif op == "cat":
            a = torch.cat([b[:2], a[2:]])
        elif op == "where":
            a = torch.where(b > n, a, b)
        elif op == "index":
            a[torch.tensor([n % 4, (n + 1) % 4])] = b[0]
        elif op == "out":
            torch.add(a, n, out=a)
        elif op == "own":
            b.fill_(b[n % 4, 0])
    return {"a": a, "b": b}


@settings(max_examples=100, deadline=None)
@given(PROGRAMS, st.sampled_from([torch.float32, torch.int64]))
@example([("out", 3), ("add", 0), ("own", 0)], torch.float32)
def test_any_sequence_of_operations_comes_out_as_torch_does_it(program, dtype):
    """Bits and strides; also of one of two tensors alone, made by its declaration."""
    want = run(program, dtype)
    module = deferred(lambda: run(program, dtype))
    alone = {name: each for each in declarations(module) for name in (each.name, *each.aliases)}
    got = dict(materialize(module).named_buffers(remove_duplicate=False))
    for name in want:
        assert got[name].stride() == want[name].stride()
        assert torch.equal(got[name], want[name])
        assert torch.equal(alone[name].replay(0), want[name])
