"""init_data with a layout: each process holds exactly its box of the whole, and together they hold the whole."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tritonparam
from tritonparam import Generator, Parameter
from tritonparam.initializer import Normal, initializer

INITS = ["normal", "uniform", "truncated_normal", "he_uniform", "xavier_normal", "ones", 0.5]


def declare(init, shape, dtype="float32"):
    with Generator(9):
        return Parameter(initializer(init, shape, dtype), "w")


def slices_of(matrix, mapped, shape):
    """By the rules of MindSpore: for each rank, in order, where its slice lies; written without the package."""
    for coordinate in itertools.product(*map(range, matrix)):
        box = []
        for size, axis in zip(shape, mapped, strict=True):
            parts, index = (1, 0) if axis == -1 else (matrix[-axis - 1], coordinate[-axis - 1])
            box.append(slice(index * (size // parts), (index + 1) * (size // parts)))
        yield tuple(box)


def layout_of(matrix, mapped, shape, *rest):
    parts = [1 if axis == -1 else matrix[-axis - 1] for axis in mapped]
    local = [size // n for size, n in zip(shape, parts, strict=True)]
    return (list(matrix), list(mapped), local, *(rest or (0, True, "")))


@st.composite
def layouts(draw):
    matrix = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ndim = draw(st.integers(0 if len(matrix) > 2 else 1, 4))
    axes = draw(st.permutations([*range(len(matrix)), *[-1] * ndim]))[:ndim]
    parts = [1 if axis == -1 else matrix[-axis - 1] for axis in axes]
    shape = [n * draw(st.integers(1, 3)) for n in parts]
    return matrix, axes, shape


@given(layouts(), st.sampled_from(["normal", "uniform", "truncated_normal"]), st.sampled_from(["float32", "bfloat16"]))
@settings(deadline=None)
def test_slices_of_all_ranks_together_are_the_whole(layout, init, dtype):
    """Any device matrix and map: rank by rank the rule's slice, bit for bit, so every element is in its place."""
    matrix, mapped, shape = layout
    whole = declare(init, shape, dtype).init_data().torch.detach()
    put_together = torch.full_like(whole, 7)
    for rank, place in enumerate(slices_of(matrix, mapped, shape)):
        parameter = declare(init, shape, dtype)
        assert parameter.init_data(layout_of(matrix, mapped, shape), rank=rank) is parameter
        assert torch.equal(parameter.torch, whole[place])
        put_together[place] = parameter.torch.detach()
    assert torch.equal(put_together, whole)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_fans_and_integers_are_those_of_the_whole(init, dtype):
    whole = declare(init, [8, 6], dtype).asnumpy()
    for rank, place in enumerate(slices_of([2, 3], [1, 0], [8, 6])):
        parameter = declare(init, [8, 6], dtype).init_data(layout_of([2, 3], [1, 0], [8, 6]), rank=rank)
        np.testing.assert_array_equal(parameter.asnumpy(), whole[place])


@pytest.mark.parametrize("init", ["identity", "orthogonal", "dirac"])
def test_initializers_of_more_than_one_law_have_slices_too(init):
    shape = [8, 6, 3] if init == "dirac" else [8, 6]
    mapped = [1, 0, -1][: len(shape)]
    whole = declare(init, shape).asnumpy()
    for rank, place in enumerate(slices_of([2, 3], mapped, shape)):
        parameter = declare(init, shape).init_data(layout_of([2, 3], mapped, shape), rank=rank)
        np.testing.assert_array_equal(parameter.asnumpy(), whole[place])


