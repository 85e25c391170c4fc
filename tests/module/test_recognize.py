"""Recognition: what a constructor does to a tensor comes down to boxes with laws, which are those torch draws from."""

import copy
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from tritonparam import Constant, Normal, TruncatedNormal, Uniform, declarations, deferred_init, materialize
from tritonparam.cli.inspect.stats import TESTS, Group

# Of all statistical tests of this file together; the bounds behind them hold for every number of elements.
FALSE_ALARM = 1e-6
SHAPE = (64, 32)


def holder(make):
    """A module whose parameter or buffer `w` is what `make` returns, deferred."""
    module = nn.Module()
    with deferred_init(), torch.no_grad():
        tensor = make()
    if isinstance(tensor, nn.Parameter):
        module.w = tensor
    else:
        module.register_buffer("w", tensor)
    return module


def boxes(make):
    """The (offsets, sizes, law) of what `make` returns; None where it is replayed."""
    (declaration,) = declarations(holder(make))
    if declaration.laws is None:
        return None
    return [(each.offsets, each.sizes, each.law) for each in declaration.laws]


def law(make):
    """The one law of what `make` returns; None where it is replayed."""
    found = boxes(make)
    if found is None:
        return None
    ((_, _, only),) = found
    return only


def same_law(got, want):
    """Equal kinds, and parameters equal up to the rounding of float64 formulas."""
    if type(got) is not type(want):
        return False
    return astuple(got) == pytest.approx(astuple(want), rel=1e-7, abs=1e-9)


def initialized(function, *arguments, **keywords):
    def make():
        tensor = nn.Parameter(torch.empty(SHAPE))
        function(tensor, *arguments, **keywords)
        return tensor

    return make


def uniform(bound):
    return Uniform(low=-bound, high=bound)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (initialized(nn.init.normal_), Normal(mean=0, std=1)),
        (initialized(nn.init.normal_, 0.5, 2.0), Normal(mean=0.5, std=2)),
        (initialized(nn.init.normal_, std=0.0), Normal(mean=0, std=0)),
        (initialized(nn.init.uniform_), Uniform(low=0, high=1)),
        (initialized(nn.init.uniform_, -1.0, 3.0), Uniform(low=-1, high=3)),
        (initialized(nn.init.constant_, 0.3), Constant(0.3)),
        (initialized(nn.init.ones_), Constant(1)),
        (initialized(nn.init.zeros_), Constant(0)),
        (initialized(nn.init.xavier_uniform_), uniform(math.sqrt(6 / 96))),
        (initialized(nn.init.xavier_uniform_, gain=3.0), uniform(3 * math.sqrt(6 / 96))),
        (initialized(nn.init.xavier_normal_), Normal(mean=0, std=math.sqrt(2 / 96))),
        (initialized(nn.init.kaiming_uniform_), uniform(math.sqrt(6 / 32))),
        (initialized(nn.init.kaiming_uniform_, a=math.sqrt(5)), uniform(1 / math.sqrt(32))),
        (initialized(nn.init.kaiming_uniform_, mode="fan_out"), uniform(math.sqrt(6 / 64))),
        (initialized(nn.init.kaiming_normal_), Normal(mean=0, std=math.sqrt(2 / 32))),
        (initialized(nn.init.kaiming_normal_, nonlinearity="linear"), Normal(mean=0, std=math.sqrt(1 / 32))),
        (initialized(nn.init.trunc_normal_), TruncatedNormal(mean=0, std=1, low=-2, high=2)),
        (
            initialized(nn.init.trunc_normal_, 0.1, 0.02, -0.04, 0.2),
            TruncatedNormal(mean=0.1, std=0.02, low=-0.04, high=0.2),
        ),
    ],
)
def test_torch_initializers_have_the_laws_they_are_documented_to_have(make, want):
    assert same_law(law(make), want)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: torch.zeros(SHAPE), Constant(0)),
        (lambda: torch.ones(3, dtype=torch.int64), Constant(1)),
        (lambda: torch.ones(3, dtype=torch.bool), Constant(True)),
        (lambda: torch.full((3,), 2.5, dtype=torch.float16), Constant(2.5)),
        (lambda: torch.full((3,), -math.inf), Constant(-math.inf)),
        (lambda: torch.randn(SHAPE, dtype=torch.bfloat16), Normal()),
        (lambda: torch.rand(SHAPE, dtype=torch.float64), Uniform()),
        (lambda: torch.normal(2.0, 3.0, SHAPE), Normal(mean=2, std=3)),
        (lambda: torch.zeros_like(torch.empty(3)), Constant(0)),
        (lambda: torch.ones_like(torch.empty(3)), Constant(1)),
        (lambda: torch.full_like(torch.empty(3), 7), Constant(7)),
        (lambda: torch.randn_like(torch.empty(3)), Normal()),
        (lambda: torch.rand_like(torch.empty(3)), Uniform()),
        (lambda: torch.empty(3).new_zeros(2), Constant(0)),
        (lambda: torch.empty(3).new_ones(2), Constant(1)),
        (lambda: torch.empty(3).new_full((2,), 4), Constant(4)),
        (lambda: torch.tensor(3.0).expand(4).clone(), None),
        (lambda: torch.empty(3).copy_(torch.zeros(1)), Constant(0)),
        (lambda: torch.empty(3).fill_(torch.ones(())), Constant(1)),
        (lambda: torch.randn(SHAPE).clone(), Normal()),
        (lambda: torch.randn(SHAPE).to(torch.bfloat16), Normal()),
        (lambda: torch.empty(SHAPE).copy_(torch.randn(SHAPE)), Normal()),
        (lambda: torch.randn(SHAPE).t(), Normal()),
        (lambda: torch.randn(SHAPE).view(-1), Normal()),
        (lambda: torch.randn(SHAPE).t_().unsqueeze_(0), Normal()),
        (lambda: copy.deepcopy(nn.Parameter(torch.randn(SHAPE))), Normal()),
        (lambda: torch.randn(SHAPE).normal_(1, 2), Normal(mean=1, std=2)),
        (lambda: torch.empty(0, 3).normal_().view(3, 0), "empty"),
    ],
)
def test_factories_and_copies_are_recognized(make, want):
    if want == "empty":
        assert boxes(make) == []
    else:
        got = law(make)
        assert got is None if want is None else same_law(got, want)


