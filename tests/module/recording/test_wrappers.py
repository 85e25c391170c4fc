"""Classes with a `__torch_dispatch__` of their own: what they do to deferred tensors is recorded, or refused."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor

from tritonparam import KeptWarning, declarations, deferred_init, materialize


class Scaled(torch.Tensor):
    """A number times an integer tensor, as those of quantized weights are: it does each operator in its own way."""

    @staticmethod
    def __new__(cls, integers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype, device=integers.device)

    def __init__(self, integers, scale):
        self.held = {"integers": integers, "scale": scale}

    def dequantized(self):
        return self.held["integers"] * self.held["scale"]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        own = args[0]
        if func is torch.ops.aten.copy_.default and isinstance(own, Scaled):
            own.held["scale"].copy_(args[1].abs().amax() / 127)
            own.held["integers"].copy_((args[1] / own.held["scale"]).round())
            return own
        if func is torch.ops.aten.detach.default:
            return Scaled(own.held["integers"].detach(), own.held["scale"].detach())
        args = [each.dequantized() if isinstance(each, Scaled) else each for each in args]
        return func(*args, **(kwargs or {}))


class Model(nn.Module):
    """Two parameters that were written, and then changed by `change` through whatever wraps them."""

    def __init__(self, change):
        super().__init__()
        self.a = nn.Parameter(torch.ones(4))
        self.b = nn.Parameter(torch.arange(4.0))
        with torch.no_grad():
            change(self, TwoTensor(self.a.detach(), self.b.detach()))


def real_pair():
    return TwoTensor(torch.full((4,), 3.0), torch.full((4,), 5.0))


def nested(model, both):
    TwoTensor(both, TwoTensor(both.b, both.b)).add_(1.0)


def quantized(model, both):
    scaled = Scaled(torch.zeros(4, dtype=torch.int8), torch.ones(()))
    scaled.copy_(both.b - 1.5)
    model.a.copy_(scaled.detach() + 0.25)


def as_parameter(model, both):
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(TwoTensor(model.a.view(2, 2).detach(), model.b.view(2, 2).detach()))
    nn.init.constant_(layer.weight, 0.5)
    layer.to(torch.float64)
    model.b.add_(layer.weight.sum().a)


CHANGES = {
    "fill_": lambda model, both: both.fill_(2.0),
    "zero_": lambda model, both: both.zero_(),
    "add_": lambda model, both: both.add_(1.0),
    "of two wrappers": lambda model, both: both.mul_(real_pair()),
    "copy_ of a wrapper": lambda model, both: both.copy_(real_pair()),
    "copy_ of a real tensor": lambda model, both: both.copy_(torch.arange(4.0)),
    "copy_ from a wrapper": lambda model, both: model.a.copy_((both + real_pair()).b),
    "out=": lambda model, both: torch.mul(real_pair(), 2.0, out=both),
    "a view": lambda model, both: both[1:3].fill_(7.0),
    "a reshaped view": lambda model, both: both.view(2, 2).t()[0].mul_(3.0),
    "set_": lambda model, both: model.a.set_((both + 1.0).b),
    "data": lambda model, both: both.data.fill_(4.0),
    "foreach": lambda model, both: torch._foreach_mul_([both, both], 3.0),
    "a value": lambda model, both: model.a.fill_(both.sum().b.item()),
    "a mask": lambda model, both: both.masked_fill_(TwoTensor(model.a < 2, model.b < 2), -1.0),
    "nested": nested,
    "made from attributes": quantized,
    "a parameter, cast": as_parameter,
    "a jagged tensor": lambda model, both: torch.nested.nested_tensor_from_jagged(
        model.a.detach(), torch.tensor([0, 1, 4])
    ).fill_(6.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_wrapper_does_to_the_tensors_within_is_recorded(change):
    """Their values are those of eager torch, never those of before."""
    with deferred_init():
        model = Model(change)
    want = Model(change)
    materialize(model)
    assert model.a.tolist() == want.a.tolist()
    assert model.b.tolist() == want.b.tolist()
    assert [model.a.tolist(), model.b.tolist()] != [[1.0] * 4, [0.0, 1.0, 2.0, 3.0]]


def test_draws_into_a_wrapper_follow_the_seed_and_the_names_of_the_tensors_within():
    """Each of the two is drawn for itself, as a parameter of its name that is drawn without a wrapper."""

    def plain(model, both):
        both.a.normal_()
        both.b.normal_()

    with deferred_init():
        wrapped, unwrapped = Model(lambda model, both: both.normal_()), Model(plain)
    assert [each.laws for each in declarations(wrapped)] == [each.laws for each in declarations(unwrapped)]
    for seed in (1, 2):
        with deferred_init():
            wrapped, unwrapped = Model(lambda model, both: both.normal_()), Model(plain)
        got, want = materialize(wrapped, seed=seed), materialize(unwrapped, seed=seed)
        assert torch.equal(got.a, want.a)
        assert torch.equal(got.b, want.b)
        assert not torch.equal(got.a, got.b)


def test_a_dtensor_in_a_block_writes_to_its_local_tensor():
    """Torch asks its dispatcher, which is in C++, itself."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))

        def change(model, both):
            DTensor.from_local(model.a.detach(), mesh, [Replicate()], run_check=False).fill_(2.0)

        with deferred_init():
            model = Model(change)
        assert materialize(model).a.tolist() == [2.0] * 4
    finally:
        torch.distributed.destroy_process_group()


