"""load: what is held here gets the checkpoint's values bit for bit, or nothing has changed and the error says why."""

import itertools
import json
import math
import os
import re
import sys
import threading
import time
import weakref

import pytest
import torch
from torch import nn

pytest.importorskip("safetensors")

from safetensors.torch import save_file

import tritonparam
from tritonparam import Box, Fill, Generator, Parameter, ParameterTuple, deferred_init, load, materialize
from tritonparam.checkpoint import staging, stored
from tritonparam.checkpoint.casts import goes_into
from tritonparam.checkpoint.errors import CheckpointError
from tritonparam.checkpoint.loading import LoadReport
from tritonparam.checkpoint.staging import Move, Staging
from tritonparam.initializer import initializer

INDEX = "model.safetensors.index.json"
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


def bits(tensor):
    """The bytes of a tensor, so that NaN equals itself and 0.0 not -0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


class Net(nn.Module):
    """Parameters with laws, one that is replayed, a tied one, and buffers of both kinds."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.odd = nn.Parameter(torch.randn(3, 5).cumsum(0))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("table", torch.arange(6.0) / 7, persistent=False)


def deferred(build=Net):
    with deferred_init():
        return build()


def trained(seed=3):
    """A real Net with other values than any that is initialized here."""
    net = Net()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
            tensor.copy_(values * 100)
    return net


def contents(net):
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items() if name != "head.weight"}


def declare(init="normal", shape=(4, 6), name="w", dtype="float32"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), name)