def classic_trunc_normal_(tensor, mean, std, a, b):
    """How torch < 2.13, timm and others draw a truncated normal; after torch/nn/init.py of torch 2.12."""

    def cdf(x):
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    with torch.no_grad():
        low, high = cdf((a - mean) / std), cdf((b - mean) / std)
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        tensor.erfinv_()
        tensor.mul_(std * math.sqrt(2.0))
        tensor.add_(mean)
        tensor.clamp_(min=a, max=b)
    return tensor


def scaled_trunc_normal_(tensor, mean, std, a, b):
    """As timm's trunc_normal_tf_: the bounds are before the scaling."""
    with torch.no_grad():
        classic_trunc_normal_(tensor, 0, 1.0, a, b)
        tensor.mul_(std).add_(mean)
    return tensor


@pytest.mark.parametrize("init", [nn.init.trunc_normal_, classic_trunc_normal_])
@pytest.mark.parametrize(
    "parameters",
    [(0.0, 1.0, -2.0, 2.0), (0.0, 0.02, -0.04, 0.04), (0.5, 0.1, 0.4, 1.0), (0.0, 0.02, -2.0, 2.0), (0, 1.0, 1.0, 3.0)],
)
def test_truncated_normals_are_recognized_whichever_way_they_are_drawn(init, parameters):
    mean, std, low, high = parameters
    assert same_law(law(initialized(init, *parameters)), TruncatedNormal(mean=mean, std=std, low=low, high=high))


def test_a_truncated_normal_that_is_scaled_afterwards_is_one_with_other_bounds():
    got = law(initialized(scaled_trunc_normal_, 0.5, 0.1, -2.0, 1.0))
    # The bounds come from a probability, so they are known to its rounding: 2e-8 standard deviations are harmless.
    assert same_law(got, TruncatedNormal(mean=0.5, std=0.1, low=0.3, high=0.6))


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.clamp_(-1, 1),
        lambda w: w.mul_(-1),
        lambda w: w.mul_(0),
        lambda w: w.neg_(),
        lambda w: w.exp_(),
        lambda w: w.mul_(w),
        lambda w: w.add_(torch.randn(SHAPE)),
        lambda w: w.div_(0.3, rounding_mode="floor"),
        lambda w: w.bernoulli_(0.5),
        lambda w: w.masked_fill_(w > 1, 0),
        lambda w: 1 - w,
        lambda w: 1 / w,
        lambda w: w.cumsum(0),
        lambda w: w.int(),
        lambda w: torch.cat([w, w]),
    ],
)
def test_what_has_no_law_is_not_given_one(change):
    """Clamping cuts tails off, a negative factor reverses the order of the values, the others leave the four laws."""
    assert law(lambda: change(torch.randn(SHAPE))) is None


