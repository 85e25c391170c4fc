"""materialize: a deferred module becomes real in place, and every value is a function of (seed, name, index)."""

import copy
import random
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tritonparam import Constant, Fill, Normal, Plan, Uniform, declarations, deferred_init, derive_key, materialize
from tritonparam.cli.init.job import prepare
from tritonparam.cli.init.writing import write_checkpoint
from tritonparam.module.materialization import BoxLaw

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


class Holder(nn.Module):
    """A module with the tensors that `make` returns: buffers under names with "buffer", parameters under the others."""

    def __init__(self, make):
        super().__init__()
        for name, tensor in make().items():
            if "buffer" in name:
                self.register_buffer(name, tensor, persistent="scratch" not in name)
            else:
                self.register_parameter(name, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))


def deferred(make):
    with deferred_init():
        return Holder(make)


def real(make, **options):
    return materialize(deferred(make), **options)


def drawn(law, name, shape, seed=0, occurrence=0, dtype=torch.float32):
    """What a plan writes for (law, key, shape)."""
    out = torch.full(shape, 7, dtype=dtype)
    Plan([Fill(out, law, derive_key(seed, name, occurrence))]).run()
    return out


def model():
    """Laws, boxes, replayed and computed tensors, integers, ties."""
    net = nn.Sequential(
        nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 20), nn.GRU(4, 4)
    )
    net[3].weight = net[0].weight
    nn.init.orthogonal_(net[1].weight)
    net[1].register_buffer("mask", torch.bernoulli(torch.full((30,), 0.5)).bool(), persistent=False)
    net[1].register_buffer("table", torch.arange(8.0) / 7)
    return net


def deferred_model():
    with deferred_init():
        return model()


def tensors(module):
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def same(left, right):
    left, right = tensors(left), tensors(right)
    assert list(left) == list(right)
    different = [name for name in left if not torch.equal(left[name], right[name])]
    return different == []


