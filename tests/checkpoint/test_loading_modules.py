"""load of a module, real or deferred: what the file has gets its values, ties and views hold, the rest is its own."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import Net, contents, deferred
from tritonparam import Fill, deferred_init, load, materialize


@pytest.mark.parametrize("build", [Net, lambda: deferred(Net)], ids=["real", "deferred"])
def test_module_gets_the_values_of_the_file(build, checkpoint):
    """Parameters, persistent buffers and ties are loaded; the other buffers are as they would be without."""
    source, path = checkpoint
    net = build()
    held = list(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=1)
    report = load(net, path)
    for name, want in source.state_dict().items():
        assert same(net.state_dict()[name], want), name
    assert report.loaded == ("odd", "embed.weight", "norm.weight", "norm.bias", "steps")
    assert (report.kept, report.unexpected) == ((), ())
    assert all(mine is its for mine, its in zip(held, optimizer.param_groups[0]["params"], strict=True))
    assert net.head.weight is net.embed.weight is held[1]
    assert all(isinstance(each, nn.Parameter) and each.requires_grad for each in held)
    assert same(net.table, Net().table)


def test_loading_a_module_draws_nothing_that_is_loaded(checkpoint, plans):
    net = deferred(lambda: nn.Sequential(nn.Linear(30, 20), nn.LayerNorm(20)))
    path = checkpoint[1].with_name("two.safetensors")
    source = nn.Sequential(nn.Linear(30, 20), nn.LayerNorm(20))
    save_file(source.state_dict(), path)
    load(net, path)
    assert plans
    assert not any(isinstance(each, Fill) for plan in plans for each in plan.operations)
    assert all(same(net.state_dict()[name], want) for name, want in source.state_dict().items())


@pytest.mark.parametrize("lacking", [{"odd"}, {"embed.weight"}, {"norm.weight", "odd"}, {"steps", "norm.bias"}])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_missing_is_what_materialize_would_have_made(lacking, dtype, checkpoint):
    """Of the same seed, bit for bit: recognized, replayed and tied ones; the rest is loaded."""
    source, path = checkpoint
    save_file({name: values for name, values in contents(source).items() if name not in lacking}, path)
    net = deferred()
    report = load(net, path, strict=False, seed=5, dtype=dtype)
    drawn = materialize(deferred(), seed=5, dtype=dtype)
    for name, want in source.state_dict().items():
        is_lacking = {"head.weight": "embed.weight"}.get(name, name) in lacking
        cast = want.to(dtype) if want.is_floating_point() else want
        assert same(net.state_dict()[name], drawn.state_dict()[name] if is_lacking else cast), name
    assert set(report.initialized) == lacking | {"table"}
    assert net.head.weight is net.embed.weight
    assert same(net.table, drawn.table)


def test_what_a_real_module_has_and_the_file_lacks_is_kept(checkpoint):
    source, path = checkpoint
    stored_values = contents(source)
    del stored_values["odd"], stored_values["steps"]
    save_file(stored_values | {"extra": torch.ones(2), "more": torch.ones(1)}, path)
    net = Net()
    odd, steps = net.odd.detach().clone(), net.steps.clone()
    report = load(net, path, strict=False)
    assert same(net.odd, odd)
    assert same(net.steps, steps)
    assert same(net.embed.weight, source.embed.weight)
    assert (report.kept, report.initialized) == (("odd", "steps"), ())
    assert set(report.unexpected) == {"extra", "more"}
    assert str(report).startswith("3 loaded, 2 kept: odd, steps; 2 unexpected: ")


def test_module_that_is_deferred_in_part(checkpoint):
    net = Net()
    with deferred_init():
        net.norm = nn.LayerNorm(4)
    load(net, checkpoint[1])
    assert all(same(net.state_dict()[name], want) for name, want in checkpoint[0].state_dict().items())


def test_either_name_of_a_tied_tensor_serves(checkpoint):
    source, path = checkpoint
    values = contents(source)
    values["head.weight"] = values.pop("embed.weight")
    save_file(values, path)
    for net in (Net(), deferred()):
        assert "embed.weight" in load(net, path).loaded
        assert same(net.embed.weight, source.embed.weight)
        assert net.head.weight is net.embed.weight


def test_views_of_one_storage_stay_views(tmp_path):
    """The packed tensor and its parts show one memory after loading, whichever of them the file has."""

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.packed = nn.Parameter(torch.randn(6, 3))
            self.register_buffer("first", self.packed.detach()[:2], persistent=False)
            self.register_buffer("last", self.packed.detach()[4:])

    whole, part = torch.randn(6, 3), torch.randn(2, 3)
    save_file({"packed": whole, "last": whole[4:].clone()}, tmp_path / "a.safetensors")
    net = deferred(Packed)
    load(net, tmp_path / "a.safetensors")
    assert same(net.packed, whole)
    assert same(net.last, whole[4:])
    assert same(net.first, whole[:2])
    assert net.first.data_ptr() == net.packed.data_ptr()
    save_file({"last": part}, tmp_path / "b.safetensors")
    net = deferred(Packed)
    load(net, tmp_path / "b.safetensors", strict=False, seed=1)
    drawn = materialize(deferred(Packed), seed=1)
    assert same(net.packed, torch.cat([drawn.packed[:4], part]))
    assert same(net.last, part)


def test_deferred_tensors_that_were_never_written_can_be_loaded(tmp_path):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.bare = nn.Parameter(torch.empty(3))
            self.full = nn.Parameter(torch.ones(2))

    save_file({"bare": torch.randn(3), "full": torch.randn(2)}, tmp_path / "a.safetensors")
    net = deferred(Bare)
    assert load(net, tmp_path / "a.safetensors").loaded == ("bare", "full")
    save_file({"full": torch.randn(2)}, tmp_path / "b.safetensors")
    net = deferred(Bare)
    with pytest.raises(ValueError, match="never written: bare"):
        load(net, tmp_path / "b.safetensors", strict=False)
    assert net.full.is_meta


def test_dtype_is_that_of_what_is_not_real_yet(checkpoint):
    source, path = checkpoint
    real, lazy = Net(), deferred()
    load(real, path, dtype=torch.float16)
    load(lazy, path, dtype=torch.float16)
    for name, want in source.state_dict().items():
        assert same(real.state_dict()[name], want)
        assert same(lazy.state_dict()[name], want.half() if want.is_floating_point() else want)
