"""torch, NumPy and DLPack around a Parameter: `.torch` is theirs to hold, train, copy, save and load, lazy or real."""

import copy
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tritonparam import Parameter, ParameterTuple, Tensor
from tritonparam.initializer import Normal, initializer


def normal(name="w", shape=(2, 3), dtype="float32", **flags):
    return Parameter(initializer("normal", shape, dtype), name, **flags)


class Scale(torch.nn.Module):
    """A module of two Parameters: one an attribute, both in a list."""

    def __init__(self, first, second):
        super().__init__()
        self.weight = first.torch
        self.others = torch.nn.ParameterList([first.torch, second.torch])

    def forward(self, x):
        return x @ self.weight + self.others[1]


def made(real=True):
    """Two Parameters and a module of them."""
    group = ParameterTuple([normal("w"), normal("b", (3,))])
    module = Scale(*group)
    return (group.init_data() if real else group), module


def through_a_file(thing, **arguments):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, **arguments)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": lambda thing: through_a_file(thing, weights_only=False),
}


@pytest.mark.parametrize("real_first", [True, False])
def test_module_registers_the_objects_and_keeps_them(real_first):
    group, module = made(real_first)
    before = list(module.parameters())
    assert [name for name, _ in module.named_parameters()] == ["weight", "others.1"]
    assert before[0] is module.others[0] is group[0].torch
    group.init_data()
    assert all(one is other for one, other in zip(before, module.parameters(), strict=True))
    want = np.ones((1, 2), np.float32) @ group[0].asnumpy() + group[1].asnumpy()
    np.testing.assert_allclose(module(torch.ones(1, 2)).detach().numpy(), want, rtol=1e-6)


OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "AdamW": (torch.optim.AdamW, {}),
    "AdamW foreach": (torch.optim.AdamW, {"foreach": True}),
    "AdamW fused": (torch.optim.AdamW, {"fused": True}),
}


@pytest.mark.parametrize(("kind", "arguments"), OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_optimizer_takes_the_steps_that_it_takes_with_plain_parameters(kind, arguments, optimizer_first):
    """Bit for bit, made before or after the Parameters become real; gradients land on `.torch.grad`, clipped too."""
    group, module = made(real=not optimizer_first)
    optimizer = kind(module.parameters(), lr=0.1, **arguments)
    group.init_data()
    plain = [torch.nn.Parameter(member.torch.detach().clone()) for member in group]
    reference = kind(plain, lr=0.1, **arguments)
    start = [member.asnumpy().copy() for member in group]
    x = torch.arange(8.0).reshape(4, 2)
    for _ in range(3):
        for output, parameters, each in (
            (module(x), module.parameters(), optimizer),
            (x @ plain[0] + plain[1], plain, reference),
        ):
            each.zero_grad()
            output.square().sum().backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            assert norm > 0
            each.step()
        for member, want in zip(group, plain, strict=True):
            assert torch.equal(member.torch.grad, want.grad)
            assert torch.equal(member.torch, want)
    assert all((member.asnumpy() != old).any() for member, old in zip(group, start, strict=True))


def test_step_on_lazy_parameters_does_nothing():
    group, module = made(real=False)
    optimizer = torch.optim.AdamW(module.parameters())
    optimizer.zero_grad()
    assert torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0) == 0
    optimizer.step()
    assert all(member.has_init for member in group)
    assert not optimizer.state_dict()["state"]


def test_hooks_set_while_lazy_fire_and_can_be_removed():
    parameter, fired = normal(), []
    kept = parameter.torch.register_hook(lambda gradient: gradient * 2)
    gone = parameter.torch.register_hook(lambda gradient: fired.append("gone"))
    parameter.torch.register_post_accumulate_grad_hook(fired.append)
    parameter.init_data()
    gone.remove()
    parameter.torch.sum().backward()
    assert fired[0] is parameter.torch
    assert len(fired) == 1
    kept.remove()
    parameter.torch.sum().backward()
    assert parameter.torch.grad.tolist() == [[3] * 3] * 2


