"""load of parameters and of mappings of tensors: lazy or real, whole or boxes, in place."""

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import save_file

from tests.checkpoint.bits import same
from tests.checkpoint.models import declare
from tritonparam import Box, Fill, Parameter, ParameterTuple, load
from tritonparam.checkpoint.loading import LoadReport


def test_lazy_parameter_becomes_what_is_loaded_and_stays_the_same_object(tmp_path, plans):
    values = torch.randn(4, 6)
    save_file({"w": values}, tmp_path / "w.safetensors")
    parameter = declare()
    storage = parameter.torch
    optimizer = torch.optim.SGD([storage], lr=1)
    assert load(parameter, tmp_path / "w.safetensors") == LoadReport(("w",), (), (), ())
    assert parameter.torch is storage is optimizer.param_groups[0]["params"][0]
    assert not parameter.has_init
    assert isinstance(storage, nn.Parameter)
    assert same(storage, values)
    assert not any(isinstance(each, Fill) for plan in plans for each in plan.operations)
    assert (parameter.box, parameter.global_shape) == (Box.whole((4, 6)), (4, 6))
    storage.sum().backward()


def test_parameters_of_a_tuple_a_list_and_a_mapping(tmp_path):
    values = {"a": torch.randn(4, 6), "b": torch.randn(3)}
    save_file(values, tmp_path / "w.safetensors")
    for form in (ParameterTuple, list, iter, lambda pair: {each.name: each for each in pair}):
        pair = [declare(name="a"), Parameter([1.0, 2.0, 3.0], name="b")]
        kept = pair[1].torch
        assert load(form(pair), tmp_path / "w.safetensors").loaded == ("a", "b")
        assert all(same(each.torch, values[each.name]) for each in pair)
        assert pair[1].torch is kept


def test_mapping_of_torch_tensors_of_any_strides(tmp_path):
    values = {"a": torch.randn(4, 6), "b": torch.randn(3), "c": torch.randn(2, 2)}
    save_file(values, tmp_path / "w.safetensors")
    rows, columns = torch.zeros(8, 6)[::2], torch.zeros(3, 2)[:, 0]
    target = {"a": rows, "b": columns, "c": torch.zeros(2, 2, requires_grad=True).t()}
    load(target, tmp_path / "w.safetensors")
    assert all(torch.equal(target[name], want) for name, want in values.items())
    with pytest.raises(ValueError, match="b cannot be written to: target must not overlap itself"):
        load({**target, "b": torch.zeros(1).expand(3)}, tmp_path / "w.safetensors")


def test_missing_lazy_parameters_get_the_values_of_init_data(tmp_path):
    """With layouts, of their boxes; in a dtype, rounded once; whatever kind of initializer."""
    save_file({"a": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    layout = ([2], [0, -1], [2, 6], 0, True, "")
    for init in ("normal", "ones", "orthogonal", "identity"):
        target = [declare(name="a"), declare(init, name="b"), Parameter(5, name="c")]
        layouts = {"b": layout}
        report = load(target, tmp_path / "w.safetensors", strict=False, layouts=layouts, rank=1, dtype=torch.float16)
        want = declare(init, name="b", dtype="float16").init_data(layout, rank=1)
        assert same(target[1].torch, want.torch)
        assert (target[1].box, target[1].global_shape) == (want.box, want.global_shape) == (Box((2, 0), (2, 6)), (4, 6))
        assert (report.initialized, report.kept) == (("b",), ("c",))


@pytest.mark.parametrize("layout", [([2, 2], [1, 0], [2, 3], 0, True, ""), Box((2, 3), (2, 3))], ids=["layout", "box"])
def test_layouts_make_boxes(layout, tmp_path):
    values = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    save_file(values, tmp_path / "w.safetensors")
    rank = None if isinstance(layout, Box) else 3
    for layouts in (layout, {"a": layout, "b": layout}):
        pair = [declare(name="a"), declare(name="b")]
        load(pair, tmp_path / "w.safetensors", layouts=layouts, rank=rank)
        for each in pair:
            assert same(each.torch, values[each.name][2:, 3:])
            assert (each.box, each.global_shape, each.shape) == (Box((2, 3), (2, 3)), (4, 6), (2, 3))
        before = [each.torch for each in pair]
        save_file({name: -each for name, each in values.items()}, tmp_path / "minus.safetensors")
        load(pair, tmp_path / "minus.safetensors")  # of what is real now, the box that it is
        assert all(same(each.torch, -values[each.name][2:, 3:]) for each in pair)
        assert all(each.torch is one for each, one in zip(pair, before, strict=True))