def test_clamping_a_truncated_normal_further_gives_it_no_law():
    """It piles values up on the new bounds."""
    assert law(lambda: nn.init.trunc_normal_(torch.empty(SHAPE)).clamp_(-1, 1)) is None
    assert law(lambda: nn.init.trunc_normal_(torch.empty(SHAPE)).clamp_(min=-1.9)) is None
    assert law(lambda: nn.init.trunc_normal_(torch.empty(SHAPE)).clamp_(min=-2)) is not None


@pytest.mark.parametrize("init", [nn.init.eye_, nn.init.orthogonal_])
def test_matrices_without_laws_are_replayed(init):
    assert law(initialized(init)) is None


STEPS = st.tuples(
    st.sampled_from(["mul", "div", "add", "sub", "radd", "alpha"]), st.floats(0.125, 8, width=32), st.booleans()
)


def apply(steps, tensor):
    for op, number, in_place in steps:
        if op == "radd":
            tensor = number + tensor
        elif op == "alpha":
            tensor = torch.add(tensor, torch.full((), number), alpha=2)
        else:
            tensor = getattr(tensor, op + "_" * in_place)(number)
    return tensor


@settings(max_examples=60, deadline=None)
@given(start=st.sampled_from([torch.randn, torch.rand]), steps=st.lists(STEPS, max_size=5))
@example(start=torch.randn, steps=[("div", 3.0, True), ("alpha", 0.5, False), ("sub", 8.0, True)])
def test_arithmetic_moves_a_law_as_it_would_have_moved_the_values(start, steps):
    """The values of the law found are those of the draw itself after the same operations, up to their rounding."""
    (declaration,) = declarations(module := holder(lambda: apply(steps, start(500))))
    assert declaration.laws is not None
    got = materialize(module).w.double()
    want = apply(steps, materialize(holder(lambda: start(500, dtype=torch.float64))).w)
    scale = 1 + sum(abs(number) for _, number, _ in steps)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * scale)


