"""Replay: what no law covers is done again on the host, from generators of its own, with torch's own intervals."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.module.eager import buffers
from tritonparam import deferred_init, materialize

RANDOM = {
    "randperm": lambda: torch.randperm(1000),
    "exponential_": lambda: torch.empty(1000).exponential_(),
    "randint": lambda: torch.randint(0, 9, (1000,)),
    "bernoulli": lambda: torch.bernoulli(torch.full((1000,), 0.3)),
    "multinomial": lambda: torch.multinomial(torch.ones(50), 10),
    "normal of tensors": lambda: torch.normal(torch.zeros(100), torch.ones(100)),
    "poisson": lambda: torch.poisson(torch.ones(1000)),
    "dropout": lambda: F.dropout(torch.ones(1000)),
    "randint_like": lambda: torch.randint_like(torch.ones(1000), 0, 9),
    "cauchy_": lambda: torch.empty(1000).cauchy_(),
    "Beta": lambda: torch.distributions.Beta(2.0, 2.0).sample((100,)),
    "Dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample((30,)),
    "Gamma": lambda: torch.distributions.Gamma(2.0, 2.0).sample((100,)),
    "Binomial": lambda: torch.distributions.Binomial(10, torch.full((100,), 0.5)).sample(),
}


def made(name, seed=1):
    with deferred_init():
        module = buffers(RANDOM[name]())
    return materialize(module, seed=seed).b0


@pytest.mark.parametrize("name", RANDOM)
def test_seed_and_name_decide_and_no_state_of_the_process(name):
    """Drawn at once from torch's generator before, where there is no meta kernel."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = made(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(made(name), one)
    assert not torch.equal(made(name, seed=2), one)


def test_threads_that_draw_meanwhile_change_no_value():
    """Replay seeded the process's generator: 29 of 40 materializations had other values."""
    want = {name: made(name) for name in RANDOM}
    stop = threading.Event()

    def noise():
        while not stop.is_set():
            torch.rand(10)

    thread = threading.Thread(target=noise)
    thread.start()
    try:
        for _ in range(5):
            for name, value in want.items():
                assert torch.equal(made(name), value), name
    finally:
        stop.set()
        thread.join()


def test_what_draws_without_a_generator_is_refused_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
            self.register_buffer("out", lstm(torch.ones(2, 1, 3))[0].detach())

    with deferred_init():
        module = Net()
    materialize(module)  # torch's LSTM draws its dropout by an operator that takes one

    with deferred_init():
        q = torch.ones(1, 1, 4, 8)
        module = buffers(F.scaled_dot_product_attention(q, q, q, dropout_p=0.0))
    assert torch.equal(materialize(module).b0, torch.ones(1, 1, 4, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_place", [False, True])
def test_draws_that_a_constructor_computes_with_stay_below_their_bound(dtype, in_place):
    """In 16 bits one of 400 is rounded up to 1.0, so -log(1 - u) was infinite."""

    def build():
        u = torch.rand(10**5, dtype=dtype)
        return buffers(u, u.clone().neg_().add_(1).log_().neg_() if in_place else -torch.log(1 - u))

    with deferred_init():
        module = build()
    got = materialize(module, seed=2)
    assert got.b0.max() == 1  # a tensor of its own is what the stream says
    assert torch.isfinite(got.b1).all()
    top = torch.tensor(1 - torch.finfo(dtype).eps / 2, dtype=dtype)
    assert got.b1.max() == -torch.log(1 - top)


def test_what_was_rounded_stays_rounded_in_more_bits():
    with deferred_init():
        module = buffers(torch.randn(100).half().float(), torch.randn(50, dtype=torch.bfloat16).double())
    got = materialize(module)
    assert torch.equal(got.b0, got.b0.half().float())
    assert torch.equal(got.b1, got.b1.bfloat16().double())


POINTWISE = [
    *(torch.sigmoid, F.silu, F.gelu, F.softplus, torch.exp, torch.log, torch.tanh, torch.erf, torch.sin, torch.rsqrt),
    *(lambda x: x.pow(1.7), lambda x: x.pow(-0.3), torch.expm1, torch.atan, F.mish, F.selu),
]


@pytest.mark.parametrize("number", range(len(POINTWISE)))
@pytest.mark.parametrize("length", [1, 5, 33, 70])
def test_functions_of_constants_are_torchs_to_the_bit(number, length):
    """One element was computed for all; kernels compute many at a time by other code, one ulp off."""
    for value in (0.137, 0.7, 0.951, 2.34):
        with deferred_init():
            module = buffers(POINTWISE[number](torch.full((length,), value)))
        assert torch.equal(materialize(module).b0, POINTWISE[number](torch.full((length,), value)))