def test_state_dict_round_trip_writes_into_the_parameters():
    """Also through a file that is read with weights_only; the other module holds what this one held."""
    (source, module), (target, other) = made(), made()
    storage = target[0].torch
    state = through_a_file(module.state_dict(), weights_only=True)
    assert list(state) == ["weight", "others.0", "others.1"]
    assert other.load_state_dict(state).missing_keys == []
    assert target[0].torch is other.weight is storage
    for member, want in zip(target, source, strict=True):
        assert np.array_equal(member.asnumpy(), want.asnumpy())
    source[0][0, 0] = 9
    assert target[0].asnumpy()[0, 0] != 9


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("duplicate", [lambda thing: thing, *COPIES.values()], ids=["itself", *COPIES])
def test_state_is_not_loaded_into_what_is_lazy_but_refused(duplicate):
    """torch would drop it with a warning; set_data takes it, and once real load_state_dict does."""
    state = {key: torch.ones_like(value) for key, value in made()[1].state_dict().items()}
    group, module = duplicate(made(real=False))
    with pytest.raises(RuntimeError, match=r"set_data of the Parameter.*init_data\(\) first"):
        module.load_state_dict(state)
    assert all(member.has_init for member in group)
    group[0].set_data(state["weight"])
    with pytest.raises(RuntimeError, match=r"others\.1"):
        module.load_state_dict(state)
    group[1].init_data()
    module.load_state_dict(state)
    assert [member.asnumpy().tolist() for member in group] == [[[1] * 3] * 2, [1] * 3]
    assert not any(vars(member.torch) for member in group)


def test_integers_that_are_lazy_refuse_to_be_loaded_as_well():
    counter, module = Parameter(initializer("zeros", [2], "int32"), "n"), torch.nn.Module()
    module.register_buffer("n", counter.torch)
    with pytest.warns(UserWarning, match="no-op"), pytest.raises(RuntimeError, match="set_data of the Parameter"):
        module.load_state_dict({"n": torch.ones(2, dtype=torch.int32)})
    counter.init_data()
    module.load_state_dict({"n": torch.ones(2, dtype=torch.int32)})
    assert counter.asnumpy().tolist() == [1, 1]


def test_optimizer_state_goes_through_a_file():
    group, module = made()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    other = torch.optim.AdamW([member.torch for member in group])
    other.load_state_dict(through_a_file(optimizer.state_dict(), weights_only=True))
    assert torch.equal(
        other.state[group[0].torch]["exp_avg"],
        optimizer.state[group[0].torch]["exp_avg"],
    )


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("real", [True, False])
def test_module_and_parameters_copied_together_stay_tied(duplicate, real):
    """Lazy ones have the same values to come, and nothing is shared with the originals."""
    group, module = made(real)
    group[1].requires_grad = False
    copies, other = duplicate((group, module))
    assert other.weight is other.others[0] is copies[0].torch
    assert [type(each) for each in other.parameters()] == [torch.nn.Parameter] * 2
    assert [each.requires_grad for each in other.parameters()] == [True, False]
    copies.init_data()
    assert group[0].has_init is not real
    for member, want in zip(copies, group, strict=True):
        assert np.array_equal(member.asnumpy(), want.asnumpy())
    copies[0][...] = 9
    assert module.weight.max() < 9
    other(torch.ones(1, 2)).sum().backward()
    assert module.weight.grad is None
    assert copies[0].torch.grad is not None


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_module_alone_can_be_copied_once_real(duplicate):
    group, module = made()
    other = duplicate(module)
    assert other.weight is other.others[0]
    assert torch.equal(other(torch.ones(1, 2)), module(torch.ones(1, 2)))
    assert other.weight is not group[0].torch


def test_functional_call_and_gradients_of_functions():
    group, module = made()
    x = torch.ones(1, 2)
    assert torch.func.functional_call(module, {"weight": torch.zeros(2, 3)}, (x,)).tolist() == [group[1].tolist()]
    parameters = dict(module.named_parameters())
    gradients = torch.func.grad(lambda p: torch.func.functional_call(module, p, (x,)).sum())(parameters)
    assert gradients["weight"].tolist() == [[1] * 3] * 2
    assert group[0].torch.grad is None


def test_module_conversion_is_seen_by_the_parameter():
    group, module = made()
    module.double()
    assert module.weight is group[0].torch
    assert (str(group[0].dtype), group[0].asnumpy().dtype) == ("Float64", np.float64)


@pytest.mark.parametrize("lazy", [True, False])
def test_integers_remember_requires_grad_and_torch_never_hears_of_it(lazy):
    parameter = Parameter(initializer("ones", [2], "int32"), "n")
    if not lazy:
        parameter.init_data()
    parameter.requires_grad = False
    parameter.requires_grad = True
    module = torch.nn.Module()
    module.register_buffer("n", parameter.torch)
    for other in (parameter, parameter.clone(), copy.deepcopy(parameter), pickle.loads(pickle.dumps(parameter))):
        assert (other.requires_grad, other.torch.requires_grad) == (True, False)
        assert not (other + 1).torch.requires_grad
    assert module.n is parameter.torch
    scale = Parameter([2.0, 3.0])
    (scale * parameter).torch.sum().backward()
    assert scale.torch.grad.tolist() == [1, 1]
    assert parameter.torch.grad is None