def test_example_of_mindspore_puts_four_ranks_on_each_half():
    whole = declare("normal", [4, 4]).asnumpy()
    for rank in range(8):
        parameter = declare("normal", [4, 4]).init_data(([2, 4], [1, -1], [2, 4], 0, 1, ""), rank=rank)
        np.testing.assert_array_equal(parameter.asnumpy(), whole[2 * (rank // 4) :][:2])


@pytest.mark.parametrize("group", [2, 4])
def test_optimizer_group_cuts_the_first_dimension_once_more(group):
    whole = declare("normal", [16, 2]).asnumpy()
    for rank, index in itertools.product(range(2), range(group)):
        parameter = declare("normal", [16, 2])
        parameter.init_data(layout_of([2], [0, -1], [16, 2], 0, True, (index, group)), rank=rank)
        rows = 8 // group
        np.testing.assert_array_equal(parameter.asnumpy(), whole[8 * rank + rows * index :][:rows])


def test_slice_of_ten_terabytes_is_written_alone():
    parameter = declare("normal", [2_500_000, 1_000_000])
    storage = parameter.torch
    parameter.init_data(([500_000, 250_000], [1, 0], [5, 4], 0, True, ""), set_sliced=True, rank=124_999_999_999)
    assert (parameter.shape, parameter.sliced, parameter.torch is storage) == ((5, 4), True, True)
    assert (parameter.torch.requires_grad, parameter.torch.is_leaf) == (True, True)
    assert np.isfinite(parameter.asnumpy()).all()


def test_set_sliced_says_what_sliced_becomes():
    layout = layout_of([2], [0, -1], [4, 2])
    for set_sliced in (True, False):
        assert declare("ones", [4, 2]).init_data(layout, set_sliced, rank=0).sliced is set_sliced
        assert declare("ones", [4, 2]).init_data(set_sliced=set_sliced).sliced is set_sliced


def test_real_parameter_stays_as_it_is_whatever_is_asked():
    """As in MindSpore: there is nothing to initialize, so the arguments are not looked at."""
    parameter = declare("ones", [4, 2]).init_data(layout_of([2], [0, -1], [4, 2]), True, rank=1)
    for layout in (layout_of([2], [0, -1], [4, 2]), (), [1], None):
        assert parameter.init_data(layout, False) is parameter
    assert (parameter.shape, parameter.sliced) == ((2, 2), True)
    assert not Parameter(1.0).init_data(set_sliced=True).sliced


GOOD = ([2, 4], [1, -1], [2, 4], 0, True, "")


def but(index, entry):
    return (*GOOD[:index], entry, *GOOD[index + 1 :])


@pytest.mark.parametrize(
    ("layout", "error", "text"),
    [
        (list(GOOD), TypeError, "layout must be a tuple"),
        ((), ValueError, "at least the 6 entries"),
        (GOOD[:5], ValueError, "at least the 6 entries"),
        (but(0, 8), TypeError, r"device_matrix \(layout\[0\]\)"),
        (but(0, [2.0, 4]), TypeError, "device_matrix"),
        (but(0, [True, 4]), TypeError, "device_matrix"),
        (but(0, [0, 4]), ValueError, "device_matrix"),
        (but(1, "ab"), TypeError, r"tensor_map \(layout\[1\]\)"),
        (but(1, [1]), ValueError, "one entry for each dimension"),
        (but(1, [2, -1]), ValueError, "axes below 2"),
        (but(1, [1, -2]), ValueError, "tensor_map"),
        (but(1, [1, 1]), ValueError, "no axis twice"),
        (but(2, [7]), ValueError, r"slice_shape \(layout\[2\]\) must be \(2, 4\)"),
        (but(2, None), TypeError, "slice_shape"),
        (but(3, 26), ValueError, "field_size"),
        (but(3, None), ValueError, "field_size"),
        (but(4, False), ValueError, "uniform_split"),
        (but(4, None), ValueError, "uniform_split"),
        (but(5, "group"), TypeError, "opt_shard_group"),
        (but(5, (0, 2.0)), TypeError, "opt_shard_group"),
        (but(5, (2, 2)), ValueError, "opt_shard_group"),
        (but(5, (0, 3)), ValueError, "evenly, got 3 parts of dimension 0"),
        (([3], [0, -1], [2, 4], 0, True, ""), ValueError, "evenly, got 3 parts of dimension 0 of size 4"),
    ],
)
def test_bad_layout_leaves_the_parameter_lazy(layout, error, text):
    parameter = declare("normal", [4, 4])
    with pytest.raises(error, match=text):
        parameter.init_data(layout, True, rank=0)
    assert (parameter.has_init, parameter.shape, parameter.sliced) == (True, (4, 4), False)
    assert parameter.init_data((*GOOD, "more entries"), True, rank=0).sliced


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"layout": GOOD, "rank": 8}, ValueError, r"rank must be in \[0, 8\)"),
        ({"layout": GOOD, "rank": -1}, ValueError, "rank must be in"),
        ({"layout": GOOD, "rank": 1.0}, TypeError, "rank must be an int"),
        ({"layout": GOOD, "rank": True}, TypeError, "rank must be an int"),
        ({"layout": GOOD}, RuntimeError, "torch.distributed is initialized"),
        ({"rank": 1}, ValueError, "rank goes with layout"),
        ({"set_sliced": 1}, TypeError, "set_sliced must be a bool"),
        ({"layout": GOOD, "rank": 0, "device": "nosuch"}, ValueError, "device must be"),
        ({"layout": GOOD, "rank": 0, "backend": "nosuch"}, ValueError, "backend must be"),
    ],
)
def test_bad_rank_and_place_leave_the_parameter_lazy(arguments, error, text):
    parameter = declare("normal", [4, 4])
    with pytest.raises(error, match=text):
        parameter.init_data(**arguments)
    assert (parameter.has_init, parameter.shape, parameter.sliced) == (True, (4, 4), False)


def test_scalar_has_the_layout_of_no_dimensions():
    whole = declare(Normal(), []).asnumpy()
    assert declare(Normal(), []).init_data(([2], [], [], 0, True, ""), rank=1).asnumpy() == whole
    with pytest.raises(ValueError, match="scalar"):
        declare(Normal(), []).init_data(([2], [], [], 0, True, (0, 2)), rank=1)


WORKER = """
import sys, torch
from tritonparam import Parameter, set_seed
from tritonparam.initializer import initializer
torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
set_seed(3)
declare = lambda name: Parameter(initializer("normal", [4, 6]), name)
mine = declare("w").init_data(([2], [-1, 0], [4, 3], 0, True, ""), True)
group = declare("v").init_data(([2], [-1, -1], [4, 6], 0, True, torch.distributed.group.WORLD), True)
for parameter, dim in ((mine, 1), (group, 0)):
    parts = [torch.empty_like(parameter.torch.detach()) for _ in range(2)]
    torch.distributed.all_gather(parts, parameter.torch.detach())
    set_seed(3)
    assert torch.equal(torch.cat(parts, dim), declare(parameter.name).init_data().torch), parameter
torch.distributed.destroy_process_group()
"""


def test_rank_and_group_are_those_of_torch_distributed(tmp_path):
    """Two processes: what they gather is the whole, cut by rank and by an optimizer's group."""
    environment = os.environ | {"PYTHONPATH": str(Path(tritonparam.__file__).parents[1])}
    where = f"file://{tmp_path}/rendezvous"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, where, str(rank)], stderr=subprocess.PIPE, text=True, env=environment
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