@pytest.fixture
def checkpoint(tmp_path):
    """A trained Net and its file."""
    net = trained()
    save_file(contents(net), tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


# ------------------------------------------------------------------ modules


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
    save_file({"packed": whole, "last": part}, tmp_path / "a.safetensors")
    net = deferred(Packed)
    load(net, tmp_path / "a.safetensors")
    assert same(net.packed, torch.cat([whole[:4], part]))
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


def test_a_swap_that_fails_changes_nothing_of_a_module(checkpoint):
    net = deferred()
    held = weakref.ref(net.norm.bias)
    with pytest.raises(RuntimeError, match=r"norm\.bias cannot be made real"):
        load(net, checkpoint[1])
    assert all(each.is_meta for each in net.parameters())
    assert held() is net.norm.bias


def interrupted(method, after):
    """`method`, with an interrupt in place of one call."""
    calls = itertools.count()

    def call(*arguments):
        if next(calls) == after:
            raise KeyboardInterrupt
        return method(*arguments)

    return call


def test_an_interrupt_while_tensors_are_swapped_changes_nothing_of_a_module(checkpoint, monkeypatch):
    net, module = deferred(), sys.modules[materialize.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "become", interrupted(module.become, 2))
        with pytest.raises(KeyboardInterrupt):
            load(net, checkpoint[1])
    assert all(each.is_meta for each in net.parameters())
    load(net, checkpoint[1])


# ------------------------------------------------------------------ parameters


def test_an_interrupt_while_tensors_are_swapped_changes_no_parameter(tmp_path, monkeypatch):
    save_file({"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    pair = [declare(name="a"), declare(name="b")]
    with monkeypatch.context() as patch:
        patch.setattr(Parameter, "_become", interrupted(Parameter._become, 1))
        with pytest.raises(KeyboardInterrupt):
            load(pair, tmp_path / "w.safetensors")
    assert [each.has_init for each in pair] == [True, True]
    assert same(pair[0].init_data().torch, declare(name="a").init_data().torch)


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


def test_a_swap_that_fails_changes_no_parameter(tmp_path):
    save_file({"a": torch.randn(4, 6), "b": torch.randn(4, 6)}, tmp_path / "w.safetensors")
    pair = [declare(name="a"), declare(name="b")]
    held = weakref.ref(pair[1].torch)
    with pytest.raises(RuntimeError, match="b cannot become real"):
        load(pair, tmp_path / "w.safetensors")
    assert [each.has_init for each in pair] == [True, True]
    assert held().is_meta
    assert same(pair[0].init_data().torch, declare(name="a").init_data().torch)


# ------------------------------------------------------------------ names


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


def snapshot(*targets):
    found = []
    for target in targets:
        tensors = [*target.parameters(), *target.buffers()] if isinstance(target, nn.Module) else [target.torch]
        found += [(id(each), each.device.type, each.dtype, None if each.is_meta else bits(each)) for each in tensors]
    return found


@pytest.fixture
def unchanged():
    """Loads into a real and a deferred Net; both, and a lazy parameter beside them, have to be as before."""

    def check(path, error, text, **options):
        for net in (Net(), deferred()):
            before = snapshot(net)
            with pytest.raises(error, match=text) as caught:
                load(net, path, **options)
            assert snapshot(net) == before
            if error is CheckpointError:
                assert str(path.parent) in str(caught.value)

    return check


def test_names_of_one_side_are_an_error_that_lists_them(checkpoint, unchanged):
    source, path = checkpoint
    values = contents(source)
    del values["odd"], values["steps"]
    save_file(values | {"more": torch.ones(1)}, path)
    unchanged(path, ValueError, r"missing in it: odd, steps; unexpected in it: more\. With strict=False")
    save_file(contents(source) | {"table": torch.ones(6)}, path)
    unchanged(path, ValueError, "unexpected in it: table")


def test_other_shapes_are_an_error_that_lists_them(checkpoint, unchanged):
    source, path = checkpoint
    save_file(contents(source) | {"odd": torch.ones(5, 3), "norm.bias": torch.ones(4, 1)}, path)
    for strict in (True, False):
        text = r"odd is of shape \(3, 5\), in the checkpoint of \(5, 3\), norm.bias is of shape \(4,\), .*\(4, 1\)"
        unchanged(path, ValueError, text, strict=strict)


def test_dtypes_that_do_not_go_into_each_other_are_an_error_that_names_both(checkpoint, unchanged):
    source, path = checkpoint
    save_file(contents(source) | {"steps": torch.tensor(1.0)}, path)
    unchanged(path, TypeError, "steps is torch.int64, in the checkpoint torch.float32")


# ------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("own", FLOATS, ids=str)
@pytest.mark.parametrize("saved", FLOATS, ids=str)
def test_floats_are_cast_among_each_other(saved, own, tmp_path):
    """As torch casts, NaN and infinities and all, and e4m3fn as it does from 2.12 on; of one dtype the bits stay."""
    values = torch.tensor([0.0, -0.0, 1.0, -2.7, 1e-7, 3e4, math.inf, math.nan, 448.0, 5e-5], dtype=torch.float64)
    save_file({"w": values.to(saved)}, tmp_path / "w.safetensors")
    target = {"w": torch.zeros(10, dtype=own)}
    load(target, tmp_path / "w.safetensors")
    stored = values.to(saved)
    if own == torch.float8_e4m3fn:
        stored = stored.double().clamp(-448, 448)
    assert same(target["w"], stored.to(own))


@pytest.mark.parametrize("saved", [*INTS, torch.bool], ids=str)
def test_integers_go_where_nothing_is_lost(saved, tmp_path):
    """The extremes of every dtype come back from every dtype that takes it; the others are refused."""
    low, high = (0, 1) if saved == torch.bool else (torch.iinfo(saved).min, torch.iinfo(saved).max)
    values = torch.tensor([low, high, 1], dtype=saved)
    save_file({"w": values}, tmp_path / "w.safetensors")
    for own in (*INTS, torch.bool, *FLOATS):
        target = {"w": torch.zeros(3, dtype=own)}
        if not goes_into(saved, own):
            with pytest.raises(TypeError, match=f"w is {own}, in the checkpoint {saved}"):
                load(target, tmp_path / "w.safetensors")
            assert not target["w"].to(torch.float64).any()
            continue
        load(target, tmp_path / "w.safetensors")
        assert [int(each) for each in target["w"].to(torch.float64 if own in FLOATS else own).tolist()] == [
            low,
            high,
            1,
        ]


def test_which_integers_go_into_which():
    assert goes_into(torch.int8, torch.float16)
    assert goes_into(torch.uint8, torch.bfloat16)
    assert goes_into(torch.int32, torch.float64)
    for saved, own in [("int64", "float64"), ("int16", "bfloat16"), ("int8", "uint8"), ("int32", "int16")]:
        assert not goes_into(getattr(torch, saved), getattr(torch, own)), saved
    assert not goes_into(torch.complex64, torch.float32)
    assert goes_into(torch.complex64, torch.complex64)


def test_unusual_tensors(tmp_path):
    """Empty ones, scalars, 8-bit floats, bools of odd bytes, complex numbers, names of all kinds."""
    values = {
        "empty": torch.zeros(0, 3),
        "empty.too": torch.zeros(3, 0, 2, dtype=torch.int8),
        "scalar": torch.tensor(2.5),
        "a.b/c d": torch.randn(3).to(torch.float8_e4m3fn),
        "größe.层": torch.randn(3).to(torch.float8_e5m2),
        "mask": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "fnuz": torch.tensor([1, 2, 128], dtype=torch.uint8).view(torch.float8_e4m3fnuz),
        "": torch.ones(1),
    }
    save_file(values, tmp_path / "w.safetensors")
    target = {name: torch.empty_like(each) for name, each in values.items()}
    report = load(target, tmp_path / "w.safetensors")
    assert set(report.loaded) == set(values)
    assert all(same(target[name], want) for name, want in values.items())


def test_file_whose_tensors_are_not_aligned(tmp_path):
    """Headers need not be padded: torch's consolidation writes such files."""
    values = torch.randn(5, 3)
    header = json.dumps({"w": {"dtype": "F32", "shape": [5, 3], "data_offsets": [0, 60]}}).encode()
    header += b" " * ((3 - len(header)) % 4)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    for dtype in (torch.float32, torch.float16):
        target = {"w": torch.zeros(5, 3, dtype=dtype)}
        load(target, tmp_path / "w.safetensors")
        assert same(target["w"], values.to(dtype))


def test_ten_thousand_small_tensors_take_no_time(tmp_path):
    values = {f"layers.{index}.weight": torch.full((3, 4), float(index)) for index in range(10_000)}
    save_file(values, tmp_path / "w.safetensors")
    target = {name: torch.zeros(3, 4) for name in values}
    start = time.process_time()
    load(target, tmp_path / "w.safetensors")
    assert time.process_time() - start < 4
    assert torch.equal(torch.stack(list(target.values())), torch.stack(list(values.values())))


# ------------------------------------------------------------------ folders


def split(values, folder):
    """The files of transformers' layout, one tensor each, and the index."""
    names = {name: f"model-{i:05}-of-{len(values):05}.safetensors" for i, name in enumerate(values, start=1)}
    for name, file in names.items():
        save_file({name: values[name]}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


def test_folders_and_indices(checkpoint, tmp_path):
    source, _ = checkpoint
    folder = tmp_path / "sharded"
    folder.mkdir()
    split(contents(source), folder)
    single = tmp_path / "single"
    single.mkdir()
    save_file(contents(source), single / "model.safetensors")
    save_file({"other": torch.ones(1)}, single / "adapter.safetensors")
    for path in (folder, folder / INDEX, str(folder), single, single / "model.safetensors"):
        net = deferred()
        load(net, path)
        assert all(same(net.state_dict()[name], want) for name, want in source.state_dict().items())


def test_half_an_index_is_found_out(checkpoint, tmp_path, unchanged):
    source, _ = checkpoint
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = split(contents(source), folder)
    index = folder / INDEX
    whole = index.read_text()
    index.write_text(json.dumps({"weight_map": {name: file for name, file in names.items() if name != "odd"}}))
    unchanged(folder, ValueError, "missing in it: odd")
    index.write_text(json.dumps({"weight_map": names | {"odd": names["steps"]}}))
    unchanged(folder, CheckpointError, f"{names['steps']} does not hold 'odd'")
    save_file({"odd": torch.ones(3, 5), "steps": torch.tensor(1)}, folder / names["steps"])
    index.write_text(json.dumps({"weight_map": {name: file for name, file in names.items() if name != "odd"}}))
    for strict in (True, False):
        unchanged(folder, CheckpointError, f"{names['steps']} holds 'odd', and the index", strict=strict)
    index.write_text(whole)
    (folder / names["steps"]).unlink()
    unchanged(folder, CheckpointError, f"{names['steps']} is missing: .*'steps'")
    for text in ("{", "[]", "{}", '{"weight_map": 3}'):
        index.write_text(text)
        unchanged(folder, CheckpointError, f"{INDEX} is not the index")


def test_paths_that_are_no_checkpoint(tmp_path, unchanged):
    unchanged(tmp_path / "nothing", CheckpointError, "nothing does not exist")
    (tmp_path / "folder").mkdir()
    unchanged(tmp_path / "folder", CheckpointError, "folder has no safetensors files")
    for name in ("a", "b"):
        save_file({"steps": torch.tensor(1)}, tmp_path / "folder" / f"{name}.safetensors")
    unchanged(tmp_path / "folder", CheckpointError, "both hold 'steps'")


@pytest.mark.parametrize(
    "damage", ["cut", "short", "empty", "length", "json", "dtype", "shape", "offsets", "hole", "long"]
)
def test_damaged_files_are_found_out_before_anything_is_written(damage, checkpoint, unchanged):
    path = checkpoint[1]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    row = table["odd"]

    def rewritten():
        header = json.dumps(table).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + length :]

    if damage == "dtype":
        row["dtype"] = "F4"
    if damage == "shape":
        row["shape"] = [3, -5]
    if damage == "offsets":
        row["data_offsets"][1] += 4
    if damage == "hole":
        table["norm.bias"]["data_offsets"] = table["norm.weight"]["data_offsets"]
    path.write_bytes(
        {
            "cut": data[:-1],
            "short": data[: length // 2],
            "empty": b"",
            "length": b"\xff" * 8 + data[8:],
            "json": data[:8] + b"!" + data[9:],
            "long": data + b"\0",
        }.get(damage)
        or (b"" if damage == "empty" else rewritten())
    )
    unchanged(path, CheckpointError, r"net\.safetensors is not a whole safetensors file")


# ------------------------------------------------------------------ boxes of DCP


def shard(folder, rank, boxes, **extra):
    """One process's file, as HuggingFaceStorageWriter writes it: name -> (offsets, values)."""
    rows = {name: {"saved_offsets": list(offsets), **extra} for name, (offsets, _) in boxes.items()}
    path = folder / f"shard-{rank:05}-model-00001-of-00001.safetensors"
    save_file(
        {name: values.contiguous() for name, (_, values) in boxes.items()},
        path,
        {stored.SHARDING_KEY: json.dumps(rows)},
    )
    return path


def test_boxes_that_do_not_cover_a_tensor_are_an_error_that_names_both(tmp_path):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:2])})
    shard(tmp_path, 3, {"w": ((4, 0), whole[4:])})
    parameter, real = declare(shape=(6, 4)), {"w": torch.zeros(6, 4)}
    text = re.escape(f"{tmp_path} has only parts of 'w': no file has its {Box((2, 0), (2, 4))}")
    for target in (parameter, real):
        with pytest.raises(CheckpointError, match=text):
            load(target, tmp_path)
    assert parameter.has_init
    assert not real["w"].any()
    load(parameter, tmp_path, layouts=Box((4, 1), (2, 2)))  # what is there can be had
    assert same(parameter.torch, whole[4:, 1:3])


