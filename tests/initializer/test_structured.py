"""Identity, Dirac, Orthogonal, Sparse and patterns of users: formulas, promises, and boxes as parts of the whole."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from tritonparam import Constant, Fill, Generator, Parameter, ParameterTuple, Plan, Tensor, Uniform, derive_key
from tritonparam import Normal as NormalLaw
from tritonparam import dtype as mstype
from tritonparam.initializer import Dirac, Identity, Initializer, Orthogonal, Pattern, Sparse, initializer
from tritonparam.plan.views import Box
from tritonparam.tensor.tensor import realize

DTYPES = ["float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int16", "bool"]
GUARD = 64


def made(init, whole, dtype="float32", **arguments):
    with Generator(3):
        return initializer(init, whole, dtype).init_data(**arguments)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def boxes(shape):
    """Every box of a small shape, and the whole."""
    axes = [[(start, end) for start in range(n) for end in range(start + 1, n + 1)] for n in shape]
    for ranges in itertools.product(*axes):
        yield Box(tuple(start for start, _ in ranges), tuple(end - start for start, end in ranges))


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 7), (7, 3), (1, 9), (9, 1), (40, 129)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_is_eye(shape, dtype):
    got = made("identity", shape, dtype)
    assert torch.equal(got.torch.float(), torch.eye(*shape))


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((4, 4, 3), 1), ((6, 2, 3), 3), ((6, 4, 4, 5), 2), ((3, 5, 1, 1), 1), ((4, 1, 3, 3, 3), 4), ((8, 3, 2, 2, 2), 2)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_dirac_is_that_of_torch(shape, groups, dtype):
    got = made(Dirac(groups), shape, dtype)
    assert torch.equal(got.torch.float(), torch.nn.init.dirac_(torch.empty(shape), groups))


def test_dirac_takes_one_group_by_default():
    assert torch.equal(made("Dirac", (4, 4, 3)).torch, made(Dirac(), (4, 4, 3)).torch)


@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (Identity(), (4, 6)),
        (Identity(), (6, 4)),
        (Dirac(2), (6, 4, 3)),
        (Dirac(), (3, 3, 2, 2)),
        (Sparse(0.3), (6, 5)),
        (Orthogonal(2.0), (5, 3)),
        (Orthogonal(), (3, 2, 3)),
    ],
    ids=repr,
)
def test_every_box_is_that_part_of_the_whole(init, shape):
    """Bit for bit, with the diagonal, the zeros and the factorization of the whole; nothing around is written."""
    law = init.law(shape)
    whole = made(init, shape).torch
    key = derive_key(3, "")
    for box in boxes(shape):
        memory = torch.full((2 * GUARD + math.prod(box.sizes),), 77.0)
        out = memory[GUARD:-GUARD].view(box.sizes)
        Plan(law.fills(out, key, box.offsets)).run()
        law.finish(out, key, box.offsets)
        assert torch.equal(out, box.of(whole)), box
        assert (memory[:GUARD] == 77).all()
        assert (memory[-GUARD:] == 77).all()


@pytest.mark.parametrize(("init", "shape"), [(Identity(), (5, 7)), (Dirac(2), (4, 3, 3)), (Sparse(0.5), (4, 4))])
@pytest.mark.kernels
def test_kernels_write_the_same(init, shape, device):
    want, got = made(init, shape, backend="numpy"), made(init, shape, device=device, backend="triton")
    assert torch.equal(got.torch.cpu(), want.torch)


def test_fills_of_a_pattern_are_disjoint_and_cover_the_box():
    """Their order in a plan is free, so each element is written by exactly one."""
    law = Dirac(2).law((6, 4, 3))
    for box in boxes((6, 4, 3)):
        out = torch.zeros(box.sizes)
        for fill in law.fills(out, 0, box.offsets):
            fill.out.add_(1)
        assert (out == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (64, 64), (100, 3, 7), (8, 4, 3, 3)])
@pytest.mark.parametrize("gain", [1.0, 0.5, -2.0])
def test_orthogonal_rows_or_columns_have_length_gain_and_are_orthogonal(shape, gain):
    """|Q Q^T - gain**2 I| < 1e-6 gain**2 in float32 and 1e-13 in float64."""
    for dtype, bound in (("float32", 1e-6), ("float64", 1e-13)):
        matrix = made(Orthogonal(gain), shape, dtype).torch.double().reshape(shape[0], -1)
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        error = (matrix @ matrix.T - gain**2 * torch.eye(matrix.shape[0])).abs().max()
        assert error < bound * gain**2


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 2, 2)])
def test_orthogonal_is_the_gram_schmidt_of_the_stream(shape):
    """Column by column of the draw (row by row of a wide one), in float64: QR with a positive diagonal is just that."""
    draw = torch.empty(shape[0], math.prod(shape[1:]), dtype=torch.float64)
    Plan([Fill(draw, NormalLaw(), derive_key(3, ""))]).run()
    wide = draw.shape[0] < draw.shape[1]
    columns = []
    for vector in draw if wide else draw.T:
        rest = vector.clone()
        for other in columns:
            rest -= (rest @ other) * other
        columns.append(rest / rest.norm())
    want = torch.stack(columns, 0 if wide else 1).reshape(shape)
    torch.testing.assert_close(made("orthogonal", shape, "float64").torch, want, rtol=0, atol=1e-12)


def test_orthogonal_narrow_is_the_float32_one_rounded():
    wide = made(Orthogonal(300.0), (9, 20)).torch
    for dtype in DTYPES[2:6]:
        got = made(Orthogonal(300.0), (9, 20), dtype)
        assert torch.equal(bits(got.torch), bits(wide.to(got.torch.dtype)))
    assert torch.equal(made(Orthogonal(300.0), (9, 20), "float64").torch.float(), wide)
    assert not made(Orthogonal(9000.0), (2, 2), "float8_e4m3fn").torch.float().isnan().any()


@pytest.mark.parametrize(
    ("sparsity", "rows", "zeros"), [(0.0, 7, 0), (0.1, 7, 1), (0.5, 7, 4), (1 / 3, 3, 1), (1, 7, 7), (0.25, 8, 2)]
)
def test_sparse_has_its_zeros_in_every_column_and_normal_values_elsewhere(sparsity, rows, zeros):
    """The rows of the lowest ranks, drawn by the key that is derived from the tensor's; written out in NumPy."""
    shape = (rows, 50)
    key = derive_key(3, "")
    want, ranks = torch.empty(shape), torch.empty(shape)
    Plan([Fill(want, NormalLaw(mean=0.0, std=0.5), key), Fill(ranks, Uniform(), derive_key(key, "sparse"))]).run()
    for column in range(50):
        for row in np.argsort(ranks[:, column].numpy(), kind="stable")[:zeros]:
            want[row, column] = 0.0
    got = made(Sparse(sparsity, 0.5), shape)
    assert torch.equal(got.torch, want)
    assert ((got.torch == 0).sum(0) == zeros).all()


