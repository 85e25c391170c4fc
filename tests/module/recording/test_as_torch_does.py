"""What a constructor may count on of torch's functions: errors, shared memory, generators, operators without a fake."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tritonparam import declarations, deferred_init, materialize


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


@pytest.mark.filterwarnings("error")
def test_a_check_of_random_values_is_made_when_they_are_there():
    """LAPACK leaves what it has where a factorization fails."""

    def build():
        return torch.linalg.cholesky(torch.randn(3, 3) - 5 * torch.eye(3))

    with pytest.raises(
        RuntimeError, match=r"^x cannot be computed: aten::_linalg_check_errors: .*not positive-definite"
    ):
        made(build)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.arange(3)[torch.randint(5, 9, (3,))],
        lambda: torch.arange(3).index_select(0, torch.randint(5, 9, (3,))),
        lambda: torch.zeros(3, dtype=torch.long).index_fill_(0, torch.randint(5, 9, (3,)), 1),
    ],
)
def test_an_operation_that_fails_on_random_values_is_an_error_that_names_the_tensor(build):
    with pytest.raises(RuntimeError, match=r"^x cannot be computed: aten::index.* out of"):
        made(build)
    with deferred_init():
        module = nn.Module()
        module.register_buffer("x", build())
    with pytest.raises(RuntimeError, match=r"^x cannot be computed"):
        declarations(module)[0].replay(3)


CHOSEN = {
    "numbers": lambda w: w[[2, 0]],
    "a tensor": lambda w: w[torch.tensor([-1, 1])],
    "none": lambda w: w[[]],
    "a mask": lambda w: w[torch.tensor([True, False, True])],
    "a mask of all dimensions": lambda w: w[torch.eye(3, 4) > 0],
    "a mask of the second": lambda w: w[:, torch.tensor([True, False, True, True])],
    "a mask and numbers": lambda w: w[[0, 1], torch.tensor([True, False, False, True])],
    "a mask of nothing": lambda w: w[torch.tensor(True)],
    "masked_select": lambda w: w.masked_select(torch.tensor([True, False, True, True])),
    "take_along_dim": lambda w: torch.take_along_dim(w, torch.tensor([[1], [0], [1]]), 1),
    "repeated": lambda w: w.repeat_interleave(torch.tensor([1, 0, 2]), 0),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("choose", CHOSEN.values(), ids=CHOSEN)
def test_random_values_that_are_chosen_from_still_depend_on_the_seed(choose):
    """Only the index was asked for its values."""

    def both(seed):
        with deferred_init():
            module = nn.Module()
            module.register_buffer("w", torch.randn(3, 4))
            module.register_buffer("x", choose(module.w).clone())
        return materialize(module, seed=seed)

    one, other = both(1), both(2)
    assert torch.equal(choose(one.w), one.x)
    assert torch.equal(choose(other.w), other.x)
    assert not one.x.numel() or not torch.equal(one.x, other.x)


@pytest.mark.parametrize(
    "index", [[5], torch.tensor([True, False]), ([0, 1], [0, 1, 2])], ids=["far", "mask", "uneven"]
)
def test_an_index_that_does_not_fit_fails_in_the_constructor_as_in_torch(index):
    with pytest.raises(IndexError) as want:
        torch.randn(3, 4)[index]
    with deferred_init(), pytest.raises(IndexError) as got:
        torch.randn(3, 4)[index]
    assert str(got.value) == str(want.value)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")  # which torch's does not
@pytest.mark.parametrize(
    "ask", [lambda x: x.tolist(), lambda x: [float(each) for each in x], lambda x: x.numpy().tolist()]
)
def test_arrays_may_be_asked_for_their_values_as_tensors(ask):
    with deferred_init():
        assert ask(torch.from_numpy(np.sqrt(np.arange(3.0)))) == np.sqrt(np.arange(3.0)).tolist()
        assert ask(np.sqrt(torch.arange(3.0))) == np.sqrt(np.arange(3, dtype=np.float32)).tolist()


REFUSED = {
    "uniform": lambda: torch.empty(3).uniform_(2, 1),
    "bernoulli": lambda: torch.empty(3).bernoulli_(2.0),
    "random": lambda: torch.empty(3).random_(5, 5),
    "normal": lambda: torch.empty(3).normal_(0, -1),
    "rand": lambda: torch.rand(3, dtype=torch.long),
    "randint": lambda: torch.randint(5, 5, (2,)),
    "half": lambda: torch.full((2, 2), -1e9, dtype=torch.half),
    "half, filled": lambda: torch.empty(2, dtype=torch.half).fill_(1e6),
    "half, by init": lambda: nn.init.constant_(torch.empty(2, dtype=torch.half), 1e6),
    "bfloat16": lambda: torch.full((2,), 1e39, dtype=torch.bfloat16),
    "float8": lambda: torch.full((2,), 1e6, dtype=torch.float8_e4m3fn),
    "float": lambda: torch.full((2,), 1e40),
    "complex": lambda: torch.zeros(2).fill_(1 + 2j),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_arguments_that_torch_refuses_are_refused_in_the_constructor(refused):
    with pytest.raises(RuntimeError) as want:
        refused()
    with deferred_init(), pytest.raises(type(want.value)):
        refused()


FILLED = {
    "infinite": lambda: torch.full((3,), float("-inf"), dtype=torch.half),
    "the largest": lambda: torch.full((3,), 65504.0, dtype=torch.half),
    "one element": lambda: torch.full((1,), 1e9, dtype=torch.half),
    "minus zero": lambda: torch.cat([torch.full((2,), 0.0), torch.full((2,), -0.0)]).signbit(),
    "an expanded view": lambda: torch.empty(1, 3).expand(2, 3).zero_(),
    "an unfolded view": lambda: torch.empty(5).unfold(0, 3, 1).fill_(2.0),
    "a type by name": lambda: torch.arange(2).type("torch.HalfTensor"),
    "a type": lambda: torch.arange(2).type(torch.DoubleTensor),
    "a type of another": lambda: torch.arange(2).type(torch.ones(1).type()),
    "a branch": lambda: torch.ones(2) if torch.ones(2).type() == "torch.FloatTensor" else torch.zeros(2),
}


@pytest.mark.parametrize("build", FILLED.values(), ids=FILLED)
def test_constants_and_types_are_those_of_torch(build):
    assert same(build)
    assert made(build).dtype == build().dtype


def test_fake_tensors_inside_stay_fake():
    with deferred_init():
        with FakeTensorMode():
            shape = nn.Linear(3, 4)(torch.ones(2, 3)).shape
        module = nn.LayerNorm(3)
    assert shape == (2, 4)
    assert materialize(module).weight.tolist() == [1, 1, 1]


def test_bits_have_zeros():
    assert made(lambda: torch.zeros(4, dtype=torch.bits8)).dtype == torch.bits8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.randn(5, generator=torch.default_generator),
        lambda: nn.functional.one_hot(torch.randint(0, 5, (20,)), 5),
        lambda: nn.functional.one_hot(torch.randint(0, 5, (20,)), num_classes=5),
    ],
)
def test_the_seed_decides_where_nothing_is_asked(build):
    assert made(build, seed=1).tolist() == made(build, seed=1).tolist() != made(build, seed=2).tolist()


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


def a_part_through_numpy():
    x = torch.zeros(3)
    x[1:].numpy()[0] = 9
    return x


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
        a_part_through_numpy,
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
