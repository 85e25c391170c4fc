"""materialize: a deferred module becomes real in place, as a constructor would have left it."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.module.deferred_models import deferred, deferred_model, drawn, model, real, same, tensors
from tritonparam import KeptWarning, Normal, declarations, deferred_init, materialize


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
    with pytest.warns(KeptWarning, match="^kept is real already, and keeps the values"):
        materialize(module, seed=1, dtype=torch.float64)
    assert module.kept is kept
    assert (kept.dtype, kept.tolist()) == (torch.float32, [1.5, 2.5])
    before = module.w.detach().clone()
    with pytest.warns(KeptWarning) as told:
        assert materialize(module, seed=2, dtype=torch.bfloat16) is module
    begin = "materialize did nothing: "
    assert [str(each.message).startswith(begin) for each in told] == [True, True, True]
    assert "w is real already, made with seed 1, and keeps the values. For those of seed 2" in str(told[2].message)
    assert torch.equal(module.w, before)
    linear = nn.Linear(2, 2)
    with pytest.warns(KeptWarning, match="did nothing: weight, bias are real already"):
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
        ({"device": 3.5}, TypeError, "device must be a string, an int or a torch.device, got 3.5"),
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
    """torch swaps no tensor that C++ refers to weakly: then all stay deferred, and it works once that is gone."""
    module = deferred_model()
    reference = torch._C._WeakTensorRef(module[3].bias)
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


def test_the_report_tells_the_bytes_that_there_are_now(capsys):
    """Of a cast module those of the new dtype."""
    with deferred_init():
        module = nn.Linear(100, 100, bias=False)
    materialize(module, dtype=torch.bfloat16, report=True)
    assert "made 1 tensors, 20,000 bytes on cpu, in" in capsys.readouterr().out


def test_a_copy_of_a_real_module_is_an_ordinary_copy():
    module = materialize(deferred_model())
    twin = copy.deepcopy(module)
    assert same(twin, module)
    assert twin[3].weight is twin[0].weight
