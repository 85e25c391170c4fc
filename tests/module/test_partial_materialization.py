"""materialize of a part: a submodule, or what name patterns choose, has the values that it has in the whole."""

import pytest
import torch
from torch import nn

from tests.module.deferred_models import Holder, deferred, real, same, tensors
from tritonparam import KeptWarning, declarations, deferred_init, load, materialize
from tritonparam.module.full_names import full_prefix, remember


def stack():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 4)))


def remembered(build):
    with deferred_init():
        module = build()
    remember([module])
    return module


class Tied(nn.Module):
    """A head that is its embedding, and a copy of it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.copied = nn.Linear(4, 6, bias=False)
        self.copied.weight = nn.Parameter(self.embed.weight.detach().clone())
        self.mixed = nn.Linear(4, 6, bias=False)
        nn.init.orthogonal_(self.mixed.weight)


@pytest.mark.parametrize("build", [stack, Tied])
@pytest.mark.parametrize("backwards", [False, True])
def test_part_by_part_is_the_whole(build, backwards):
    """In any order: what parts share keeps the key of its first holder in the whole, made real before it or not."""
    want, got = materialize(remembered(build), seed=7), remembered(build)
    parts = list(got.children())
    for part in reversed(parts) if backwards else parts:
        materialize(part, seed=7)
    assert same(got, want)
    assert all(not tensor.is_meta for tensor in tensors(got).values())


def test_equal_layers_differ():
    model = remembered(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    for layer in model:
        materialize(layer, seed=7)
    assert not torch.equal(model[0].weight, model[1].weight)


def test_a_prefix_can_be_said():
    """Names come after it; "" makes the part a whole of its own."""
    want = materialize(remembered(stack), seed=3)
    with deferred_init():
        alone, plain = nn.Linear(4, 4), nn.Linear(4, 4)
    assert same(materialize(alone, seed=3, prefix="2.0"), want[2][0])
    got = remembered(stack)
    assert same(materialize(got[2][0], seed=3, prefix=""), materialize(plain, seed=3, prefix=""))


@pytest.mark.parametrize(
    ("prefix", "error", "message"),
    [
        (5, TypeError, "prefix must be a string, got 5"),
        (
            "layers.",
            ValueError,
            r"prefix must be names with dots between them, such as 'layers\.3', or '', got 'layers\.'",
        ),
    ],
)
def test_bad_prefixes_are_refused(prefix, error, message):
    model = remembered(stack)
    with pytest.raises(error, match=message):
        materialize(model, prefix=prefix)
    assert model[0].weight.is_meta


def test_declarations_and_load_of_a_part_have_its_values_too(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    want = materialize(remembered(stack), seed=7)
    got = remembered(stack)
    declaration = declarations(got[1])[0]
    out = torch.empty(4, 4)
    for fill in declaration.fills(out, 7):
        assert fill.key == declaration.piece_sources()[0].key(7)
    assert (declaration.name, declaration.piece_sources()[0].name) == ("weight", "1.weight")
    save_file({"bias": torch.ones(4)}, tmp_path / "bias.safetensors")
    load(got[1], tmp_path / "bias.safetensors", strict=False, seed=7)
    assert torch.equal(got[1].weight, want[1].weight)


def test_names_survive_the_whole_and_follow_a_later_one():
    """A whole that is gone has told its names; one built around it in a later block counts from then on."""
    want = materialize(remembered(stack), seed=7)
    model = remembered(stack)
    part = model[2]
    del model
    assert full_prefix(part) == "2"
    assert same(materialize(part, seed=7), want[2])
    inner = remembered(stack)
    with deferred_init():
        outer = nn.ModuleDict({"body": inner, "head": nn.Linear(2, 2)})
    remember([outer])
    assert (full_prefix(inner[2][1]), full_prefix(outer)) == ("body.2.1", "")


def test_what_is_put_into_a_whole_later_is_named_by_its_place_there():
    model = remembered(stack)
    with deferred_init():
        head = nn.Linear(4, 2)
    remember([head])
    assert full_prefix(head) == ""
    model.append(head)
    assert full_prefix(head) == "3"
    del model[0]
    assert [full_prefix(each) for each in model] == ["0", "1", "2"]


def test_a_wrapper_made_outside_is_what_it_is():
    model = remembered(stack)
    wrapper = nn.ModuleDict({"module": model})
    assert (full_prefix(wrapper), full_prefix(model)) == ("", "")
    names = {declaration.piece_sources()[0].name for declaration in declarations(wrapper)}
    assert "module.0.weight" in names


def test_views_of_one_storage_in_two_parts_become_real_together():
    def build():
        packed = torch.randn(6, 4)
        first = Holder(lambda: {"top": packed[:3]})
        return nn.ModuleList([first, Holder(lambda: {"all": packed, "own": torch.zeros(2)})])

    want, got = materialize(remembered(build)), remembered(build)
    materialize(got[0])
    assert (got[1].all.is_meta, got[1].own.is_meta) == (False, True)
    assert got[0].top.data_ptr() == got[1].all.data_ptr()
    assert same(materialize(got), want)


@pytest.mark.parametrize("build", [stack, Tied])
def test_patterns_choose_what_becomes_real(build):
    """The rest stays deferred, and has the values later that it would have had at once."""
    want, got = materialize(remembered(build), seed=5), remembered(build)
    first = next(iter(tensors(got)))
    materialize(got, seed=5, skip=first)
    assert next(name for name, tensor in tensors(got).items() if tensor.is_meta) == first
    materialize(got, seed=5, only=[first])
    assert same(materialize(got, seed=5), want)
    got = remembered(build)
    materialize(got, seed=5, only=("*weight",), skip="*0.*" if build is stack else None)
    chosen = {name for name in tensors(got) if name.endswith("weight") and "0." not in name}
    assert {name for name, tensor in tensors(got).items() if not tensor.is_meta} == chosen
    assert same(materialize(got, seed=5), want)


def test_what_is_skipped_is_not_drawn_and_a_checkpoint_makes_it_real(tmp_path, plans):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    values = {"a": torch.randn(50), "b": torch.randn(50)}
    save_file(values, tmp_path / "a.safetensors")
    module = deferred(lambda: {"a": torch.randn(50), "b": torch.empty(50), "c": torch.randn(50)})
    materialize(module, skip=["a", "b"])
    assert [len(plan.operations) for plan in plans] == [1]
    load(module, tmp_path / "a.safetensors", strict=False)
    assert torch.equal(module.a, values["a"])
    assert torch.equal(module.c, real(lambda: {"c": torch.randn(50)}).c)


def test_a_tied_tensor_goes_by_each_of_its_names():
    model = remembered(Tied)
    materialize(model, only="head.*")
    assert not model.embed.weight.is_meta
    model = remembered(Tied)
    materialize(model, skip="head.*")
    assert model.embed.weight.is_meta


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"only": "lyers.*"},
            ValueError,
            "only must match names of the module's tensors, such as w, top, other, got 'lyers",
        ),
        (
            {"skip": "lyers.*"},
            ValueError,
            "skip must match names of the module's tensors, such as w, top, other, got 'ly",
        ),
        ({"only": 5}, TypeError, "only must be a pattern of names or several, got 5"),
        ({"skip": [5]}, TypeError, r"skip must be a pattern of names or several, got \[5\]"),
        ({"only": "top"}, ValueError, "only and skip must not divide tensors that share a storage, got top without w"),
        ({"strict": 1}, TypeError, "strict must be a bool, got 1"),
        ({"report": "yes"}, TypeError, "report must be a bool, got 'yes'"),
    ],
)
def test_bad_choices_are_refused_and_change_nothing(arguments, error, message):
    module = deferred(lambda: (lambda w: {"w": w, "top": w[:2], "other": torch.ones(2)})(torch.randn(4, 2)))
    with pytest.raises(error, match=message):
        materialize(module, **arguments)
    assert all(tensor.is_meta for tensor in tensors(module).values())
    assert materialize(nn.ReLU(), only="weight") is not None


def scratch():
    part = torch.empty(4)
    part[:3] = 5
    return {"fine": torch.ones(2), "never": torch.empty(2), "part": part, "twice_buffer": torch.empty(2) * 2}


def test_what_was_never_written_is_zero_if_so_wished():
    """With one warning that names all of it; strict stays the default."""
    with pytest.raises(ValueError, match=r"strict=False.*never written: never, part, twice_buffer$"):
        materialize(deferred(scratch))
    with pytest.warns(
        UserWarning, match=r"^elements that were never written are 0: never, part, twice_buffer$"
    ) as told:
        got = real(scratch, strict=False, dtype=torch.bfloat16)
    assert len(told) == 1
    assert [tensor.tolist() for tensor in tensors(got).values()] == [[1, 1], [0, 0], [5, 5, 5, 0], [0, 0]]


def test_skip_init_is_zero_if_so_wished():
    with deferred_init():
        model = nn.utils.skip_init(nn.Linear, 3, 2)
    with pytest.raises(ValueError, match="never written: weight, bias"):
        materialize(model)
    with pytest.warns(UserWarning, match="weight, bias"):
        materialize(model, strict=False)
    assert not model.weight.any()
    with pytest.warns(KeptWarning):
        assert not materialize(nn.Linear(2, 2), strict=False).weight.is_meta