def test_last_box_that_is_missing_is_known_where_the_files_say_the_shape(tmp_path):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])})
    with pytest.raises(ValueError, match=r"of shape \(6, 4\), in the checkpoint of \(4, 4\)"):
        load({"w": torch.zeros(6, 4)}, tmp_path)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])}, global_shape=[6, 4])
    with pytest.raises(CheckpointError, match="no file has its Box"):
        load({"w": torch.zeros(6, 4)}, tmp_path)


def test_boxes_that_overlap_are_read_once(tmp_path, plans):
    whole = torch.randn(6, 4)
    shard(tmp_path, 1, {"w": ((0, 0), whole[:4])})
    shard(tmp_path, 2, {"w": ((2, 0), whole[2:])})
    target = {"w": torch.zeros(6, 4)}
    load(target, tmp_path)
    assert same(target["w"], whole)
    assert sum(each.out.numel() for plan in plans for each in plan.operations) == 24


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "does not place 'w'"),
        ('{"w": {"saved_offsets": [0]}}', "does not place 'w'"),
        ('{"w": {"saved_offsets": [0, -1]}}', "does not place 'w'"),
        ('{"w": {"saved_offsets": [0, 0], "global_shape": [1, 1]}}', "is of shape"),
    ],
)
def test_sharding_information_that_makes_no_sense(text, match, tmp_path):
    save_file({"w": torch.ones(2, 3)}, tmp_path / "w.safetensors", {stored.SHARDING_KEY: text})
    target = {"w": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=match) as caught:
        load(target, tmp_path / "w.safetensors")
    assert str(tmp_path) in str(caught.value)
    assert not target["w"].any()


