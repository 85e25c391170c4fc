"""What needs values, of a module that has none yet, is an error or a warning that names the way; none is left after."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections import UserDict

import pytest
import torch
from torch import nn

from tests.fake_mesh import mesh_of
from tritonparam import DeferredWarning, Generator, KeptWarning, deferred_init, load, materialize, save, set_seed


def built():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def hooks_of(module):
    return [
        len(own)
        for each in module.modules()
        for own in (each._forward_pre_hooks, each._state_dict_pre_hooks, each._load_state_dict_pre_hooks)
        if own
    ]


def ours(model):
    return [each for each in model._forward_pre_hooks.values() if "tritonparam" in each.__module__]


TOLD = r"^Sequential was built in deferred_init\(\) and has 4 tensors without values \(0.weight, 0.bias, "
WAYS = r"tritonparam.materialize\(model, seed=...\), or tritonparam.load\(model, path\)"


@pytest.mark.parametrize("call", [lambda m: m(torch.zeros(2, 3)), lambda m: m(input=torch.zeros(2, 3)), lambda m: m()])
def test_a_model_without_values_is_not_run(call):
    with pytest.raises(RuntimeError, match=TOLD + r".*cannot be run: call " + WAYS):
        call(deferred_init(built))


def test_shapes_may_be_asked_for_on_the_meta_device():
    model = deferred_init(built)
    assert model(torch.zeros(2, 3, device="meta")).shape == (2, 4)
    assert model[0](torch.zeros(2, 3, device="meta")).shape == (2, 4)


def test_memory_of_to_empty_is_no_value_either():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with mesh_of([1], 0) as mesh:
        model = deferred_init(built)
        fsdp.fully_shard(model, mesh=mesh)
        model.to_empty(device="cpu")
        with pytest.raises(RuntimeError, match="cannot be run"):
            model(torch.zeros(2, 3))
        with torch.no_grad():
            for each in model.parameters():
                each.to_local().fill_(1)
        assert model(torch.zeros(2, 3)).shape == (2, 4)
        assert not ours(model)


def test_an_empty_tensor_has_all_values_that_it_can_have():
    def build():
        model = built()
        model.register_buffer("cache", torch.empty(0), persistent=False)
        return model

    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with mesh_of([1], 0) as mesh:
        model = deferred_init(build)
        fsdp.fully_shard(model, mesh=mesh)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for each in model.parameters():
                each.to_local().fill_(1)
        assert model(torch.zeros(2, 3)).shape == (2, 4)


def test_inputs_in_a_mapping_are_looked_at():
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 4)

        def forward(self, batch):
            return self.lin(batch["x"])

    model = deferred_init(Keyed)
    assert model(UserDict(x=torch.zeros(2, 3, device="meta"))).shape == (2, 4)
    with pytest.raises(RuntimeError, match="cannot be run"):
        model(UserDict(x=torch.zeros(2, 3)))


def test_a_state_dict_without_values_warns():
    model = deferred_init(built)
    with pytest.warns(DeferredWarning, match=TOLD + r".*tensors on the meta device in their places: call " + WAYS):
        torch.save(model.state_dict(), io.BytesIO())
    outer = nn.ModuleDict({"body": model})
    with pytest.warns(DeferredWarning):
        outer.state_dict()


def test_load_state_dict_without_memory_is_an_error():
    want, model = built().state_dict(), deferred_init(built)
    with pytest.raises(RuntimeError, match=TOLD + r".*call load_state_dict\(..., assign=True\), or tritonparam.load\("):
        model.load_state_dict(want)
    with pytest.raises(RuntimeError, match="nothing to copy into"):
        model.load_state_dict({"0.bias": torch.zeros(4)}, strict=False)
    assert all(each.is_meta for each in model.parameters())
    model.load_state_dict(want, assign=True)
    assert all(torch.equal(each, want[name]) for name, each in model.state_dict().items())
    assert model(torch.zeros(2, 3)).shape == (2, 4)


def test_nothing_of_it_stays_with_a_model_that_has_values(tmp_path):
    save(materialize(deferred_init(built)), tmp_path / "model")
    loaded = deferred_init(built)
    load(loaded, tmp_path / "model")
    parts = deferred_init(built)
    materialize(parts, only="0.*")
    assert hooks_of(parts)
    materialize(parts)
    pieces = deferred_init(built)
    for piece in pieces:
        materialize(piece)
    copied = materialize(copy.deepcopy(deferred_init(built)))
    assigned = deferred_init(built)
    assigned.load_state_dict(copied.state_dict(), assign=True)
    nested = nn.ModuleList([copy.deepcopy(deferred_init(built))])
    materialize(nested)
    by_parts = copy.deepcopy(deferred_init(built))
    for part in by_parts:
        materialize(part)
    materialize(by_parts)
    inner = nn.ModuleList([deferred_init(built), nn.Linear(1, 1)])
    materialize(inner, only="0.*")
    for model in (loaded, parts, pieces, copied, assigned, nested, by_parts, inner):
        assert not hooks_of(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.state_dict()
        assert b"refusals" not in pickle.dumps(model)


def test_hooks_of_the_model_itself_stay():
    def build():
        model = built()
        model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        return model

    model = deferred_init(build)
    assert len(materialize(model)._forward_pre_hooks) == 1
    plain = materialize(deferred_init(built))
    x = torch.zeros(2, 3)
    assert torch.equal(model(x), plain(x + 1))


def test_shards_that_have_values_keep_only_the_hooks_of_fully_shard():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    with mesh_of([2], 0) as mesh:
        model = deferred_init(built)
        fsdp.fully_shard(model, mesh=mesh)
        assert ours(model)
        materialize(model)
        assert not ours(model)
        assert model._forward_pre_hooks


def test_a_call_builds_as_a_block_does():
    with deferred_init():
        want = nn.Linear(3, 2, bias=False)
    got = deferred_init(nn.Linear, 3, 2, bias=False)
    assert torch.equal(materialize(got, 5).weight, materialize(want, 5).weight)
    assert deferred_init(lambda: nn.Linear(3, 2)).weight.is_meta
    for wrong, told in (
        (got, "a module that was built already, Linear"),
        ("Linear", "got 'Linear'"),
        (None, "deferred_init must get what builds a model first, got only 3"),
    ):
        with pytest.raises(
            TypeError, match=rf"build must be a class or a function that makes a model, got {told}|{told}"
        ):
            deferred_init(wrong, 3)


def test_what_runs_later_is_refused():
    async def coroutine():
        return nn.Linear(3, 2)

    def generator():
        yield nn.Linear(3, 2)

    for build in (coroutine, generator):
        for call in (deferred_init, deferred_init()):
            with pytest.raises(TypeError, match=r"build must make a model when it is called, got .* body runs later"):
                call(build)


def test_a_decorated_function_builds_in_a_block():
    @deferred_init()
    def build(width):
        return nn.Linear(width, 2)

    assert [build(width).weight.is_meta for width in (3, 4)] == [True, True]


def test_warnings_that_are_errors_change_nothing():
    model, part = deferred_init(built), deferred_init(built)
    model.append(nn.Linear(4, 4))
    materialize(part, 1, only="0.*")
    for each, told in ((model, "2.weight, 2.bias are real already"), (part, "made with seed 1")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(KeptWarning, match=told):
                materialize(each, seed=2)
        assert each[1].weight.is_meta


def test_another_dtype_for_what_is_real_is_told():
    model = materialize(deferred_init(built), seed=1)
    with pytest.warns(KeptWarning, match=r"did nothing: 0.weight, .* real already, and of another dtype"):
        materialize(model, seed=1, dtype="bf16")
    assert model[0].weight.dtype is torch.float32


def test_a_warning_names_the_line_of_the_caller():
    with pytest.warns(KeptWarning) as told:
        materialize(built())
    with pytest.warns(DeferredWarning) as also:
        deferred_init(built).state_dict()
    assert {told[0].filename, also[0].filename} == {__file__}


def test_the_seed_is_that_of_the_generator_where_none_is_given(tmp_path):
    want = {seed: materialize(deferred_init(built), seed=seed)[0].weight for seed in (0, 7, 8)}
    assert torch.equal(materialize(deferred_init(built))[0].weight, want[0])
    save({"0.bias": torch.zeros(4)}, tmp_path / "bias.safetensors")
    try:
        set_seed(7)
        assert torch.equal(materialize(deferred_init(built))[0].weight, want[7])
        with Generator(8):
            assert torch.equal(materialize(deferred_init(built), seed=None)[0].weight, want[8])
            loaded = deferred_init(built)
            load(loaded, tmp_path / "bias.safetensors", strict=False)
            assert torch.equal(loaded[0].weight, want[8])
            assert torch.equal(materialize(deferred_init(built), 0)[0].weight, want[0])
    finally:
        set_seed(0)


def test_a_compiled_model_runs_once_it_has_values():
    """The hook is not in the way of a compiler, and not of one that looks at the model before it is real."""
    program = """
import torch
from tritonparam import deferred_init, materialize
model = deferred_init(torch.nn.Linear, 3, 2)
compiled = torch.compile(model, backend="eager", fullgraph=True)
materialize(model)
assert torch.equal(compiled(torch.ones(1, 3)), model(torch.ones(1, 3)))
print("ran")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "ran\n", done.stderr