def test_sparse_zeros_fall_on_every_row_alike():
    """3 of 12 rows in 4000 columns: a row's count is Binomial(4000, 1/4); 6 standard deviations, 1e-8 false alarms."""
    counts = (made(Sparse(0.25), (12, 4000)).torch == 0).sum(1)
    assert ((counts - 1000).abs() < 6 * math.sqrt(4000 * 3 / 16)).all()


def test_sparse_changes_nothing_when_columns_are_chosen_in_parts(monkeypatch):
    want = made(Sparse(0.5), (6, 11))
    monkeypatch.setattr("tritonparam.initializer.patterns._AT_ONCE", 24)
    assert torch.equal(made(Sparse(0.5), (6, 11)).torch, want.torch)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float64"])
def test_sparse_in_any_dtype_is_the_float32_one_rounded(dtype):
    got, wide = made(Sparse(0.5, 1.0), (6, 11), dtype).torch, made(Sparse(0.5, 1.0), (6, 11)).torch
    assert torch.equal(bits(got), bits(wide.to(got.dtype)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: initializer("identity", [3]),
        lambda: initializer("identity", [3, 3, 3]),
        lambda: initializer("dirac", [3, 3]),
        lambda: initializer("dirac", [3] * 6),
        lambda: initializer(Dirac(2), [3, 3, 3]),
        lambda: initializer("orthogonal", [3]),
        lambda: initializer(Sparse(0.5), [3]),
        lambda: initializer(Sparse(0.5), [3, 3, 3]),
        lambda: Dirac(0),
        lambda: Orthogonal(math.inf),
        lambda: Sparse(-0.1),
        lambda: Sparse(1.1),
        lambda: Sparse(0.1, -1.0),
    ],
)
def test_bad_values_are_value_errors_and_count_no_tensor(make):
    with Generator(1) as generator:
        with pytest.raises(ValueError, match="got"):
            make()
        assert generator._occurrences == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dirac(1.0),
        lambda: Dirac(True),
        lambda: Orthogonal("1"),
        lambda: Sparse("0.1"),
        lambda: initializer("sparse", [3, 3]),
        Sparse,
    ],
)
def test_wrong_types_are_type_errors(make):
    with pytest.raises(TypeError, match=r"got|sparsity"):
        make()


@pytest.mark.parametrize("init", [Identity(), Orthogonal(), Sparse(0.5)])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), Tensor.copy])
def test_copies_of_a_lazy_one_are_lazy_and_give_the_same_values(init, duplicate):
    tensor = initializer(init, [5, 5])
    other = duplicate(tensor)
    assert other.has_init
    assert torch.equal(other.init_data().torch, tensor.init_data().torch)


