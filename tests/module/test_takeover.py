"""take_over: tensors become real in place, whatever else holds on to them, or nothing changes."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from tritonparam import deferred_init, load, materialize, save


def deferred(build):
    with deferred_init():
        return build()


def real_twin(module, build):
    """What eager torch builds, with the parameters and buffers that `module` has."""
    twin = build()
    with torch.no_grad():
        for mine, other in zip(
            [*twin.parameters(), *twin.buffers()], [*module.parameters(), *module.buffers()], strict=True
        ):
            mine.copy_(other)
    return twin


class Kept(nn.Module):
    """A parameter, and what `make` computes from it as an attribute."""

    def __init__(self, make):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 2, 12).reshape(4, 3))
        self.v = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0]))
        self.kept = make(self)


COMPUTED = {
    "transposed": lambda m: m.w.t(),
    "rows": lambda m: m.w[1:3],
    "flat": lambda m: m.w.view(-1),
    "view of a view": lambda m: m.w.t()[1].unsqueeze(0),
    "complex": lambda m: torch.view_as_complex(m.w.view(6, 2)),
    "bits": lambda m: m.w.view(-1).expand(2, 12),
    "diagonal": lambda m: m.w.diagonal(),
    "norm": lambda m: m.w.norm(),
    "norm of rows": lambda m: m.w.norm(dim=1, keepdim=True),
    "view of a norm": lambda m: m.w.norm(dim=1)[None],
    "product": lambda m: m.w * m.mask,
    "of two": lambda m: (m.w @ m.v).softmax(0),
    "of a row": lambda m: m.w[1] * 2 + m.w[2].detach(),
    "detached on one side": lambda m: m.w * m.v.detach(),
    "of itself, detached": lambda m: m.w * m.w.detach(),
    "clone": lambda m: m.w.clone(),
    "of another dtype": lambda m: m.w.double().sum(0),
    "joined": lambda m: torch.cat([m.w, m.w * 2]),
    "chunk": lambda m: m.w.chunk(2)[1] * 1,
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_what_was_computed_from_a_parameter_has_its_values_and_its_gradients(kind):
    """Before, the parameter could not be made real at all."""

    def build():
        return Kept(COMPUTED[kind])

    got, want = materialize(deferred(build)), build()
    assert torch.equal(got.kept, want.kept)
    assert (got.kept.requires_grad, got.kept.is_leaf) == (True, False)
    assert (got.kept.shape, got.kept.stride(), got.kept.dtype) == (want.kept.shape, want.kept.stride(), want.kept.dtype)
    for module in (got, want):
        weights = torch.arange(module.kept.numel()).reshape(module.kept.shape)
        (module.kept * weights).abs().sum().backward()
    for mine, other in zip(got.parameters(), want.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert torch.equal(mine.grad, other.grad)


def test_views_show_the_parameter_and_follow_it():
    module = materialize(deferred(lambda: Kept(lambda m: [m.w.t(), m.w.detach()[0], m.w.data])))
    with torch.no_grad():
        module.w.fill_(5)
    assert [bool((each == 5).all()) for each in module.kept] == [True, True, True]
    assert module.kept[0]._base is module.w


def test_what_was_computed_is_cast_with_the_rest():
    module = materialize(deferred(lambda: Kept(lambda m: [m.w.t(), m.w.norm(dim=1)])), dtype=torch.float64)
    assert [each.dtype for each in module.kept] == [torch.float64, torch.float64]
    sum(each.sum() for each in module.kept).backward()
    assert module.w.grad.dtype == torch.float64


def test_views_of_what_was_computed_share_its_storage():
    def make(m):
        doubled = m.w * 2
        return [doubled, doubled[0], doubled.detach()]

    module = materialize(deferred(lambda: Kept(make)))
    assert module.kept[1]._base is module.kept[0]
    assert module.kept[2].data_ptr() == module.kept[0].data_ptr()
    module.kept[1].sum().backward()
    assert module.w.grad.sum() == 6


class Changed(nn.Module):
    """Computed, and written to after that."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.kept = self.w * 2
        self.kept.add_(1)


