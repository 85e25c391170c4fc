"""Generators: keys are a function of (seed, name, occurrence) and of nothing else."""

import copy
import pickle
import random
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritonparam import Generator, derive_key, get_generator, get_seed, set_seed
from tritonparam.stream import generator as module


@pytest.fixture(autouse=True)
def _fresh_default(monkeypatch):
    monkeypatch.setattr(module, "_default", Generator(0))
    monkeypatch.setattr(module, "_seed", None)


@given(seed=st.integers(0, 2**64 - 1), names=st.lists(st.sampled_from(["w", "b", "", "層.重み"]), max_size=12))
def test_key_is_derived_from_the_count_of_that_name_alone(seed, names):
    """The n-th request for a name gets derive_key(seed, name, n), whatever is requested in between."""
    generator = Generator(seed)
    got = [generator.key(name) for name in names]
    want = [derive_key(seed, name, names[:position].count(name)) for position, name in enumerate(names)]
    assert got == want


def test_threads_share_the_count_and_no_key_is_given_twice(monkeypatch):
    """Also when the threads change places in the middle of a key."""
    generator, keys = Generator(3), []
    start = threading.Barrier(4)

    def derive_slowly(*arguments):
        time.sleep(1e-4)
        return derive_key(*arguments)

    monkeypatch.setattr(module, "derive_key", derive_slowly)

    def draw():
        start.wait()
        mine = [generator.key("w") for _ in range(50)]
        keys.extend(mine)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys) == sorted(derive_key(3, "w", occurrence) for occurrence in range(200))


def test_default_generator_has_seed_zero_and_set_seed_replaces_it():
    assert get_generator().seed == 0
    assert get_seed() is None
    before = get_generator()
    first = before.key("w")
    set_seed(5)
    assert before.seed == 0
    assert (get_seed(), get_generator().seed) == (5, 5)
    assert get_generator().key("w") == derive_key(5, "w")
    set_seed(0)
    assert get_generator().key("w") == first


def test_with_blocks_nest_and_end_even_with_an_error():
    outer, inner = Generator(1), Generator(2)

    def fail():
        with inner:
            assert get_generator() is inner
            raise KeyError

    with outer:
        with pytest.raises(KeyError):
            fail()
        assert get_generator() is outer
        with outer:
            set_seed(9)
            assert get_generator() is outer
        assert get_generator() is outer
    assert get_generator().seed == 9


def test_with_block_holds_in_its_own_thread_only():
    seen = []
    with Generator(4):
        thread = threading.Thread(target=lambda: seen.append(get_generator().seed))
        thread.start()
        thread.join()
    assert seen == [0]


@pytest.mark.parametrize(
    ("seed", "error"),
    [(1.5, TypeError), (True, TypeError), ("1", TypeError), (None, TypeError), (-1, ValueError), (2**64, ValueError)],
)
def test_bad_seeds_are_refused_and_change_nothing(seed, error):
    set_seed(6)
    generator = get_generator()
    with pytest.raises(error, match="seed must be"):
        Generator(seed)
    with pytest.raises(error, match="seed must be"):
        set_seed(seed)
    assert get_generator() is generator
    assert get_seed() == 6


def test_numpy_integers_are_seeds():
    assert Generator(np.uint64(2**64 - 1)).key("w") == derive_key(2**64 - 1, "w")


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda generator: pickle.loads(pickle.dumps(generator))])
def test_copies_go_on_from_the_same_counts_each_by_itself(copied):
    generator = Generator(8)
    generator.key("w")
    other = copied(generator)
    assert type(other) is Generator
    assert (other.seed, repr(other)) == (8, repr(generator))
    want = [derive_key(8, "w", 1), derive_key(8, "w", 2), derive_key(8, "b", 0)]
    assert [other.key(name) for name in "wwb"] == want
    assert [generator.key(name) for name in "wwb"] == want


def test_generator_is_copied_whole_while_another_thread_counts():
    """New names keep coming, so that a dict that is walked without the lock changes its size."""
    generator, done = Generator(8), threading.Event()

    def count():
        for index in range(20_000):
            generator.key(f"w{index}")
        done.set()

    thread = threading.Thread(target=count)
    thread.start()
    while not done.is_set():
        counted = copy.deepcopy(generator)._occurrences
        assert list(counted) == [f"w{index}" for index in range(len(counted))]
    thread.join()


@pytest.mark.parametrize(("name", "error"), [(3, TypeError), ("\ud800", ValueError)])
def test_a_name_that_is_refused_is_not_counted(name, error):
    generator = Generator(0)
    with pytest.raises(error, match="name must be"):
        generator.key(name)
    assert generator._occurrences == {}


def test_random_states_of_torch_numpy_and_python_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    set_seed(11)
    with Generator(12) as generator:
        generator.key("w")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