def test_parameters_of_every_kind_become_real_in_one_plan(monkeypatch):
    plans, run = [], Plan.run
    monkeypatch.setattr(Plan, "run", lambda plan: (plans.append(plan), run(plan))[1])
    with Generator(3):
        group = ParameterTuple(
            Parameter(initializer(init, [6, 6]), name=f"w{i}") for i, init in enumerate([Identity(), "normal", "ones"])
        )
    group.init_data()
    assert len(plans) == 1
    assert torch.equal(group[0].torch.detach(), torch.eye(6))


def test_users_write_patterns_of_their_own():
    """What a pattern writes appears; whatever is no fill, or not written at all, is an error that changes nothing."""

    class Ramp(Pattern):
        def fills(self, out, key, offsets):
            return [Fill(out, Constant(1.0))]

        def finish(self, out, key, offsets):
            out += torch.arange(offsets[0], offsets[0] + out.shape[0])

    class Wrong(Pattern):
        def fills(self, out, key, offsets):
            return [out]

    class Made(Initializer):
        def __init__(self, pattern):
            self.pattern = pattern

        def law(self, shape):
            return self.pattern

    assert initializer(Made(Ramp()), 4).tolist() == [1, 2, 3, 4]
    tensor = initializer(Made(Ramp()), 4)
    realize([tensor], boxes={tensor: Box((2,), (2,))})
    assert tensor.tolist() == [3, 4]
    for pattern, error in ((Wrong(), TypeError), (Pattern(), NotImplementedError)):
        tensor = initializer(Made(pattern), 4)
        with pytest.raises(error, match=r"Fill|fills"):
            tensor.init_data()
        assert tensor.has_init


class Counting(Initializer):
    """A subclass as MindSpore has them."""

    def __init__(self, start):
        super().__init__(start=start)
        self.start = start

    def _initialize(self, arr):
        arr[...] = self.start + np.arange(arr.size).reshape(arr.shape)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int16"])
def test_subclasses_written_for_mindspore_fill_an_array_of_the_whole(dtype):
    want = 2.7 + torch.arange(6, dtype=torch.float64).reshape(2, 3)
    tensor = initializer(Counting(2.7), (2, 3), dtype)
    want = (want if dtype == "float64" else want.float()).to(tensor.torch.dtype)
    assert copy.deepcopy(tensor).tolist() == want.tolist()
    assert tensor.init_data(1, (1, 3)).tolist() == want[1:].tolist()


def test_set_dtype_of_a_lazy_pattern():
    tensor = initializer("identity", (2, 2)).set_dtype("int8")
    assert tensor.has_init
    assert (tensor.tolist(), str(tensor.dtype)) == ([[1, 0], [0, 1]], "Int8")


@pytest.mark.parametrize("init", ["normal", "he_uniform", "identity", "orthogonal", Sparse(0.5), 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_slices_put_together_are_the_whole(init, dtype):
    """MindSpore's slice_index counts them row-major; opt_shard_group cuts the first dimension once more."""
    whole = made(init, (4, 6), dtype).torch
    slices = [made(init, (4, 6), dtype, slice_index=index, shape=(2, 2)) for index in range(6)]
    assert all(each.shape == (2, 2) for each in slices)
    rows = [torch.cat([each.torch.float() for each in slices[start : start + 3]], 1) for start in (0, 3)]
    assert torch.equal(torch.cat(rows), whole.float())
    halves = [made(init, (4, 6), dtype, slice_index=1, shape=(2, 6), opt_shard_group=(rank, 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.torch.float() for half in halves]), whole[2:].float())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"slice_index": 1}, ValueError),
        ({"shape": (2, 2)}, ValueError),
        ({"shape": (3, 6), "slice_index": 0}, ValueError),
        ({"shape": (4,), "slice_index": 0}, ValueError),
        ({"shape": (2, 2), "slice_index": 6}, ValueError),
        ({"shape": (2, 2), "slice_index": -1}, ValueError),
        ({"shape": (2, 2), "slice_index": 1.0}, TypeError),
        ({"shape": (2, 2), "slice_index": True}, TypeError),
        ({"shape": "4", "slice_index": 0}, ValueError),
        ({"opt_shard_group": 3}, TypeError),
        ({"opt_shard_group": (0, 3)}, ValueError),
    ],
)
def test_bad_slices_leave_the_tensor_lazy_and_whole(arguments, error):
    tensor = initializer("normal", (4, 6))
    with pytest.raises(error, match="got"):
        tensor.init_data(**arguments)
    assert tensor.has_init
    assert tensor.shape == (4, 6)


def test_a_slice_of_ten_terabytes_takes_the_memory_of_the_slice():
    tensor = initializer("he_normal", (2_500_000, 1_000_000)).init_data(slice_index=10**8 - 1, shape=(250, 100))
    assert tensor.nbytes == 100_000
    assert tensor.dtype is mstype.float32
    assert tensor.torch.std().item() == pytest.approx(math.sqrt(2 / 1_000_000), rel=0.05)
