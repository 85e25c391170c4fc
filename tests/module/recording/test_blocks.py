"""A block of deferred_init leaves torch as it was, records its threads and tasks, and tells what it cannot follow."""

import asyncio
import concurrent.futures
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
import torch
from torch import nn

from tests.module.deferred_models import drawn
from tests.module.eager import buffers
from tritonparam import Uniform, deferred_init, materialize


def value(make, seed=0):
    """What the tensor that `make` returns becomes."""
    with deferred_init():
        module = buffers(make())
    return materialize(module, seed=seed).b0


def torch_states():
    return torch.get_rng_state().tolist()


def seed_and_fail():
    with deferred_init():
        torch.manual_seed(4)
        raise ZeroDivisionError


LOOKS = pytest.mark.filterwarnings("ignore:the constructor looks at random values")


@deferred_init()
def look_and_seed():
    assert torch.rand(3).sum() > 0
    torch.manual_seed(3)


@LOOKS
def test_the_random_state_of_torch_is_as_before_whatever_happens_inside():
    """Drawing, seeding, asking for random values, and an exception."""
    before = torch_states()
    with pytest.warns(UserWarning, match="torch.manual_seed in the constructor changes no value"):
        look_and_seed()
    assert torch_states() == before
    with pytest.raises(ZeroDivisionError):
        seed_and_fail()
    assert torch_states() == before
    assert not torch.ones(1).is_meta


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda: random.gauss(0, 1), "Python's random"),
        (np.random.randn, "NumPy's random"),
        (lambda: random.random() + np.random.rand(), "Python's random and NumPy's random"),  # noqa: NPY002
    ],
)
def test_generators_of_numpy_and_python_go_on_and_are_told_of(draw, named):
    """They cannot wait for the seed: every model that is built had the same numbers before."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([float(draw()) for _ in range(3)]))

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    want = [Net().w.tolist() for _ in range(2)]
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    got = []
    for seed in (0, 1):
        with (
            pytest.warns(UserWarning, match=f"constructor of Net draws from {named}: .* not the seed"),
            deferred_init(),
        ):
            module = Net()
        got.append(materialize(module, seed=seed).w.tolist())
    assert got == want
    assert want[0] != want[1]


def test_threads_that_ran_before_go_on_as_usual():
    made = {}
    inside, done = threading.Event(), threading.Event()

    def work():
        inside.wait(10)
        made["ones"] = torch.ones(2)
        made["normal"] = nn.init.trunc_normal_(torch.empty(1000), a=-1, b=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    with deferred_init():
        inside.set()
        assert done.wait(10)
        assert torch.ones(2)[0] == 1
    thread.join()
    assert made["ones"].tolist() == [1, 1]
    assert 0.9 < made["normal"].abs().max() <= 1


def test_what_real_tensors_draw_inside_is_not_drawn_again():
    layers = [nn.Linear(3, 3) for _ in range(3)]
    for layer in layers[:2]:
        with deferred_init():
            nn.init.normal_(layer.weight)
            nn.Dropout(0.5)(torch.ones(3))
    nn.init.normal_(layers[2].weight)
    assert len({tuple(layer.weight.flatten().tolist()) for layer in layers}) == 3


@pytest.mark.filterwarnings("ignore:torch.manual_seed in the constructor")
def test_a_seed_set_inside_does_not_stay():
    torch.rand(3)
    before = torch_states()
    for seed in (3, torch.initial_seed()):
        with deferred_init():
            torch.manual_seed(seed)
            torch.rand(3)
        assert torch_states() == before


def test_a_pool_that_is_started_inside_does_what_a_thread_does():
    """Its workers were recorded twice."""

    def work():
        made = torch.as_tensor(np.ones(2)) * 1
        return made.tolist(), nn.functional.one_hot(torch.tensor([1, 0])).tolist()

    with deferred_init(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == ([1, 1], [[0, 1], [1, 0]])


HANDED = {
    "submit": (ThreadPoolExecutor, lambda pool, make: pool.submit(make, 3).result()),
    "map": (ThreadPoolExecutor, lambda pool, make: next(pool.map(make, [3]))),
    "apply": (ThreadPool, lambda pool, make: pool.apply(make, (3,))),
    "func=": (ThreadPool, lambda pool, make: pool.apply_async(func=make, args=(3,)).get()),
    "map of a pool": (ThreadPool, lambda pool, make: pool.map(make, [3])[0]),
    "starmap": (ThreadPool, lambda pool, make: pool.starmap(make, [(3,)])[0]),
    "imap": (ThreadPool, lambda pool, make: next(pool.imap(make, [3]))),
    "imap_unordered": (ThreadPool, lambda pool, make: next(pool.imap_unordered(make, [3]))),
}


@pytest.mark.parametrize(("pool", "hand"), HANDED.values(), ids=HANDED)
def test_a_pool_made_before_does_what_a_block_hands_it_as_a_part_of_the_block(pool, hand):
    with pool(1) as workers:
        assert hand(workers, torch.ones).device.type == "cpu"
        with deferred_init():
            model = nn.Sequential(hand(workers, lambda n: nn.Linear(n, n)))
        assert model[0].weight.is_meta
        assert not hand(workers, torch.ones).is_meta
    with deferred_init():
        want = nn.Sequential(nn.Linear(3, 3))
    assert torch.equal(materialize(model, seed=5)[0].weight, materialize(want, seed=5)[0].weight)


def test_threads_that_a_constructor_starts_record_too():
    """Alone, and in a pool that outlives the block; what such a thread does afterwards is done at once."""

    class Net(nn.Module):
        def __init__(self, pool):
            super().__init__()
            self.layers = nn.ModuleList(pool.map(lambda _: nn.Linear(3, 3), range(4)))
            self.scale = nn.Parameter(torch.ones(3))
            thread = threading.Thread(target=lambda: nn.init.zeros_(self.scale))
            thread.start()
            thread.join()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with deferred_init():
            module = Net(pool)
        assert all(each.is_meta for each in module.parameters())
        assert not pool.submit(torch.ones, 2).result().is_meta
    materialize(module, seed=3)
    assert module.scale.tolist() == [0.0] * 3
    for number, layer in enumerate(module.layers):
        want = drawn(Uniform(low=-(3**-0.5), high=3**-0.5), f"layers.{number}.weight", (3, 3), seed=3)
        assert torch.equal(layer.weight, want)


def test_tasks_of_one_thread_do_not_see_each_others_blocks():
    """Whichever of them is left first."""

    async def build(wait, done):
        with deferred_init():
            first = nn.Linear(2, 2)
            done.set()
            await wait.wait()
            second = nn.Linear(2, 2)
        return first.weight.is_meta, second.weight.is_meta

    async def plain(wait, done):
        await wait.wait()
        made = torch.ones(2)
        done.set()
        return made.is_meta

    async def both():
        one, two, three = asyncio.Event(), asyncio.Event(), asyncio.Event()
        return await asyncio.gather(build(three, one), plain(one, two), build(two, three))

    assert asyncio.run(both()) == [(True, True), False, (True, True)]
    assert not torch.ones(1).is_meta


def test_who_looks_at_random_values_is_told_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))
            self.w.sum().item()
            self.w.max().item()

    told = pytest.warns(UserWarning, match="looks at random values that it drew, in Net: .* same for every seed")
    with told as seen, deferred_init():
        Net()
    assert len(seen) == 1


def test_checks_that_hold_for_every_draw_are_no_looks():
    """They pinned the values for every seed, and to the order of construction."""

    def make():
        w = torch.randn(5)
        assert torch.isfinite(w).all()
        assert not w.isnan().any()
        assert not torch.isinf(nn.Embedding(3, 2, padding_idx=0).weight).any()
        return w

    assert value(make, seed=0).tolist() != value(make, seed=1).tolist()


def test_looks_do_not_depend_on_what_else_is_looked_at():
    """Only on draws of the same law and shape."""

    def make(others):
        for shape in others:
            torch.randn(shape).sum().item()
        w = torch.randn(5)
        w.sum().item()
        return w

    with pytest.warns(UserWarning, match="looks at random values"):
        one, two = value(lambda: make([])), value(lambda: make([3, (2, 2)]))
    assert torch.equal(one, two)