def test_declarations_say_what_each_tensor_will_be():
    """In the order of the module, parameters first; the first name is the name; nothing is changed."""
    module = deferred_model()
    found = declarations(module)
    names = ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias"]
    names += [f"4.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    buffers = ["1.mask", "1.table", "2.running_mean", "2.running_var", "2.num_batches_tracked"]
    assert [each.name for each in found] == names + buffers
    assert [each.kind for each in found] == ["parameter"] * len(names) + ["buffer"] * len(buffers)
    by_name = {each.name: each for each in found}
    assert by_name["0.weight"].aliases == ("3.weight",)
    assert [each.name for each in found if each.aliases] == ["0.weight"]
    assert [each.name for each in found if not each.persistent] == ["1.mask"]
    assert [each.name for each in found if each.laws is None] == ["1.weight", "1.mask", "1.table"]
    assert by_name["2.num_batches_tracked"].dtype == torch.int64
    assert by_name["0.weight"].shape == (20, 8)
    want = (BoxLaw((0, 0), (1, 8), Constant(0)), BoxLaw((1, 0), (19, 8), Normal()))
    assert by_name["0.weight"].laws == want
    assert all(tensor.is_meta for tensor in tensors(module).values())


def test_everything_is_as_a_constructor_would_have_left_it():
    """Same names, kinds, dtypes, shapes, strides, requires_grad; same values where they are not random."""
    got, want = materialize(deferred_model()), model()
    assert list(got.state_dict()) == list(want.state_dict())
    for name, tensor in tensors(want).items():
        mine = tensors(got)[name]
        assert (type(mine), mine.dtype, mine.shape, mine.stride()) == (
            type(tensor),
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert (mine.requires_grad, mine.is_leaf, mine.device) == (tensor.requires_grad, True, tensor.device)
        if name not in ("0.weight", "1.weight", "1.mask", "3.weight") and not isinstance(tensor, nn.Parameter):
            assert torch.equal(mine, tensor)
    assert got[3].weight is got[0].weight
    torch.testing.assert_close(got[1].weight @ got[1].weight.T, torch.eye(8))


def test_all_laws_are_one_plan(plans):
    module = deferred_model()
    materialize(module)
    fills = [plan for plan in plans if len(plan.operations) > 1]
    assert len(fills) == 1
    assert len(fills[0].operations) == sum(len(each.laws or ()) for each in declarations(deferred_model()))
    plans.clear()
    real(lambda: {f"w{n}": torch.randn(3) for n in range(50)})
    assert [len(plan.operations) for plan in plans] == [50]


def test_the_draw_that_is_a_tensor_has_the_key_of_its_name():
    """derive_key(seed, fully qualified name), index in the whole tensor, whatever part of it is left."""
    with deferred_init():
        module = nn.Sequential(nn.Sequential(nn.Embedding(6, 4, padding_idx=2)), nn.Linear(4, 5))
    materialize(module, seed=11)
    want = drawn(Normal(), "0.0.weight", (6, 4), seed=11)
    want[2] = 0
    assert torch.equal(module[0][0].weight, want)
    assert torch.equal(module[1].bias, drawn(Uniform(-0.5, 0.5), "1.bias", (5,), seed=11))


def test_parts_of_a_tensor_that_are_drawn_apart_have_the_indices_of_the_whole():
    def make():
        w = torch.empty(7, 6)
        w[:4].normal_(0, 1)
        w[4:, :2].normal_(0, 2)
        w[4:, 2:].uniform_(3, 4)
        return {"w": w}

    got, want = real(make).w, drawn(Normal(0, 1), "w", (7, 6))
    assert torch.equal(got[:4], want[:4])
    assert torch.equal(got[4:, :2], drawn(Normal(0, 2), "w", (7, 6))[4:, :2])
    assert torch.equal(got[4:, 2:], drawn(Uniform(3, 4), "w", (7, 6))[4:, 2:])


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


def test_each_tensor_can_be_made_alone():
    """`fills` and `replay` of one declaration give what `materialize` gives, in any layout of `out`."""
    want = tensors(materialize(deferred_model(), seed=4))
    for each in declarations(deferred_model()):
        assert torch.equal(each.replay(4), want[each.name])
        if each.laws is not None:
            out = torch.full((*each.shape, 2), 7, dtype=each.dtype)[..., 1]
            Plan(each.fills(out, 4)).run()
            assert torch.equal(out, want[each.name])
            with pytest.raises(ValueError, match="out must have the shape"):
                each.fills(torch.empty(99), 4)
        else:
            with pytest.raises(ValueError, match=f"{each.name} has no laws"):
                each.fills(torch.empty(each.shape), 4)


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


def test_tensors_stay_the_same_objects_with_all_that_hangs_on_them():
    """An optimizer made before works; hooks fire; attributes, requires_grad and outside references hold."""
    module, calls = deferred_model(), []
    before = {name: id(tensor) for name, tensor in tensors(module).items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    bias = module[3].bias
    bias.note = "kept"
    bias.register_hook(lambda grad: calls.append("gradient"))
    bias.register_post_accumulate_grad_hook(lambda leaf: calls.append("accumulated"))
    module[2].bias.requires_grad_(False)
    materialize(module)
    assert {name: id(tensor) for name, tensor in tensors(module).items()} == before
    assert (bias.note, bias is module[3].bias, module[2].bias.requires_grad) == ("kept", True, False)
    start = bias.detach().clone()
    bias.sum().backward()
    optimizer.step()
    assert calls == ["gradient", "accumulated"]
    assert torch.equal(bias, start - 1)


class Odd(nn.Parameter):
    """A kind of parameter."""


def test_subclasses_of_parameter_stay_what_they_are():
    module = deferred(lambda: {"w": Odd(torch.ones(2))})
    assert type(materialize(module).w) is Odd
    assert module.w.tolist() == [1, 1]


def test_views_of_one_storage_stay_views_of_one(plans):
    """Whatever is written to one shows in the others; the shared elements are drawn once."""

    def make():
        w = nn.Parameter(torch.randn(6, 4))
        buffer = torch.zeros(8)
        views = {"rows": nn.Parameter(w.data[2:4]), "turned": nn.Parameter(w.data.t()), "twin": nn.Parameter(w.data)}
        return {"w": w, **views, "buffer": buffer, "part_buffer": buffer[2:5], "strided_buffer": buffer[::3]}

    found = {each.name: each.aliases for each in declarations(deferred(make))}
    assert found["w"] == ("twin",)
    assert set(found) == {"w", "rows", "turned", "buffer", "part_buffer", "strided_buffer"}
    for dtype in (None, torch.float64):
        plans.clear()
        got = real(make, dtype=dtype)
        assert len(plans[-1].operations) == 2
        assert torch.equal(got.w, drawn(Normal(), "w", (6, 4), dtype=dtype or torch.float32))
        with torch.no_grad():
            got.twin[2, 0] = 50
            got.buffer[3] = 60
        assert (got.w[2, 0], got.rows[0, 0], got.turned[0, 2]) == (50, 50, 50)
        assert (got.part_buffer[1], got.strided_buffer[1]) == (60, 60)


def test_views_that_overlap_are_written_one_after_the_other(plans):
    got = real(lambda: (lambda w: {"top": w[:4], "bottom": w[2:]})(torch.randn(6, 3)))
    assert [len(plan.operations) for plan in plans] == [1, 1]
    whole = drawn(Normal(), "top", (6, 3))
    assert torch.equal(got.top, whole[:4])
    assert torch.equal(got.bottom, whole[2:])


def test_a_view_of_a_storage_in_part_without_law_agrees_with_the_rest():
    def make():
        w = torch.randn(6, 4)
        w[3:].cumsum_(0)
        return {"w": w, "top": w[:3]}

    got = real(make)
    assert torch.equal(got.w[:3], got.top)
    assert got.top.data_ptr() == got.w.data_ptr()


def test_recurrent_layers_work_and_see_their_weights():
    with deferred_init():
        lstm = nn.LSTM(3, 4, num_layers=2)
    materialize(lstm)
    assert [reference() for reference in lstm._flat_weight_refs] == list(lstm.parameters())
    out, _ = lstm(torch.ones(5, 1, 3))
    out.sum().backward()
    assert all(weight.grad is not None for weight in lstm.parameters())


def test_real_tensors_stay_as_they_are():
    """Beside deferred ones, and on their own: materializing twice, or what was never deferred, changes nothing."""
    kept = nn.Parameter(torch.tensor([1.5, 2.5]))
    module = deferred(lambda: {"w": torch.randn(3), "kept": kept})
    assert [(each.name, each.laws is None) for each in declarations(module)] == [("w", False), ("kept", True)]
    assert declarations(module)[1].replay(0).tolist() == [1.5, 2.5]
    materialize(module, seed=1, dtype=torch.float64)
    assert module.kept is kept
    assert (kept.dtype, kept.tolist()) == (torch.float32, [1.5, 2.5])
    before = module.w.detach().clone()
    assert materialize(module, seed=2, dtype=torch.bfloat16) is module
    assert torch.equal(module.w, before)
    linear = nn.Linear(2, 2)
    assert materialize(linear) is linear
    assert materialize(nn.ReLU()) is not None


def test_scalars_and_empty_tensors():
    got = real(lambda: {"scalar": torch.randn(()), "empty": torch.empty(0, 3), "none": torch.zeros(2, 0).normal_()})
    assert torch.equal(got.scalar, drawn(Normal(), "scalar", ()))
    assert (got.empty.shape, got.none.shape) == ((0, 3), (2, 0))


def test_a_module_may_become_real_inside_a_block_and_in_inference_mode():
    with deferred_init():
        module = nn.Linear(3, 3)
        materialize(module)
        assert module.weight.sum().item() == module.weight.sum()
        outer = nn.Sequential(module, nn.Linear(3, 3))
    assert (module.weight.is_meta, outer[1].weight.is_meta) == (False, True)
    with torch.inference_mode():
        materialize(outer)
    outer(torch.ones(1, 3)).sum().backward()
    assert outer[1].weight.grad is not None


def test_tensors_that_were_never_written_are_named():
    def make():
        part = torch.empty(4)
        part[:3] = 0
        return {"fine": torch.zeros(2), "never": torch.empty(2), "part": part, "from_buffer": torch.empty(2) * 2}

    module = deferred(make)
    with pytest.raises(ValueError, match=r"never written: never, part, from_buffer$"):
        materialize(module)
    with pytest.raises(ValueError, match="never written: weight"):
        declarations(nn.LazyLinear(3))
    assert module.fine.is_meta


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, ValueError, "seed must be in"),
        ({"seed": 1.5}, TypeError, "seed must be an int, got 1.5"),
        ({"seed": True}, TypeError, "seed must be an int, got True"),
        ({"device": "abacus"}, ValueError, "device must be a cpu or cuda device, got 'abacus'"),
        ({"device": "meta"}, ValueError, "device must be a cpu or cuda device, got 'meta'"),
        ({"device": "cuda:77"}, ValueError, "device must be a device of this machine, got 'cuda:77'"),
        ({"device": 3.5}, TypeError, "device must be a string or a torch.device, got 3.5"),
        ({"dtype": torch.int32}, ValueError, "dtype must be a floating-point dtype, got torch.int32"),
        ({"dtype": "quick"}, ValueError, "dtype must be one of .*, got 'quick'"),
        ({"dtype": 5}, TypeError, "dtype must be one of .*got 5"),
        ({"backend": "abacus"}, ValueError, "backend must be one of .*, got 'abacus'"),
    ],
)
def test_bad_arguments_are_refused_and_change_nothing(arguments, error, message):
    module = deferred_model()
    with pytest.raises(error, match=message):
        materialize(module, **arguments)
    assert all(tensor.is_meta for tensor in tensors(module).values())
    with pytest.raises(error, match=message):
        materialize(nn.ReLU(), **arguments)
    assert same(materialize(module), materialize(deferred_model()))


