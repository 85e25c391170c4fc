"""What loads into many tensors cost the host: so much for each; and what is checked in columns is checked as before."""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch

from tests.module.test_host_cost import SIZES, steps
from tritonparam import Box, Parameter, ParameterTuple, load, save
from tritonparam.checkpoint.matching import landing
from tritonparam.checkpoint.stored import SavedBox, StoredTensor


def saved(folder, count):
    path = folder / f"{count}.safetensors"
    save({f"layer.{n}.w": torch.full((3,), float(n)) for n in range(count)}, path)
    return path


def tensors(count):
    return {f"layer.{n}.w": torch.empty(3) for n in range(count)}


def parameters(count):
    return ParameterTuple(Parameter(torch.empty(3), name=name) for name in tensors(count))


@pytest.mark.parametrize(("target", "most"), [(tensors, 190), (parameters, 200)])
def test_each_tensor_costs_as_much_in_a_large_load_as_in_a_small_one(target, most, tmp_path):
    """Counted in lines that run: for 30 times the tensors, 30 times as many."""
    load(target(2), saved(tmp_path, 2))
    each = [steps(functools.partial(load, target(size), saved(tmp_path, size))) / size for size in SIZES]
    assert each[2] <= each[1] * 1.01 <= each[0] * 1.1
    assert each[2] < most


def test_many_tensors_get_their_values(tmp_path):
    target = tensors(300)
    load(target, saved(tmp_path, 300))
    assert [each.tolist() for each in target.values()] == [[float(n)] * 3 for n in range(300)]


def spans(numbers, count, most):
    return [(start, start + numbers.randint(1, most)) for start in (numbers.randrange(200) for _ in range(count))]


def landed(pairs):
    return landing._Landing([one for one, _ in pairs], [end for _, end in pairs], [(None, None)] * len(pairs))


def meet(one, other):
    return one[0] < other[1] and other[0] < one[1]


def test_spans_meet_in_columns_where_two_of_them_meet():
    numbers = random.Random(5)
    seen = set()
    for _ in range(2000):
        pairs = spans(numbers, numbers.randint(1, 8), 30)
        want = not any(meet(*both) for both in itertools.combinations(pairs, 2))
        assert landed(pairs).is_apart() == want, pairs
        seen.add(want)
    assert seen == {True, False}


def test_spans_meet_mappings_in_columns_where_one_of_them_does():
    """Spans may meet each other; the mappings lie in order and apart, with gaps or without."""
    numbers = random.Random(6)
    seen = set()
    for _ in range(2000):
        ends = sorted(numbers.sample(range(250), 2 * numbers.randint(1, 4)))
        mappings = [
            landing._Mapping(one, end, "r--p", (0, 0), "") for one, end in zip(ends[::2], ends[1::2], strict=True)
        ]
        if numbers.random() < 0.5:
            mappings.append(landing._Mapping(ends[-1], ends[-1] + 5, "r--p", (0, 0), ""))
        pairs = spans(numbers, numbers.randint(1, 4), 20)
        want = any(meet(pair, each[:2]) for pair in pairs for each in mappings)
        assert landed(pairs).meets(mappings) == want, (pairs, mappings)
        seen.add(want)
    assert seen == {True, False}


def test_addresses_beyond_what_a_signed_number_holds_are_compared_too():
    """The system has a page there."""
    top = (1 << 64) - (1 << 20)
    mapping = landing._Mapping(top, top + 4096, "--xp", (0, 0), "")
    assert not landed([(4096, 8192), (1 << 47, (1 << 47) + 1)]).meets([mapping])
    assert landed([(4096, 8192), (top + 4095, top + 4097)]).meets([mapping])


@pytest.mark.parametrize("shape", [(4, 6), (4, 0), ()])
def test_a_whole_box_in_one_file_is_cut_as_any_other(shape, tmp_path):
    whole = Box.whole(shape)
    tensor = StoredTensor("w", torch.float32, shape, [SavedBox(tmp_path, whole, 0)])
    found, rest = tensor._cut(whole)
    assert tensor.is_whole_in_one(whole) == (0 not in shape)
    assert tensor.uncovered(whole) is None
    assert not rest
    assert found == ([(tensor.saved[0], whole)] if tensor.is_whole_in_one(whole) else [])
    if 0 not in shape and shape:
        assert not tensor.is_whole_in_one(Box((0, 0), (1, 6)))
        halves = [SavedBox(tmp_path, Box((row, 0), (2, 6)), 0) for row in (0, 2)]
        assert not StoredTensor("w", torch.float32, shape, halves).is_whole_in_one(halves[0].box)
