"""What has no values in memory of its own makes no Tensor and no Parameter, and says so at once."""

from __future__ import annotations

import pytest
import torch

from tests.fake_mesh import mesh_of
from tests.fuzz.values import TENSORS
from tritonparam import Parameter, Tensor

REFUSED = {
    "meta": "strided tensor",
    "sparse": "strided tensor",
    "sparse csr": "strided tensor",
    "quantized": "strided tensor|the dtype of",
    "nested": "nested tensor",
    "jagged": "nested tensor",
    "uninitialized": "must have a shape",
    "fake": "strided tensor|stands for others",
}
MAKERS = {"input_data": Tensor, "default_input": Parameter, "data": Parameter([[0.0, 0.0, 0.0]] * 2).set_data}


@pytest.mark.parametrize("argument", MAKERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_without_values_is_refused_by_name(kind: str, argument: str) -> None:
    with pytest.raises((TypeError, ValueError), match=REFUSED[kind]) as caught:
        MAKERS[argument](TENSORS[kind]())
    assert argument in str(caught.value)


@pytest.mark.parametrize("argument", MAKERS)
def test_a_distributed_tensor_is_refused(argument: str) -> None:
    with mesh_of([2]) as mesh:
        whole = torch.distributed.tensor.distribute_tensor(torch.ones(2, 3), mesh)
        with pytest.raises(ValueError, match=f"{argument} must be a tensor with memory of its own, got DTensor"):
            MAKERS[argument](whole)


def test_a_negative_view_is_copied_as_it_reads() -> None:
    view = torch.tensor([1 + 2j]).conj().imag
    assert view.is_neg()
    for made in (Tensor(view), Parameter(view)):
        assert made.tolist() == [-2.0]
        assert not made.torch.is_neg()


def test_numbers_that_are_none_are_refused_by_name() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for data in ([[1], [2, 3]], deep):
        with pytest.raises(ValueError, match=r"^input_data must hold numbers, in lists of equal length, got "):
            Tensor(data)


def test_an_unsigned_number_of_64_bits_is_taken() -> None:
    assert Tensor([2**63]).tolist() == [2**63]
    assert str(Tensor(2**64 - 1).dtype) == "UInt64"
