"""What load and save take, the boxes that layouts make of it, and what its tensors are called in a checkpoint."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import Net, declare
from tritonparam import Box, deferred_init, load, save


@pytest.mark.parametrize(
    ("layouts", "error", "text"),
    [
        ({"x": Box((0, 0), (1, 1))}, ValueError, "layouts must name tensors of target, got x"),
        ({"w": Box((0, 0), (5, 6))}, ValueError, "boxes of 'w', of shape"),
        ({"w": Box((0,), (5,))}, ValueError, "boxes of 'w'"),
        ({"w": 3}, TypeError, "layouts, for 'w': layout must be a tuple"),
        ({"real": Box((0, 0), (2, 6))}, ValueError, "whole lazy Parameters; 'real' is none"),
        (([2], [0, -1], [2, 6], 0, True, ""), RuntimeError, "rank must be given"),
    ],
)
def test_bad_layouts_leave_everything_as_it_was(layouts, error, text, tmp_path):
    save_file({"w": torch.randn(4, 6), "real": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    target = {"w": declare(), "real": torch.zeros(4, 6)}
    with pytest.raises(error, match=text):
        load(target, tmp_path / "w.safetensors", layouts=layouts)
    assert target["w"].has_init
    assert not target["real"].any()
    with pytest.raises(ValueError, match="rank goes with layouts"):
        load(target, tmp_path / "w.safetensors", rank=1)
    with pytest.raises(ValueError, match="layouts must be None for a module"):
        load(Net(), tmp_path / "w.safetensors", layouts=Box((0, 0), (1, 1)))


def test_mapping_of_names(tmp_path):
    values = {"model.a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    save_file(values, tmp_path / "w.safetensors")
    for mapping in ({"a": "model.a", "not here": "x"}, lambda name: {"a": "model.a"}.get(name, name)):
        pair = [declare(name="a"), declare(name="b")]
        assert load(pair, tmp_path / "w.safetensors", mapping=mapping).loaded == ("a", "b")
        assert same(pair[0].torch, values["model.a"])
    pair = [declare(name="a"), declare(name="b")]
    with pytest.raises(ValueError, match="different names, got 'b' for 'a' and 'b'"):
        load(pair, tmp_path / "w.safetensors", mapping={"a": "b"})
    with pytest.raises(TypeError, match="mapping must give strings, got None for 'a'"):
        load(pair, tmp_path / "w.safetensors", mapping=lambda _: None)
    with pytest.raises(TypeError, match="mapping must be a mapping or a function"):
        load(pair, tmp_path / "w.safetensors", mapping=["a"])
    assert all(each.has_init for each in pair)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (3, "target must be a torch.nn.Module"),
        (torch.zeros(3), "target must be a torch.nn.Module"),
        ("w", "target must be a torch.nn.Module"),
        ([torch.zeros(3)], "must hold Parameters only"),
        ({"w": 3}, "target must map names to Parameters"),
        ({3: torch.zeros(3)}, "target must map names to Parameters"),
    ],
)
def test_other_targets_are_refused(target, text, tmp_path):
    with pytest.raises(TypeError, match=text):
        load(target, tmp_path)


def test_names_are_mapped_and_tied_tensors_written_once(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    net.register_buffer("kept", torch.arange(3))
    net.register_buffer("left", torch.arange(3), persistent=False)
    save(net, tmp_path / "out", mapping=lambda name: f"model.{name}", metadata={"step": "7"})
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert set(opened.keys()) == {"model.a.weight", "model.a.bias", "model.kept"}
        assert opened.metadata() == {"format": "pt", "step": "7"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    with pytest.raises(ValueError, match="different names, got 'x'"):
        save(net, tmp_path / "other", mapping=lambda _: "x")
    assert not (tmp_path / "other").exists()


def test_tensors_are_called_what_the_state_dict_calls_them(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            values = torch.ones(3)
            self.register_buffer("scratch", values, persistent=False)
            self.register_buffer("kept", values)

    saved = Shared()
    assert save(saved, tmp_path / "out").tensors == tuple(saved.state_dict()) == ("kept",)
    with deferred_init():
        module = Shared()
    assert load(module, tmp_path / "out").loaded == ("kept",)
    assert module.kept is module.scratch
    save_file({"scratch": torch.ones(3)}, tmp_path / "scratch.safetensors")
    with pytest.raises(ValueError, match=r"missing in it: kept; unexpected in it: scratch"):
        load(module, tmp_path / "scratch.safetensors")