@pytest.mark.parametrize("function", [materialize, declarations])
def test_only_modules_are_taken(function):
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got \[\]"):
        function([])


def test_one_storage_in_two_dtypes_is_not_cast_in_half():
    def make():
        buffer = torch.zeros(4)
        return {"buffer": buffer, "bits_buffer": buffer.view(torch.int32)}

    module = deferred(make)
    with pytest.raises(ValueError, match=r"several dtypes \(buffer, bits_buffer\), got torch.bfloat16"):
        materialize(module, dtype=torch.bfloat16)
    materialize(module, dtype=torch.float32)
    module.buffer[1] = 1
    assert module.bits_buffer.tolist() == [0, 0x3F800000, 0, 0]


def test_a_tensor_that_cannot_change_in_place_undoes_the_rest():
    """torch swaps no tensor with weak references: then all stay deferred, and it works once they are gone."""
    module = deferred_model()
    reference = weakref.ref(module[3].bias)
    with pytest.raises(RuntimeError, match=r"3\.bias cannot be made real in place: .*weakref"):
        materialize(module)
    assert all(tensor.is_meta for tensor in tensors(module).values())
    assert module[4]._flat_weight_refs[0]() is module[4].weight_ih_l0
    del reference
    assert same(materialize(module), materialize(deferred_model()))


def test_memory_is_that_of_the_model():
    """320 MB of parameters with laws: no second copy on the way."""
    code = """
import os, re, torch
from tritonparam import deferred_init, materialize
def peak():  # of this process alone: what getrusage says includes its parent's before the exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def build(size):
    with deferred_init():
        return torch.nn.ParameterList([torch.full((size,), 1.0) for _ in range(8)])
materialize(build(8))
before = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
materialize(build(10_000_000))
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert 300_000_000 < int(done.stdout) < 400_000_000


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


def test_a_copy_of_a_real_module_is_an_ordinary_copy():
    module = materialize(deferred_model())
    twin = copy.deepcopy(module)
    assert same(twin, module)
    assert twin[3].weight is twin[0].weight