# ------------------------------------------------------------------ circumstances


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_modes_change_nothing(mode, checkpoint):
    """What is loaded inside can be trained outside; an inference tensor is loaded wherever."""
    source, path = checkpoint
    with mode():
        net, real = deferred(), Net()
        load(net, path)
        load(real, path)
    net.embed.weight.sum().backward()
    assert not net.embed.weight.is_inference()
    load(real, path)
    for each in (net, real):
        assert same(each.odd, source.odd)


def test_graphs_find_out_that_a_real_tensor_was_loaded(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    weight = torch.zeros(3, requires_grad=True)
    loss = (weight * weight).sum()
    load({"w": weight}, tmp_path / "w.safetensors")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_threads_that_load_and_draw_one_parameter(tmp_path, monkeypatch):
    """Whoever draws waits for the load; then there is nothing to draw."""
    values = torch.full((300, 300), 7.0)
    save_file({"w": values}, tmp_path / "w.safetensors")
    parameter, drawing = declare(shape=(300, 300)), []
    move = staging.move

    def slow(*arguments):
        move(*arguments)
        if not drawing:
            drawing.append(threading.Thread(target=parameter.init_data))
            drawing[0].start()
            drawing[0].join(0.3)
        assert parameter.has_init

    with monkeypatch.context() as patched:
        patched.setattr("tritonparam.checkpoint.loading.move", slow)
        load(parameter, tmp_path / "w.safetensors")
    drawing[0].join()
    assert same(parameter.torch, values)
    for _ in range(10):
        parameter = declare(shape=(300, 300))
        work = [parameter.init_data, lambda p=parameter: load(p, tmp_path / "w.safetensors")]
        threads = [threading.Thread(target=each) for each in work]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert same(parameter.torch, values)


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


def test_bad_arguments(checkpoint, unchanged):
    path = checkpoint[1]
    unchanged(path, TypeError, "strict must be a bool", strict=1)
    unchanged(path, TypeError, "progress must be", progress="yes")
    unchanged(path, ValueError, "dtype must be a floating-point dtype", dtype=torch.int32)
    unchanged(path, ValueError, "seed", seed=-1)
    unchanged(path, ValueError, "device", device="nowhere")
    unchanged(path, ValueError, "backend", backend="abacus")
    for meta in (nn.Linear(2, 2, device="meta").weight, deferred().norm.weight):
        with pytest.raises(ValueError, match="'w' "):
            load({"w": meta}, path)


def test_progress_is_shown_when_asked_for(checkpoint, capsys):
    load(Net(), checkpoint[1])
    assert capsys.readouterr() == ("", "")
    load(Net(), checkpoint[1], progress=True)
    out, err = capsys.readouterr()
    assert (out, "loading" in err) == ("", True)
    load(Net(), checkpoint[1], progress=False)
    assert capsys.readouterr() == ("", "")


def test_more_files_than_may_be_open_at_once(tmp_path):
    resource = pytest.importorskip("resource")
    for number in range(300):
        save_file({f"w{number}": torch.full((3,), float(number))}, tmp_path / f"{number}.safetensors")
    target = {f"w{number}": torch.zeros(3) for number in range(300)}
    probe = os.open(tmp_path, os.O_RDONLY)
    os.close(probe)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 200, limits[1]))
    try:
        load(target, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [tensor[2].item() for tensor in target.values()] == list(range(300))


def test_paths_that_the_system_refuses(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        load({"w": torch.zeros(2)}, tmp_path / ("x" * 300))
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"w": "x" * 300}}))
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        load({"w": torch.zeros(2)}, tmp_path / "index.json")