def test_a_real_wrapper_is_written_at_once():
    """As all real tensors are, also by deferred ones."""
    pair = real_pair()
    with deferred_init():
        pair.mul_(2.0)
        pair.add_(torch.ones(4))
    assert pair.a.tolist() == [7.0] * 4
    assert pair.b.tolist() == [11.0] * 4


def keep_as_parameter(model, both):
    model.pair = nn.Parameter(both)


def keep_in_a_list(model, both):
    model.pairs = [TwoTensor(both, both)]


def keep_scaled(model, both):
    model.scaled = Scaled(both.a, both.b)


@pytest.mark.parametrize(
    ("keep", "named"),
    [(keep_as_parameter, r"pair \(TwoTensor\)"), (keep_in_a_list, r"pairs.0 \(TwoTensor\)"), (keep_scaled, "scaled")],
)
def test_a_module_that_holds_a_wrapper_of_deferred_tensors_is_refused(keep, named):
    """Its size, dtype and device are its own, and would not follow those within; without a change to the module."""
    with deferred_init():
        model = Model(keep)
    with pytest.raises(ValueError, match=f"wrap deferred ones.*{named}.*wrap these tensors after materialize"):
        materialize(model)
    assert model.a.is_meta


def test_a_module_may_hold_a_wrapper_of_real_tensors():
    pair = real_pair()
    with deferred_init():
        model = Model(lambda model, both: None)
        model.pair = nn.Parameter(pair)
    with pytest.warns(KeptWarning, match="^pair is real already, and keeps"):
        materialize(model)
    assert model.pair.a.tolist() == [3.0] * 4


def test_a_write_to_a_wrapper_after_its_block_is_refused_by_the_names_of_the_tensors_within():
    """It moves no version counter but the wrapper's; whether that is still there makes no difference."""
    kept = []
    with deferred_init():
        model = Model(lambda model, both: kept.append(both))
    kept.pop().fill_(2.0)
    with pytest.raises(RuntimeError, match=r"written to outside deferred_init\(\).*: a, b;"):
        materialize(model)


def test_a_write_to_a_wrapper_in_a_later_block_counts():
    kept = []
    with deferred_init():
        model = Model(lambda model, both: kept.append(both))
    with deferred_init():
        kept[0].fill_(2.0)
    assert materialize(model).b.tolist() == [2.0] * 4


class WithMemory(torch.Tensor):
    """A tensor with a dispatcher of its own that wraps nothing, and `factor` times what it is told to add."""

    factor = 1.0

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with torch._C._DisableTorchDispatch():
            if func is torch.ops.aten.fill_.Scalar:
                plain = torch.Tensor._make_subclass(torch.Tensor, args[0])
        if func is torch.ops.aten.fill_.Scalar:
            func(plain, args[1] * cls.factor)
            return args[0]
        return super().__torch_dispatch__(func, types, args, kwargs or {})


class Doubling(WithMemory):
    factor = 2.0


def test_a_class_with_memory_of_its_own_is_held_to_the_operators_that_are_noted():
    """The operator is noted as it was called; a class that does another one is refused, with its name."""

    def fill(kind):
        return lambda model, both: torch.Tensor._make_subclass(kind, model.a.detach()).fill_(2.0)

    with deferred_init():
        model = Model(fill(WithMemory))
    assert materialize(model).a.tolist() == [2.0] * 4
    with (
        pytest.raises(RuntimeError, match=r"aten::fill_ of a class .* cannot be followed.*after materialize"),
        deferred_init(),
    ):
        Model(fill(Doubling))


def test_two_classes_with_dispatchers_in_one_call_are_refused_where_one_wraps_and_one_has_memory():
    def add(model, both):
        both.add_(torch.Tensor._make_subclass(WithMemory, torch.ones(4)))

    with (
        pytest.raises(RuntimeError, match=r"classes TwoTensor, WithMemory.*cannot be followed.*in Model"),
        deferred_init(),
    ):
        Model(add)


class Function(torch.Tensor):
    """A tensor with a `__torch_function__` of its own only, which doubles what it is filled with."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.fill_:
            args = (args[0], args[1] * 2)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_class_with_a_torch_function_of_its_own_is_followed():
    with deferred_init():
        model = Model(lambda model, both: model.a.detach().as_subclass(Function).fill_(2.0))
    assert materialize(model).a.tolist() == [4.0] * 4