def test_modules_and_optimizers_do_not_take_the_parameter_for_its_torch():
    """A Parameter is no torch tensor: a module refuses it, and torch says so where one is needed."""
    parameter, module = normal(), torch.nn.Module()
    with pytest.raises(TypeError, match=r"give its \.torch"):
        module.w = parameter
    with pytest.raises(TypeError, match="Parameter"):
        torch.optim.SGD([parameter], lr=0.1)
    assert parameter.has_init


def test_numpy_functions_make_it_real_and_give_arrays():
    parameter = normal()
    got = np.add(parameter, 1)
    values = parameter.asnumpy()
    assert type(got) is np.ndarray
    for one, other in [
        (got, values + 1),
        (np.exp(parameter), np.exp(values)),
        (np.maximum(parameter, 0), np.maximum(values, 0)),
        (np.sum(parameter), np.sum(values)),
        (np.concatenate([parameter, parameter]), np.concatenate([values, values])),
        (np.where(parameter > 0, 1, 0), np.where(values > 0, 1, 0)),
    ]:
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert np.shares_memory(np.asarray(parameter), values)
    assert np.asarray(parameter, np.float64).dtype == np.float64
    with pytest.raises(TypeError):
        np.add(values, 1, out=parameter)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
def test_dlpack_goes_out_of_a_lazy_parameter_and_comes_in_as_data(dtype):
    parameter = Parameter(initializer("ones", [2, 3], dtype), "w")
    for view in (np.from_dlpack(parameter), torch.from_dlpack(parameter)):
        assert view.shape == (2, 3)
        parameter[0, 0] = 7
        assert view[0, 0] == 7
        parameter[0, 0] = 1
        assert not getattr(view, "requires_grad", False)
    other = Parameter(torch.from_dlpack(parameter), "v")
    assert other.dtype is parameter.dtype
    assert Tensor(np.from_dlpack(parameter)).tolist() == other.tolist() == [[1] * 3] * 2


def test_compiled_module_trains_the_parameter():
    """The graph that dynamo takes, run eagerly: generating code for it takes a quarter of a minute and adds nothing."""
    group, module = made()
    x = torch.ones(1, 2)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))
    compiled(x).sum().backward()
    assert group[0].torch.grad.tolist() == [[1] * 3] * 2
    group[1].set_data(np.zeros(3, np.float32))
    assert torch.equal(compiled(x), x @ group[0].torch)


def all_but_values(shape):
    """Everything that can be done to a lazy parameter without asking for values; returns it, still lazy."""
    parameter = normal(shape=shape)
    parameter.requires_grad, parameter.comm_fusion, parameter.unique, parameter.note = False, 2, True, 1
    parameter.set_param_ps()
    assert str(parameter.shape) in f"{parameter} {parameter!r} {[parameter]} {parameter.torch!r}"
    assert (parameter.dtype.itemsize * parameter.size, len(parameter)) == (parameter.nbytes, shape[0])
    assert (parameter.ndim, parameter.itemsize, parameter.strides) == (2, 4, (4 * shape[1], 4))
    group = ParameterTuple([parameter, parameter.clone(), parameter.clone("ones")][:1])
    others = [*group.clone("m"), *copy.deepcopy(group), *pickle.loads(pickle.dumps(group)), copy.copy(parameter)]
    others += [
        Parameter(parameter, "v"),
        parameter.copy(),
        Parameter(parameter.init_mode),
        *COPIES["torch.save"](group),
    ]
    parameter.set_data(Normal()).set_data(others[0]).set_dtype("float16").set_dtype("float32")
    module = torch.nn.ParameterList(each.torch for each in others)
    assert all(each.is_meta for each in copy.deepcopy(module).state_dict().values())
    assert all(each.has_init and each.shape == shape for each in others)
    return parameter


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_ten_terabytes_take_no_memory_until_values_are_asked_for():
    """Neither resident nor reserved: not by any of what the API does without values."""

    def pages():
        return [int(number) * os.sysconf("SC_PAGE_SIZE") for number in Path("/proc/self/statm").read_text().split()[:2]]

    all_but_values((2, 3))
    before = pages()
    kept = [all_but_values((2_500_000, 1_000_000)) for _ in range(20)]
    grown = [after - earlier for after, earlier in zip(pages(), before, strict=True)]
    assert sum(each.nbytes for each in kept) == 20 * 10**13
    assert max(grown) < 2**24, grown


def test_what_an_optimizer_wrote_into_a_lazy_parameter_is_lost_and_told():
    parameter = normal()
    optimizer = torch.optim.SGD([parameter.torch], lr=0.1)
    (parameter.torch * 2).sum().backward()
    optimizer.step()
    with pytest.warns(UserWarning, match=r"what torch wrote into a lazy tensor is lost.*call init_data\(\) before"):
        parameter.init_data()
