"""The short way of an operator leaves on the tape what the general way does, and constructors go the short way."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.module.eager import buffers
from tests.module.recording.programs import Program
from tritonparam import Normal, Uniform, deferred_init, materialize
from tritonparam.module.recording import dispatched, surface
from tritonparam.module.recording.recorder import Recorder
from tritonparam.module.recording.shortcuts import SHORTCUTS
from tritonparam.module.tape import History

ROTARY = {"arange", "div", "pow", "reciprocal", "mul", "copy_", "clone", "lift_fresh", "_to_copy"}


@pytest.fixture
def general(monkeypatch):
    """How often each operator went the general way."""
    counts = Counter()
    dispatch = Recorder.dispatch

    def counted(self, func, args, kwargs):
        counts[func._schema.name.removeprefix("aten::")] += 1
        return dispatch(self, func, args, kwargs)

    monkeypatch.setattr(Recorder, "dispatch", counted)
    return counts


def told(number, monkeypatch, shortcuts):
    with monkeypatch.context() as patch:
        patch.setattr(dispatched, "SHORTCUTS", shortcuts)
        return Program(number).run().said()


@pytest.mark.parametrize("part", range(4))
def test_random_programs_leave_the_same_tape_both_ways(monkeypatch, general, part):
    """Tensors with their versions, devices and views, laws, draws, nodes, their order, unseen writes, errors."""
    for number in range(100 * part, 100 * part + 100):
        general.clear()
        short = told(number, monkeypatch, SHORTCUTS)
        few = general.total()
        general.clear()
        assert short == told(number, monkeypatch, {}), number
        assert few <= general.total()


def test_every_shortcut_is_taken_and_left_by_random_programs(monkeypatch):
    """A comparison of the general way with itself would hold."""
    taken, left = Counter(), Counter()

    def counting(func, shortcut):
        def counted(block, called, args, kwargs):
            out = shortcut(block, called, args, kwargs)
            (left if out is NotImplemented else taken)[func] += 1
            return out

        return counted

    shortcuts = {func: counting(func, shortcut) for func, shortcut in SHORTCUTS.items()}
    for number in range(200):
        told(number, monkeypatch, shortcuts)
    assert set(taken) == set(SHORTCUTS)
    assert len(left) > len(SHORTCUTS) // 2


class Seen(TorchDispatchMode):
    """Notes the operators that come to it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def test_a_mode_around_the_block_sees_every_operator():
    """A counter of operators, say, which must not depend on what a shortcut leaves out."""
    with Seen() as seen, deferred_init():
        nn.Bilinear(3, 3, 3)
        nn.Bilinear(3, 3, 3)
    assert seen.names.count("uniform_") == 4


class Dispatching(torch.Tensor):
    """A tensor with a dispatcher of its own."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        DISPATCHED.append(func._schema.name)
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


DISPATCHED = []


def test_a_type_with_a_dispatcher_of_its_own_is_asked():
    """What it does to its memory is its own affair."""
    DISPATCHED.clear()
    with deferred_init():
        torch.Tensor._make_subclass(Dispatching, torch.empty(3)).fill_(2.0)
    assert DISPATCHED.count("aten::fill_") == 1


def test_a_view_of_negatives_is_written_as_torch_writes_it():
    """The imaginary part of a conjugate: a plain float32 tensor but for a bit."""

    def make():
        numbers = torch.zeros(3, dtype=torch.complex64)
        numbers.conj().imag.fill_(2.0)
        return buffers(numbers, numbers.conj().imag.clone())

    with deferred_init():
        module = make()
    materialize(module, seed=0)
    for got, want in zip(module.buffers(), make().buffers(), strict=True):
        assert torch.equal(got, want)


def test_a_tensor_drawn_twice_has_two_notes_and_keeps_the_second(general):
    """kaiming_uniform_ in Linear, and then the initialization of a whole model."""
    with deferred_init():
        layer = nn.Linear(3, 4, bias=False)
        with torch._C.DisableTorchFunction():
            history = History.of(layer.weight)
        first = history.head
        nn.init.normal_(layer.weight, std=0.02)
    bound = 3**-0.5
    assert first.content.law == Uniform(low=-bound, high=bound)
    assert history.head.content.law == Normal(mean=0.0, std=0.02)
    assert first.previous is history.head.previous is None
    assert history.head.index - first.index == 1
    assert not general


def transformer():
    return nn.Transformer(8, 2, 2, 2, 8, batch_first=True)


def convolutions():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose1d(4, 2, 3), nn.GroupNorm(2, 4))
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")
    nn.init.constant_(layers[1].weight, 0.5)
    return layers


CONSTRUCTORS = {
    "linear": (lambda: nn.Linear(3, 4), set()),
    "norms": (lambda: nn.ModuleList([nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(2, 4)]), set()),
    "embedding": (lambda: nn.ModuleList([nn.Embedding(5, 3, padding_idx=1), nn.EmbeddingBag(4, 2)]), set()),
    "recurrent": (lambda: nn.ModuleList([nn.LSTM(3, 4, 2, bidirectional=True), nn.GRU(2, 3), nn.RNNCell(2, 2)]), set()),
    "transformer": (transformer, set()),
    "attention": (lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=3, add_bias_kv=True), set()),
    "convolutions": (convolutions, {"lift_fresh"}),  # the count of batches, a tensor of a number
    "parameters": (lambda: buffers(torch.randn(2, 3), torch.full((2,), 0.1), torch.zeros(3).new_ones(2)), set()),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_layers_of_torch_are_made_by_shortcuts(general, name):
    """Without timing: what goes the general way costs ten times as much."""
    make, want = CONSTRUCTORS[name]
    with deferred_init():
        make()
    assert set(general) == want


@pytest.mark.parametrize(("model", "want"), [("GPT2", {"lift_fresh"}), ("Llama", ROTARY)])
def test_models_of_transformers_are_made_by_shortcuts(general, model, want):
    """What is left does not grow with the number of layers: the frequencies of rotary embeddings, made once."""
    transformers = pytest.importorskip("transformers")
    config, head = getattr(transformers, f"{model}Config"), getattr(transformers, f"{model}LMHeadModel", None)
    build = head or transformers.LlamaForCausalLM
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 20, "intermediate_size": 8}
    totals = []
    for layers in (1, 3):
        general.clear()
        with deferred_init():
            build._from_config(config(num_hidden_layers=layers, **sizes))
        assert set(general) <= want
        totals.append(general.total())
    assert totals[0] == totals[1] <= 20


def test_functions_that_show_nothing_go_straight_to_torch(monkeypatch):
    """The recorder is asked for none of them; those that show a device, or values, are answered."""
    asked = Counter()
    made = surface.Call.made

    def counted(self, func, args, kwargs):
        asked[getattr(func, "__name__", str(func))] += 1
        return made(self, func, args, kwargs)

    monkeypatch.setattr(surface.Call, "made", counted)
    with deferred_init():
        layer = nn.Linear(3, 4)
        assert not asked
        assert layer.weight.device.type == "cpu"
    assert asked.total() == 1
