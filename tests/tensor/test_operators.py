"""Operators, indices and torch functions of tensors do what torch's do, with every kind of operand."""

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tritonparam import Tensor

NAMES = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "gt", "ge", "eq", "ne"]
BINARY = [getattr(operator, name) for name in NAMES]


@pytest.mark.parametrize("function", BINARY, ids=lambda function: function.__name__)
def test_operators_are_those_of_torch_with_every_kind_of_operand_on_either_side(function):
    left, right = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 3.0])
    for other in (Tensor(right), right, right.numpy(), 2.5, 2, np.float64(2.5)):
        plain = torch.from_numpy(other) if isinstance(other, np.ndarray) else other
        plain = right if isinstance(other, Tensor) else float(plain) if isinstance(plain, np.generic) else plain
        got = function(Tensor(left), other)
        assert type(got) is Tensor
        assert torch.equal(got.torch, function(left, plain))
        assert got.torch.dtype is function(left, plain).dtype
        reflected = function(other, Tensor(left))
        assert type(reflected) is (torch.Tensor if other is right else Tensor)
        assert torch.equal(getattr(reflected, "torch", reflected), function(plain, left))


def test_matrix_product_and_unary_operators():
    a, b = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(3, 4)
    assert torch.equal((Tensor(a) @ Tensor(b)).torch, a @ b)
    assert torch.equal((Tensor(a) @ b.numpy()).torch, a @ b)
    assert torch.equal(a @ Tensor(b), a @ b)
    assert torch.equal(abs(-Tensor(a)).torch, a)
    assert torch.equal((+Tensor(a)).torch, a)
    assert (~Tensor([True, False])).asnumpy().tolist() == [False, True]


def test_promotion_is_that_of_torch():
    ints, floats = Tensor(np.array([1, 2], np.int32)), Tensor(np.ones((2,), np.float32))
    assert str((ints + Tensor(np.ones((2,)))).dtype) == "Float64"
    assert str((floats * 2).dtype) == str((floats + np.float64(0.1)).dtype) == "Float32"
    assert str((ints / ints).dtype) == "Float32"


def test_in_place_operator_rebinds_to_a_new_tensor():
    tensor = before = Tensor([1.0, 2.0])
    tensor += 1
    assert tensor is not before
    assert (tensor.torch.tolist(), before.torch.tolist()) == ([2, 3], [1, 2])


def test_other_operands_are_left_to_python():
    tensor = Tensor([1.0])
    np.testing.assert_array_equal(np.exp(tensor), np.exp([np.float32(1)]))
    with pytest.raises(TypeError, match="unsupported operand"):
        tensor + "1"
    assert (tensor == None) is False  # noqa: E711
    assert (tensor != "1") is True


def test_equality_is_elementwise_and_hash_by_identity():
    a, b = Tensor(1.0), Tensor(1.0)
    assert len({a, b, a}) == 2
    assert {a: 1}[a] == 1
    assert bool(a == b)


def test_one_element_has_a_truth_and_a_number():
    assert (float(Tensor(2.5)), int(Tensor([[3.7]])), bool(Tensor([0]))) == (2.5, 3, False)
    for shape in ((2,), (0,)):
        for function in (bool, int, float):
            with pytest.raises(ValueError, match="exactly one element"):
                function(Tensor(np.ones(shape)))


def test_index_copies_and_assignment_writes():
    tensor = Tensor([[1.0, 2.0], [3.0, 4.0]])
    row = tensor[0]
    row[0] = 9
    assert (row.torch.tolist(), tensor.torch.tolist()) == ([9, 2], [[1, 2], [3, 4]])
    tensor[tensor > 2] = np.float64(0.5)
    tensor[Tensor([0]), 1] = np.array([7.0])
    assert tensor.torch.tolist() == [[1, 7], [0.5, 0.5]]
    assert [row.torch.tolist() for row in tensor] == tensor.torch.tolist()


def test_torch_functions_take_tensors_and_give_torch_tensors():
    tensor, x = Tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    for got, want in [
        (F.linear(x, tensor), [[11]]),
        (x + tensor, [[4, 6]]),
        (torch.stack((tensor, x)), [[[1, 2]], [[3, 4]]]),
        (torch.add(input=tensor, other=x), [[4, 6]]),
        (torch.einsum("ij,ij->i", tensor, x), [11]),
    ]:
        assert type(got) is torch.Tensor
        assert got.tolist() == want


def test_gradients_flow_through_operators_indexing_and_torch_functions():
    source = torch.tensor([1.0, 2.0], requires_grad=True)
    tensor = Tensor(np.zeros(2, np.float32)) + source
    loss = ((tensor * 3)[1] + torch.exp(tensor)[0]) ** 2
    loss.torch.backward()
    e = np.exp(np.float32(1.0))
    np.testing.assert_allclose(source.grad.numpy(), [2 * (6 + e) * e, 2 * (6 + e) * 3], rtol=1e-6)
    assert "e+0" in repr(tensor)