def test_scales_of_eight_bits(tmp_path):
    scales = torch.arange(6, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    save_file({"w": scales}, tmp_path / "theirs.safetensors")
    tritonparam.save({"w": scales}, tmp_path / "ours.safetensors")
    for file in ("theirs", "ours"):
        got = torch.zeros(6, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        load({"w": got}, tmp_path / f"{file}.safetensors")
        assert got.view(torch.uint8).tolist() == list(range(6)), file


def test_public_names():
    assert tritonparam.load is load
    assert tritonparam.LoadReport is LoadReport


# ------------------------------------------------------------------ staging


class Event:
    """Stands for a CUDA event."""

    log: list

    def record(self):
        self.log.append(("record", self))

    def synchronize(self):
        self.log.append(("wait", self))


def test_staging_uses_two_buffers_in_turn_and_waits_for_each(monkeypatch):
    """What a CUDA device does, on the host: no buffer is written again before the device is done with it."""
    log = []
    monkeypatch.setattr(Event, "log", log, raising=False)
    values = [torch.randn(10, 30), torch.randint(-9, 9, (7,)), torch.randn(3, 5)[:, ::2], torch.zeros(0, 2)]
    outs = [
        torch.zeros(10, 30, dtype=torch.bfloat16),
        torch.zeros(7, dtype=torch.int64),
        torch.zeros(3, 3),
        torch.ones(0, 2),
    ]
    moves = [Move(out, source) for out, source in zip(outs, values, strict=True)]
    read = []
    size = 256
    batches = list(staging._batches(moves, size))
    Staging(torch.device("cpu"), size, pinned=False, event=Event).run(batches, None, read.append)
    for out, source in zip(outs, values, strict=True):
        assert same(out, source.to(out.dtype))
    assert sum(read) == sum(each.numel() * each.element_size() for each in values)
    assert max(read) <= size
    recorded = [event for what, event in log if what == "record"]
    assert len(recorded) == len(batches) > 4
    for turn in range(2, len(batches)):  # before the third batch is recorded, the first was waited for
        assert log.index(("wait", recorded[turn - 2])) < log.index(("record", recorded[turn]))
    assert {event for what, event in log if what == "wait"} == set(recorded)


def test_staging_refuses_what_does_not_fit():
    batch = [Move(torch.zeros(100), torch.zeros(100))]
    with pytest.raises(ValueError, match="must fit into the 256 bytes"):
        Staging(torch.device("cpu"), 256, pinned=False, event=Event).run([batch], None, lambda _: None)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1 << 10, 1 << 26])
def test_loading_to_a_cuda_device(size, checkpoint, monkeypatch):
    source, path = checkpoint
    monkeypatch.setattr(staging, "STAGING", size)
    for net in (deferred(), Net().cuda()):
        load(net, path, device="cuda", dtype=torch.bfloat16)
        for name, want in source.state_dict().items():
            got = net.state_dict()[name]
            assert got.is_cuda
            assert same(got.cpu(), want.to(got.dtype))