@st.composite
def paintings(draw):
    """A shape and boxes of it, each with the constant that is written there, or None for a normal of that deviation."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    strokes = []
    for number in range(draw(st.integers(0, 5))):
        box = []
        for size in shape:
            low = draw(st.integers(0, size - 1))
            box.append(slice(low, draw(st.integers(low + 1, size))))
        strokes.append((tuple(box), float(number + 2), draw(st.booleans())))
    return shape, strokes


@settings(max_examples=80, deadline=None)
@given(paintings())
def test_boxes_are_what_was_written_last(painting):
    """Whatever boxes are written over one another, every element lies in one box, with the law it was given last."""
    shape, strokes = painting

    def paint(tensor, constant, random):
        for box, number, is_random in strokes:
            part = tensor[box]
            random(part, number) if is_random else constant(part, number)
        return tensor

    def build():
        return paint(torch.zeros(shape), lambda part, c: part.fill_(c), lambda part, c: part.normal_(0, c))

    want = paint(np.zeros(shape), lambda part, c: part.fill(c), lambda part, c: part.fill(-c))
    got, times = np.full(shape, np.nan), np.zeros(shape)
    for offsets, sizes, found in boxes(build):
        where = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
        got[where] = -found.std if isinstance(found, Normal) else found.value
        times[where] += 1
    assert (times == 1).all()
    np.testing.assert_array_equal(got, want)
    values = materialize(holder(build)).w.numpy()
    np.testing.assert_array_equal(values[want >= 0], want[want >= 0])


def test_the_padding_row_of_an_embedding_is_its_own_box():
    with deferred_init():
        model = nn.Embedding(10, 4, padding_idx=3)
    (declaration,) = declarations(model)
    want = [((0, 0), (3, 4), Normal()), ((3, 0), (1, 4), Constant(0)), ((4, 0), (6, 4), Normal())]
    assert [(each.offsets, each.sizes, each.law) for each in declaration.laws] == want


MODULES = {
    "linear": lambda: nn.Linear(64, 48),
    "linear without bias": lambda: nn.Linear(1, 500, bias=False),
    "bilinear": lambda: nn.Bilinear(8, 9, 10),
    "embedding": lambda: nn.Embedding(100, 16, padding_idx=0),
    "embedding bag": lambda: nn.EmbeddingBag(100, 16),
    "batch norm": lambda: nn.BatchNorm2d(8),
    "layer norm": lambda: nn.LayerNorm((4, 8)),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "rms norm": lambda: nn.RMSNorm(8),
    "prelu": lambda: nn.PReLU(3),
    "conv1d": lambda: nn.Conv1d(8, 12, 3),
    "conv2d": lambda: nn.Conv2d(8, 12, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(4, 6, 3),
    "transposed conv": lambda: nn.ConvTranspose2d(8, 12, 3),
    "attention": lambda: nn.MultiheadAttention(32, 4),
    "attention of other sizes": lambda: nn.MultiheadAttention(32, 4, kdim=16, vdim=24, add_bias_kv=True),
    "transformer": lambda: nn.Transformer(32, 4, 2, 1, 64, batch_first=True),
    "lstm": lambda: nn.LSTM(16, 24, num_layers=2, bidirectional=True),
    "gru": lambda: nn.GRU(16, 24),
}


def check_laws_against(module, real, tests):
    """Every tensor of the deferred `module` is in `real` too, and follows there the laws it has here."""
    values = dict(real.named_parameters()) | dict(real.named_buffers())
    found = declarations(module)
    assert {name for each in found for name in (each.name, *each.aliases)} >= set(values)
    for each in found:
        if each.laws is None:
            continue
        value = values[each.name].detach()
        assert (each.shape, each.dtype) == (tuple(value.shape), value.dtype)
        for box in each.laws:
            part = value
            for d, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
                part = part.narrow(d, offset, size)
            group = Group(box.law, value.dtype)
            group.add(part.flatten())
            assert group.problems(FALSE_ALARM / tests / TESTS) == [], (each.name, box)


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_torch_have_the_laws_that_torch_draws_from(name):
    """Constants to the bit; mean, deviation, range and shape by the tests of `tritonparam inspect`, at FALSE_ALARM."""
    torch.manual_seed(0)
    with deferred_init():
        module = MODULES[name]()
    assert all(each.laws is not None for each in declarations(module))
    check_laws_against(module, MODULES[name](), tests=1000)


@pytest.mark.parametrize(
    "wrong", [Normal(mean=0.02, std=1), Normal(mean=0, std=1.01), Uniform(low=-2, high=2), TruncatedNormal()]
)
def test_a_wrong_law_would_be_noticed(wrong):
    torch.manual_seed(0)
    group = Group(wrong, torch.float32)
    group.add(torch.randn(300_000))
    assert group.problems(FALSE_ALARM / 1000 / TESTS)


def tiny(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 600, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_head=4, n_layer=2, n_positions=128, **sizes)
        return lambda: transformers.GPT2LMHeadModel(config)
    sizes |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "pad_token_id": 0}
    config = transformers.LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)
    return lambda: transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_models_of_transformers_have_the_laws_that_transformers_draws_from(kind):
    """Zeros and ones to the bit; mean, deviation, range and shape by the same tests; computed buffers to the bit."""
    build = tiny(kind)
    torch.manual_seed(0)
    with deferred_init():
        model = build()
    real = build()
    check_laws_against(model, real, tests=1000)
    replayed = [each.name for each in declarations(model) if each.laws is None]
    assert all("inv_freq" in name for name in replayed)
    got, want = dict(materialize(model).named_buffers()), dict(real.named_buffers())
    for name in replayed:
        assert torch.equal(got[name], want[name])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_models_of_transformers_draw_from_the_laws_found(kind):
    """The other way round: what `materialize` writes follows the laws too, and the model computes what it should."""
    build = tiny(kind)
    with deferred_init():
        model, again = build(), build()
    materialize(model, seed=3)
    check_laws_against(again, model, tests=1000)
    ids = torch.arange(96).view(2, 48)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    # Logits of an untrained model spread little: the loss is that of guessing, up to half their variance.
    assert loss.item() == pytest.approx(math.log(600), abs=0.5)
    assert all(parameter.grad is not None for parameter in model.parameters())
