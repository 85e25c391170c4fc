"""What a constructor may count on of torch's functions: errors, shared memory, generators, operators without a fake."""

import numpy as np
import pytest
import torch
from torch import nn

from tritonparam import deferred_init, materialize


def made(build, seed=1):
    with deferred_init():
        module = nn.Module()
        module.register_buffer("x", build())
    return materialize(module, seed=seed).x


def same(build):
    return made(build).tolist() == build().tolist()


@pytest.mark.parametrize("std", [0.02, 1.0, 3.0])
def test_a_truncated_normal_draws_from_the_generator_that_it_is_given(std):
    def build():
        generator = torch.Generator().manual_seed(3)
        x = nn.init.trunc_normal_(torch.empty(50), std=std, generator=generator)
        return torch.cat([x, torch.rand(2, generator=generator)])

    assert same(build)
    assert made(build, seed=2).tolist() == build().tolist()


def multinomial(weights):
    def build():
        generator = torch.Generator().manual_seed(3)
        return torch.cat([torch.multinomial(weights(), 2, generator=generator), torch.randperm(9, generator=generator)])

    return build


def poisson():
    generator = torch.Generator().manual_seed(3)
    return torch.cat([torch.poisson(torch.full((5,), 40.0), generator=generator), torch.rand(2, generator=generator)])


@pytest.mark.parametrize("build", [multinomial(lambda: torch.ones(4)), multinomial(lambda: torch.arange(4.0)), poisson])
def test_a_generator_goes_on_by_what_it_draws(build):
    assert same(build)


FAILS = {
    "cholesky": lambda: torch.linalg.cholesky(-torch.eye(2)),
    "inv": lambda: torch.linalg.inv(torch.zeros(2, 2)),
    "solve": lambda: torch.linalg.solve(torch.zeros(2, 2), torch.ones(2)),
    "one_hot": lambda: nn.functional.one_hot(torch.tensor([5, 0]), 3),
    "negative": lambda: nn.functional.one_hot(torch.tensor([-1, 0]), 3),
    "assert": lambda: torch._assert_async(torch.tensor(False)),
}


@pytest.mark.parametrize("fail", FAILS.values(), ids=FAILS)
def test_errors_that_depend_on_values_are_raised_at_once(fail):
    with pytest.raises(RuntimeError):
        fail()
    with deferred_init(), pytest.raises(RuntimeError):
        fail()


@pytest.mark.filterwarnings("error")
def test_a_check_looks_at_no_random_value():
    def build():
        root = torch.randn(3, 3)
        return torch.linalg.cholesky(root @ root.T + torch.eye(3))

    assert not torch.equal(made(build, seed=1), made(build, seed=2))


def split(*indices):
    def build():
        x = torch.ones(6)
        x.tensor_split(torch.tensor(*indices))[1].fill_(9)
        return x

    return build


def through_an_array(make, dtype=np.float32):
    def build():
        array = np.zeros(3, dtype=dtype)
        x = make(array)
        array[0] = 3
        x[1] = 4
        return torch.cat([x, torch.tensor(array)])

    return build


def through_dlpack():
    x = torch.ones(3)
    torch.from_dlpack(x)[0] = 9
    return x


@pytest.mark.parametrize(
    "build",
    [
        split(2),
        split([2, 3]),
        through_an_array(torch.as_tensor),
        through_an_array(torch.asarray),
        through_an_array(lambda array: torch.as_tensor(array, dtype=torch.float32), np.float64),
        through_dlpack,
    ],
)
def test_memory_is_shared_where_torch_shares_it(build):
    assert same(build)


@torch.library.custom_op("tritonparam_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_an_operator_without_a_fake_is_done_at_once():
    assert made(lambda: doubled(torch.arange(3.0))).tolist() == [0, 2, 4]


GROWN = {
    "after all": lambda: torch.ones(2).resize_(4),
    "and read": lambda: torch.ones(2).resize_(4) + 1,
    "and written to": lambda: torch.ones(2).resize_(4).add_(1),
    "of a draw": lambda: torch.randn(2).mul_(0).add_(1).resize_(4),
}


@pytest.mark.parametrize("dtype", [None, torch.float64])
@pytest.mark.parametrize("build", GROWN.values(), ids=GROWN)
def test_memory_that_a_tensor_grows_by_was_never_written(build, dtype):
    def module():
        module = nn.Module()
        module.register_buffer("x", build())
        return module

    dirty = [torch.full((count,), 7.0) for count in range(1, 99)]
    del dirty
    with deferred_init():
        strict, lenient = module(), module()
    with pytest.raises(ValueError, match="never written: x"):
        materialize(strict)
    with pytest.warns(UserWarning, match="never written are 0: x"):
        materialize(lenient, strict=False, dtype=dtype)
    assert lenient.x[:2].tolist() == build()[:2].tolist()
    assert lenient.x[2:].tolist() in ([0, 0], [1, 1])
    assert lenient.x.dtype == (dtype or torch.float32)
