"""What a constructor asks of deferred tensors, in Python or in C++, it gets as from torch itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.module.eager import buffers, check_like_eager
from tritonparam import deferred_init, materialize

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
]

INDICES = {
    "a list": lambda x: x[[2, 1, 0]],
    "a list of columns": lambda x: x[:, [1, 0]],
    "a tuple of lists": lambda x: x[[0, 1], [1, 0]],
    "a list of lists": lambda x: x[[[0, 1], [1, 0]]],
    "a nested list": lambda x: x[[[[0, 1], [1, 0]]]],
    "a range": lambda x: x[range(1, 3)],
    "a tensor and a list": lambda x: x[torch.tensor([0, 1]), [1, 0]],
    "booleans": lambda x: x[[True, False, True, False]],
    "an array": lambda x: x[np.array([3, 0])],
    "a mask": lambda x: x[np.array([True, False, False, True])],
    "a NumPy number": lambda x: x[np.int64(2)],
    "no elements": lambda x: x[[]],
    "a list and an ellipsis": lambda x: x[[1, 2], ...],
    "a list and None": lambda x: x[None, [1, 2]],
    "a list with a slice": lambda x: x[[slice(1, 3), 1]],
    "a list of tensors": lambda x: x[[torch.tensor(1), torch.tensor(0)]],
    "negative numbers": lambda x: x[[-1, -2]],
    "a tensor without dimensions": lambda x: x[torch.tensor(2)],
    "a slice between tensors": lambda x: x[torch.tensor(1) : torch.tensor(3)],
    "a bool": lambda x: x[True],
    "a tensor of one bool": lambda x: x[torch.tensor(True)],
    "a mask of its own": lambda x: x[x > 3],
    "take": lambda x: torch.take(x, torch.tensor([0, 5])),
}


@pytest.mark.parametrize("name", INDICES)
def test_reading_by(name):
    """Indices that C++ makes tensors of, which the tape did not see: uninitialized memory before."""
    check_like_eager(lambda: buffers(INDICES[name](torch.arange(8.0).view(4, 2) + 1)))


@pytest.mark.parametrize("name", [name for name in INDICES if name not in ("take",)])
def test_writing_by(name):
    """The writes were dropped before."""

    def build():
        class Index:
            def __getitem__(self, index):
                return index

        x = torch.zeros(4, 2)
        index = INDICES[name](Index()) if name != "a mask of its own" else x == 0
        x[index] = 5.0
        y = nn.Parameter(torch.ones(4, 2))
        y.data[index] += 2
        return buffers(x, y.detach())

    check_like_eager(build)


NUMBERS = {
    "full": lambda: torch.full((2,), torch.tensor(3.0)),
    "full_like": lambda: torch.full_like(torch.ones(2), torch.linspace(0, 1, 3)[-1]),
    "zeros of a size": lambda: torch.zeros(torch.tensor(3), 2),
    "arange": lambda: torch.arange(torch.tensor(3), torch.tensor(7), torch.tensor(2)),
    "alpha": lambda: torch.add(torch.ones(2), torch.ones(2), alpha=torch.tensor(2)),
    "fill_": lambda: torch.zeros(3).fill_(torch.tensor(2.5)),
    "clamp": lambda: torch.arange(5.0).clamp(max=torch.tensor(2.0).item()),
    "narrow": lambda: torch.arange(5).narrow(0, torch.tensor(1), 2),
    "one_hot": lambda: F.one_hot(torch.arange(3)),
    "repeat_interleave": lambda: torch.repeat_interleave(torch.arange(3), torch.tensor([1, 2, 3])),
    "tensor_split": lambda: torch.arange(4).tensor_split(torch.tensor([1, 3]))[1],
    "bincount": lambda: torch.bincount(torch.tensor([0, 1, 1])),
    "nonzero": lambda: torch.nonzero(torch.arange(4) > 1),
    "unique": lambda: torch.unique(torch.tensor([2, 1, 2])),
    "masked_select": lambda: torch.masked_select(torch.arange(4), torch.arange(4) > 1),
    "tensor of tensors": lambda: torch.tensor([torch.tensor(1.0), torch.tensor(2.0)]),
    "tensor of nested tensors": lambda: torch.tensor([[torch.tensor(1), 2], (3, torch.arange(5)[4])]),
    "as_tensor of tensors": lambda: torch.as_tensor([torch.tensor(1.0), 2.0]),
    "new_tensor": lambda: torch.ones(2, dtype=torch.float64).new_tensor([1, 2]),
    "new_tensor of a tensor": lambda: torch.ones(2).new_tensor(torch.arange(3)),
    "new_tensor of a dtype": lambda: torch.ones(2).new_tensor([1.5], dtype=torch.int64),
    "new": lambda: torch.ones(2).new([4.0, 5.0]),
    "new of sizes": lambda: torch.ones(2).new(2, 3).zero_(),
    "range": lambda: torch.tensor([i * i for i in range(int(torch.tensor(3)))]),
    "item": lambda: torch.tensor([x.item() for x in torch.linspace(0, 1, 3)]),
    "tolist": lambda: torch.tensor(torch.arange(3).tolist()),
    "vmap": lambda: torch.vmap(lambda x: x * 2)(torch.arange(3.0)),
    "nested vmap": lambda: torch.vmap(torch.vmap(lambda x, y: x + y))(torch.ones(2, 3), torch.arange(6.0).view(2, 3)),
    "grad": lambda: torch.func.grad(lambda x: (x**2).sum())(torch.arange(3.0)),
    "jacobian": lambda: torch.func.jacrev(lambda x: x**2)(torch.arange(3.0)),
    "dlpack": lambda: torch.from_dlpack(torch.arange(3.0)),
    "a Sobol sequence": lambda: torch.quasirandom.SobolEngine(2).draw(5),
    "apply_": lambda: torch.arange(3.0).apply_(lambda x: x + 1),
    "map_": lambda: torch.arange(3.0).map_(torch.ones(3), lambda x, y: x + y),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_tensor(name):
    check_like_eager(lambda: buffers(NUMBERS[name]()))


@pytest.mark.parametrize(
    "init",
    [
        lambda w, t: nn.init.uniform_(w, -t, t),
        lambda w, t: nn.init.normal_(w, std=t),
        lambda w, t: nn.init.trunc_normal_(w, std=t),
        nn.init.constant_,
        lambda w, t: w.data.uniform_(-t, t),
        lambda w, t: w.data.normal_(0, t),
    ],
)
def test_parameters_of_a_law_may_be_tensors(init):
    """And the law is the same as by numbers, so are the values."""

    def build(number):
        module = nn.Module()
        module.w = nn.Parameter(torch.zeros(50))
        with torch.no_grad():
            init(module.w, number())
        return module

    made = []
    for number in (lambda: 1 / torch.sqrt(torch.tensor(4.0)), lambda: 0.5):
        with deferred_init():
            module = build(number)
        made.append(materialize(module, seed=3).w)
    assert torch.equal(*made)
    assert made[0].abs().max() > 0


BITS = {
    "conj": lambda f: torch.view_as_real(f.conj().resolve_conj()),
    "conj kept": lambda f: f.conj(),
    "imag of conj": lambda f: f.conj().imag,
    "mH": lambda f: f.view(1, 3).mH @ f.view(1, 3),
    "adjoint": lambda f: f.view(3, 1).adjoint().resolve_conj(),
    "product": lambda f: (f.conj() * f).real,
    "two bits": lambda f: f.conj().imag.neg(),
    "a part of conj": lambda f: f.conj()[1:],
    "written through": lambda f: f.clone().conj().mul_(2j),
    "irfft": lambda f: torch.fft.irfft(torch.fft.rfft(torch.arange(4.0)).conj()),
    "hfft": torch.fft.hfft,
    "ihfft": lambda f: torch.fft.ihfft(torch.arange(4.0)),
    "fft2": lambda f: torch.fft.fft2(torch.arange(12.0).view(3, 4)),
    "eigenvectors": lambda f: torch.linalg.eig(torch.tensor([[0.0, 1.0], [-2.0, -3.0]]))[0].conj(),
    "vdot": lambda f: torch.vdot(f, f.conj()),
}


@pytest.mark.parametrize("name", BITS)
def test_conjugate_and_negative_bits_are_kept(name):
    check_like_eager(lambda: buffers(BITS[name](torch.polar(torch.ones(3), torch.arange(3.0)))))


def test_writes_through_a_conjugate_view_reach_the_tensor():
    def build():
        f = torch.polar(torch.ones(3), torch.arange(3.0))
        f.conj()[1:] = 1 + 2j
        f.conj().imag[0] = 7
        return buffers(f)

    check_like_eager(build)


STATISTICS = {
    "BatchNorm1d": lambda: (nn.BatchNorm1d(3), (4, 3)),
    "BatchNorm2d": lambda: (nn.BatchNorm2d(3), (4, 3, 2, 2)),
    "BatchNorm3d": lambda: (nn.BatchNorm3d(3, momentum=None), (4, 3, 2, 2, 2)),
    "SyncBatchNorm": lambda: (nn.SyncBatchNorm(3), (4, 3)),
    "InstanceNorm1d": lambda: (nn.InstanceNorm1d(3, track_running_stats=True), (4, 3, 5)),
    "InstanceNorm2d": lambda: (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 3, 2, 2)),
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_of_a_dry_run(name, training):
    """Kernels write them, and their schemas do not say so."""

    def build():
        layer, shape = STATISTICS[name]()
        layer.train(training)
        count = 1
        for size in shape:
            count *= size
        layer(torch.arange(float(count)).view(shape))
        layer(torch.ones(shape))
        return layer

    check_like_eager(build)


def test_a_meta_tensor_without_a_history_is_an_error_that_names_operation_and_module():
    lost = torch.empty(3, device="meta")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.ones(3) + lost)

    with deferred_init(), pytest.raises(RuntimeError, match=r"aten::add reads a tensor of shape \(3,\) .* in Net: "):
        Net()
    with deferred_init(), pytest.raises(RuntimeError, match="aten::copy_ reads a tensor of shape"):
        torch.ones(3).copy_(lost)
    with deferred_init():
        assert torch.zeros_like(lost).tolist() == [0.0] * 3  # looks at its shape only


NOT_STRIDED = {
    "sparse_coo_tensor": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2)),
    "coo to_dense": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (2,)).to_dense(),
    "sparse_csr_tensor": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1)
    ),
    "to_sparse": lambda: torch.eye(2).to_sparse(),
    "sparse times dense": lambda: torch.eye(2).to_sparse() @ torch.ones(2, 2),
    "quantize_per_tensor": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8).dequantize(),
}


@pytest.mark.parametrize("name", NOT_STRIDED)
def test_what_is_not_strided_is_real_at_once(name):
    eager = NOT_STRIDED[name]()
    with deferred_init():
        module = buffers(NOT_STRIDED[name]())
    got = materialize(module).b0
    assert got.layout == eager.layout
    assert torch.equal(got.to_dense(), eager.to_dense())


def test_explicit_generators_give_what_they_give_in_torch_and_go_on():
    """They are data: neither the seed nor the name decides, and the generator is left as eager torch leaves it."""

    def build(generator):
        module = nn.Module()
        module.w = nn.Parameter(torch.randn(5, generator=generator))
        module.register_buffer("b", torch.empty(3).uniform_(2, 3, generator=generator))
        module.register_buffer("p", torch.randperm(6, generator=generator))
        nn.init.normal_(module.w.data[1:], generator=generator)
        return module

    one, other = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    want = build(one)
    with deferred_init():
        module = build(other)
    assert torch.equal(one.get_state(), other.get_state())
    got = materialize(module, seed=5)
    for name, value in want.state_dict().items():
        assert torch.equal(got.state_dict()[name], value), name


@pytest.mark.parametrize(
    "build", [lambda: torch.ones(2, 2) @ torch.ones(2, 2), lambda: nn.Linear(2, 2)(torch.ones(1, 2)).detach() * 0]
)
def test_autocast_has_its_effect(build):
    """The dtypes were those without it."""

    def module():
        with torch.autocast("cpu", torch.bfloat16):
            return buffers(build())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a constructor looks at random values
        got = check_like_eager(module)
    assert got.b0.dtype == torch.bfloat16


def test_addresses_tell_tensors_apart_and_ties_together():
    """All were 0, so that code which ties by address tied strangers."""
    with deferred_init():
        w, other = torch.ones(3), torch.zeros(3)
        assert len({w.data_ptr(), other.data_ptr(), w[1:].data_ptr(), 0}) == 4
        assert w.data_ptr() == w.view(3, 1).data_ptr() == nn.Parameter(w).data_ptr()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_real_at_once():
    def build():
        return buffers(torch.nested.nested_tensor([torch.ones(2), torch.arange(3.0)]), torch.ones(2))

    with deferred_init():
        module = build()
    got = materialize(module).b0
    assert got.is_nested
    assert [each.tolist() for each in got.unbind()] == [[1, 1], [0, 1, 2]]


def test_a_scrambled_sequence_is_made():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a constructor looks at random values
        with deferred_init():
            module = buffers(torch.quasirandom.SobolEngine(3, scramble=True).draw(8))
    got = materialize(module).b0
    assert got.shape == (8, 3)
    assert 0 <= got.min() < got.max() < 1


OUT = {
    "a dynamic shape": lambda out: torch.masked_select(
        torch.arange(4.0), torch.tensor([True, False, True, True]), out=out
    ),
    "least squares": lambda out: torch.linalg.lstsq(
        torch.eye(2), torch.tensor([[3.0], [4.0]]), out=(out, torch.empty(0), torch.empty(0, dtype=int), torch.empty(0))
    ),
    "a device": lambda out: torch.full((3,), 2.0, device="cpu", out=out),
}


@pytest.mark.parametrize("write", OUT.values(), ids=OUT)
def test_what_is_given_as_out_has_the_result(write):
    def build():
        out = torch.empty(0)
        write(out)
        return buffers(out, out + 1)

    with deferred_init():
        module = build()
    want = build()
    got = materialize(module)
    for name in ("b0", "b1"):
        assert getattr(got, name).tolist() == getattr(want, name).tolist() != []


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("other", [torch.ones(5), torch.ones(3, 2, 1), torch.ones(4, 2)])
def test_in_place_keeps_its_shape_or_raises(other):
    with deferred_init():
        w = torch.arange(2.0).view(2, 1)
        with pytest.raises(RuntimeError):
            w.eq_(other)
        module = buffers(w, w[1:], w.t() + 1)
    got = materialize(module)
    assert [each.tolist() for each in (got.b0, got.b1, got.b2)] == [[[0], [1]], [[1]], [[1, 2]]]


@pytest.mark.parametrize("norm", [torch.native_batch_norm, torch._native_batch_norm_legit])
def test_statistics_go_on_where_the_results_are_given_as_out(norm):
    def build():
        mean, var = torch.full((2,), 3.0), torch.full((2,), 5.0)
        norm(
            torch.arange(8.0).view(4, 2), None, None, mean, var, True, 0.5, 1e-5, out=tuple(map(torch.empty, (0, 0, 0)))
        )
        return buffers(mean, var)

    with deferred_init():
        module = build()
    got, want = materialize(module), build()
    assert (got.b0.tolist(), got.b1.tolist()) == (want.b0.tolist(), want.b1.tolist())


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_result_conjugated_lazily_is_written(adjoint):
    def build():
        left = torch.complex(torch.eye(2) + 1, torch.arange(4.0).view(2, 2))
        lu, pivots = torch.linalg.lu_factor(left)
        out = torch.empty(0, dtype=left.dtype)
        torch.linalg.lu_solve(lu, pivots, left + 1j, left=False, adjoint=adjoint, out=out)
        return buffers(out.resolve_conj())

    with deferred_init():
        module = build()
    assert materialize(module).b0.tolist() == build().b0.tolist()