class Rewritten(nn.Module):
    """Computed before the parameter was written to."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.kept = self.w.norm()
        nn.init.zeros_(self.w)


@pytest.mark.parametrize("build", [Changed, Rewritten])
def test_gradients_along_a_way_that_cannot_be_gone_back_are_an_error_that_names_the_tensor(build):
    module, eager = materialize(deferred(build)), build()
    assert torch.equal(module.kept, eager.kept)
    with pytest.raises(RuntimeError, match=r"gradients were asked for through kept, .* compute it again"):
        module.kept.sum().backward()


def test_graphs_outside_of_the_module_ask_for_no_gradients():
    module = deferred(lambda: nn.Linear(2, 2))
    with deferred_init():
        outside = module.weight.norm()
    materialize(module)
    with pytest.raises(RuntimeError, match="compute it again"):
        outside.backward()


HOOKED = {
    "weight_norm": lambda: nn.utils.weight_norm(nn.Linear(4, 3)),
    "weight_norm, of a convolution": lambda: nn.utils.weight_norm(nn.Conv1d(4, 3, 2), dim=None),
    "spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
    "parametrized weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
    "l1": lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5),
    "random": lambda: prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5),
    "structured": lambda: prune.ln_structured(nn.Linear(4, 3), "weight", 0.4, n=2, dim=0),
    "twice": lambda: prune.l1_unstructured(prune.identity(nn.Linear(4, 3), "weight"), "weight", 0.5),
    "removed": lambda: prune.remove(prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5), "weight"),
    "custom": lambda: prune.custom_from_mask(nn.Linear(4, 3), "bias", torch.tensor([1.0, 0.0, 1.0])),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning", "ignore:the constructor looks at")
@pytest.mark.parametrize("kind", HOOKED)
def test_layers_whose_weights_are_computed_by_hooks_become_real(kind):
    """Before, weight_norm and prune raised, and the weight of spectral_norm stayed on the meta device."""
    module = materialize(deferred(HOOKED[kind]))
    assert module.weight.device.type == "cpu"
    before = module.weight.detach().clone()
    inputs = torch.ones(2, 4, 5) if "convolution" in kind else torch.ones(2, 4)
    module.eval()
    module(inputs).sum().backward()
    if kind != "spectral_norm":
        assert torch.equal(module.weight, before)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_weak_references_hold():
    """Before, torch's own swap refused them."""

    def build():
        module = nn.Linear(2, 2)
        module.names = weakref.WeakKeyDictionary({module.weight: "weight"})
        module.reference = weakref.ref(module.bias)
        return module

    module = materialize(deferred(build))
    assert module.reference() is module.bias
    assert next(iter(module.names.keys())) is module.weight
    assert not module.weight.is_meta


class Scriptable(nn.Module):
    """For TorchScript: a layer twice, a plain tensor, a list of tensors, a dict."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.again = self.layer
        self.scale = torch.full((3,), 2.0)
        self.shifts = [torch.ones(3)]
        self.by_name = {"m": torch.full((3,), 3.0)}
        self.register_buffer("b", torch.ones(3))

    def forward(self, x):
        return self.again(self.layer(x)) * self.scale + self.shifts[0] + self.by_name["m"] * self.b


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning", "ignore:the constructor looks at")
def test_torchscript_made_inside_the_block_works():
    """Before, what TorchScript holds could not be made real."""
    x = torch.arange(3.0)[None]
    scripted = materialize(deferred(lambda: torch.jit.script(Scriptable())))
    plain = Scriptable()
    plain.load_state_dict(scripted.state_dict())
    assert torch.equal(scripted(x), plain(x))
    scripted(x).sum().backward()
    assert scripted.layer.weight.grad is not None
    inner = materialize(deferred(lambda: nn.Sequential(torch.jit.script(Scriptable()), nn.Linear(3, 2))))
    assert inner(x).shape == (1, 2)
    traced = materialize(deferred(lambda: torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3))))
    assert torch.equal(traced(x), nn.functional.linear(x, traced.weight, traced.bias))


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_trace_with_a_deferred_constant_is_refused():
    """TorchScript keeps tensors that are no parameters or buffers in the graph, and in what it made of that before."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.scale = torch.full((3,), 2.0)

        def forward(self, x):
            return self.layer(x) * self.scale

    x = torch.zeros(1, 3)
    module = deferred(lambda: nn.Sequential(torch.jit.trace(Scaled(), x, check_trace=False)))
    with pytest.raises(RuntimeError, match=r"^0\..* its trace has a deferred tensor of shape \(3,\) as a constant"):
        materialize(module)
    assert all(each.is_meta for each in module.parameters())


class T(torch.Tensor):
    """A kind of tensor."""


def test_parameters_of_a_tensor_subclass_keep_what_they_are():
    """Before, requires_grad was lost."""

    def build():
        module = nn.Module()
        module.a = nn.Parameter(torch.randn(4).as_subclass(T))
        module.b = nn.Parameter(torch.randn(4).as_subclass(T), requires_grad=False)
        return module

    module = materialize(deferred(build))
    assert [(type(each), each.requires_grad, isinstance(each, nn.Parameter)) for each in module.parameters()] == [
        (T, True, True),
        (T, False, True),
    ]
    module.a.sum().backward()
    assert module.a.grad.tolist() == [1, 1, 1, 1]


def test_gradients_made_in_the_constructor_are_kept():
    """Before, they were lost."""

    def build():
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        module(torch.ones(1, 3)).sum().backward()
        return module

    module = deferred(build)
    gradient = module[0].weight.grad
    materialize(module)
    twin = real_twin(module, build)
    twin.zero_grad()
    twin(torch.ones(1, 3)).sum().backward()
    assert module[0].weight.grad is gradient
    for mine, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
    assert materialize(deferred(build), dtype=torch.float64)[0].weight.grad.dtype == torch.float64

    def named():
        module = nn.Linear(3, 2, dtype=torch.float32)
        module.weight.grad = torch.ones(2, 3, dtype=torch.float32)
        return module

    assert materialize(deferred(named), dtype=torch.float64).weight.grad.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_call_that_raises_changes_nothing_of_what_is_connected():
    """Views, computed tensors, gradients, TorchScript and graphs are as before, and the next call succeeds."""

    def build():
        module = nn.Module()
        module.kept = Kept(lambda m: [m.w.t(), m.w.norm()])
        module.script = torch.jit.script(nn.Linear(2, 2))
        module.last = nn.Linear(2, 2)
        module.kept.w.grad = torch.ones(4, 3)
        return module

    module = deferred(build)
    held, tensors = torch._C._WeakTensorRef(module.kept.kept[1]), [module.kept.kept[0], module.kept.w.grad]
    with pytest.raises(RuntimeError, match=r"kept\.kept\.1 cannot be made real in place"):
        materialize(module)
    assert all(each.is_meta for each in [*module.parameters(), *module.buffers(), *module.kept.kept])
    assert module.kept.w.grad is tensors[1]
    assert module.script.weight.is_meta
    with deferred_init():
        module.kept.kept[0].sum().backward()  # the graphs still lead to the parameters
    del held
    materialize(module)
    assert module.kept.kept[0] is tensors[0]
    assert module.kept.w.grad.tolist() == [[2.0] * 3] * 4
    assert module.script(torch.ones(1, 2)).shape == (1, 2)


def test_gradients_do_not_flow_through_what_was_loaded_since(tmp_path):
    """The tensor has the value that it had from the weights of before."""
    with deferred_init():
        module = nn.Linear(2, 2)
        nn.init.zeros_(module.weight)
        module.derived = module.weight.sum().exp()
        module.shown = module.weight[0]
    save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "saved")
    load(module, tmp_path / "saved")
    assert module.derived.item() == 1
    with pytest.raises(RuntimeError, match="gradients were asked for through derived"):
        module.derived.backward()
    module.shown.sum().backward()
    assert module.weight.grad.tolist() == [[1, 1], [0, 0]]


def test_hooks_of_a_tensor_that_gradients_flow_through_are_called():
    def build():
        module = nn.Module()
        module.w = nn.Parameter(torch.arange(2.0))
        module.derived = module.w * 3
        module.handle = module.derived.register_hook(lambda gradient: gradient * 10)
        return module

    with deferred_init():
        module = build()
    materialize(module)
    module.derived.sum().backward(retain_graph=True)
    assert module.w.grad.tolist() == [30, 30]
    module.handle.remove()
    module.derived.sum().backward()
    assert module.w.grad.tolist() == [33, 33]
